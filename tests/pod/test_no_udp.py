"""A pod that lets no UDP in: WebRTC through one TCP port, both ways, at full rate."""

import asyncio
import json
import math
import time
from pathlib import Path

import aioice.ice
import httpx
import pytest
from aiortc import RTCIceServer

from sdstream.clock import SystemClock
from sdstream.media.turn.coturn import Coturn
from tests.pod.conftest import HTTP, TURN, PodServer
from tests.project.commands import environment, sdstream
from tests.support.goes import best_below
from tests.support.ice import read_links
from tests.support.offers import unchanged
from tests.support.peers import Publisher, Viewer
from tests.support.pod import Pod
from tests.support.ports import free_port
from tests.support.rest import SMALL, Rest
from tests.support.server import LiveServer
from tests.support.waiting import eventually

SECONDS = 4.0

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def outer_address(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients have the address from which UDP would reach the pod, were it let through."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [pod.outside])


async def servers_of(url: str) -> list[RTCIceServer]:
    async with httpx.AsyncClient(timeout=30) as http:
        return read_links((await http.options(url)).headers.get_list("link"))


@pytest.mark.alone
async def test_pictures_flow_both_ways_through_one_tcp_port(pod: Pod, pod_server: LiveServer, artifacts: Path) -> None:
    async with Rest(pod_server) as rest:
        stream = await rest.create({**SMALL, "width": 512, "height": 512})
        assert stream["whip_url"].startswith(f"http://{pod.address}:{pod.ports[HTTP]}/")
        servers = await servers_of(stream["whip_url"])
        assert [server.urls for server in servers] == [f"turn:{pod.address}:{pod.ports[TURN]}?transport=tcp"]
        publisher = Publisher(stream["whip_url"], width=512, height=512, fps=30, edit=unchanged, ice_servers=servers)
        async with publisher:
            assert publisher.response is not None
            assert read_links(publisher.response.headers.get_list("link"))
            await publisher.wait_connected()
            viewer = Viewer(publisher.whep_url, edit=unchanged, ice_servers=await servers_of(publisher.whep_url))
            async with viewer:
                await viewer.wait_kind("card")

                async def look(go: int) -> float:
                    """The longest gap in seconds, infinite where pictures were few."""
                    since, count, sent = time.monotonic(), viewer.count, publisher.track.sent
                    await asyncio.sleep(SECONDS)  # the measurement itself, not a wait for luck
                    seconds = time.monotonic() - since
                    rate, given = (viewer.count - count) / seconds, (publisher.track.sent - sent) / seconds
                    gap = viewer.longest_gap(since)
                    report = {"sent": given, "seen": rate, "longest_gap_seconds": gap, "seconds": seconds}
                    (artifacts / "no_udp.json").write_text(json.dumps(report, indent=2))
                    return gap if rate > 5 else math.inf

                await best_below(look, 2, "the longest time without a picture, infinite below five a second")


async def test_a_turn_server_elsewhere_carries_a_client_that_has_none(pod: Pod, tmp_path: Path) -> None:
    """The pod takes a relay of its own by TCP, and the client sends to that: `turn-external`."""
    port = free_port("0.0.0.0")
    turn = Coturn("turnserver", port, pod.outside, 600, SystemClock())
    await turn.start()
    try:
        given = turn.servers(f"{pod.outside}:{port}")
        server = PodServer(
            tmp_path,
            pod,
            HTTP + 1,
            webrtc_ice_servers=given.urls[0],
            turn_username=given.username,
            turn_credential=given.credential,
        )
        await asyncio.to_thread(server.start)
        try:
            assert any("turn-external (RunPod lets no UDP in" in line for line in server.lines)
            async with Rest(server) as rest:
                stream = await rest.create(SMALL)
                async with Publisher(stream["whip_url"], edit=unchanged) as publisher:
                    assert f" {pod.outside} " in publisher.answer
                    await publisher.wait_connected()
                    async with Viewer(publisher.whep_url, edit=unchanged) as viewer:
                        await viewer.wait_kind("card")
                assert (given.credential or "?") not in server.log_tail()
        finally:
            await asyncio.to_thread(server.stop)
    finally:
        await turn.close()


async def test_the_test_camera_takes_the_turn_server_that_it_is_told(
    pod: Pod, pod_server: LiveServer, tmp_path: Path
) -> None:
    async with Rest(pod_server) as rest:
        url = (await rest.create(SMALL))["whip_url"]
        command = ("publish", "testsrc", "--url", url, "--duration", "2", "--fps", "10", "--report", "json")
        done = await asyncio.to_thread(sdstream, *command, environment=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["packets"] >= 20


async def test_without_turn_nothing_gets_through(pod: Pod, pod_server: LiveServer) -> None:
    async with Rest(pod_server) as rest:
        stream = await rest.create(SMALL)
        before = pod.dropped()
        async with Publisher(stream["whip_url"], edit=unchanged) as publisher:
            await eventually(lambda: pod.dropped() > before + 5, what="packets of ICE being dropped")
            assert publisher.state != "connected"


async def test_a_turn_password_opens_no_way_to_others(pod: Pod, pod_server: LiveServer) -> None:
    async with Rest(pod_server) as rest:
        (server,) = await servers_of((await rest.create(SMALL))["whip_url"])
    refused = asyncio.Event()

    class Client(asyncio.DatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            assert "403" in str(exc)
            refused.set()

    transport, _ = await aioice.ice.turn.create_turn_endpoint(
        Client, (pod.address, pod.ports[TURN]), server.username, server.credential, transport="tcp"
    )
    try:
        for other in ("127.0.0.1", pod.outside, "169.254.169.254", "192.0.2.1"):
            refused.clear()
            transport.sendto(b"hello", (other, 9))
            await asyncio.wait_for(refused.wait(), 30)
    finally:
        transport.close()
        await asyncio.sleep(0)


async def test_who_does_not_know_a_stream_gets_no_turn_password(pod_server: LiveServer) -> None:
    assert await servers_of(f"{pod_server.url}/live/video-to-video/stk_guessed/whip") == []
