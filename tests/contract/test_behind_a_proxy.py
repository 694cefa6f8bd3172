"""A server behind real proxies that end TLS, with the configuration of docs/proxy.md."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support import peers
from tests.support.certificates import CertificateFiles, write_certificate
from tests.support.goes import in_time
from tests.support.peers import Publisher, Viewer
from tests.support.picture_sockets import encoded, see, socket_url
from tests.support.ports import free_port
from tests.support.rest import SMALL
from tests.support.server import LiveServer
from tests.support.waiting import alongside, eventually, eventually_sync

Kind = Literal["caddy", "nginx"]
PAGE = Path(__file__).parents[2] / "docs/proxy.md"
NGINX = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    {server}
}}
"""
CADDY = """
{{
    admin off
    auto_https disable_redirects
    storage file_system {folder}
}}
{server}
"""


class Proxied:
    """A server and the address of the proxy in front of it."""

    def __init__(self, server: LiveServer, url: str, trust: ssl.SSLContext) -> None:
        self.server = server
        self.url = url
        self.trust = trust

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {self.server.key}"}, verify=self.trust, timeout=15
        )


def configuration(kind: Kind, folder: Path, port: int, upstream: int, files: CertificateFiles) -> str:
    """The snippet of the page with these ports and this certificate, within what it needs to run here."""
    (snippet,) = re.findall(rf"## {kind}\n.*?```\w+\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL | re.IGNORECASE)
    snippet = snippet.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    if kind == "nginx":
        for old, new in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/ssl/studio.pem", str(files.certificate)),
            ("/etc/ssl/studio.key", str(files.key)),
        ):
            assert old in snippet
            snippet = snippet.replace(old, new)
        user = "user root;" if os.geteuid() == 0 else ""  # else its workers cannot write to the test's folder
        return NGINX.format(folder=folder, server=snippet, user=user)
    assert "studio.example.org {" in snippet
    site = f"https://127.0.0.1:{port} {{\n    tls {files.certificate} {files.key}"
    return CADDY.format(folder=folder, server=snippet.replace("studio.example.org {", site))


@contextlib.contextmanager
def proxy(kind: Kind, folder: Path, port: int, upstream: int, files: CertificateFiles) -> Iterator[None]:
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    file = folder / "configuration"
    file.write_text(configuration(kind, folder, port, upstream, files), "utf-8")
    command = {
        "nginx": ["nginx", "-e", str(folder / "error.log"), "-c", str(file)],
        "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)],
    }[kind]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        eventually_sync(lambda: process.poll() is not None or answers(port), what="the proxy to listen")
        yield
        assert process.poll() is None, (folder / "output").read_text()
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=["caddy", "nginx"])
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp(request.param)
    files, port = write_certificate(folder), free_port()
    url = f"https://127.0.0.1:{port}"
    server = LiveServer(folder, public_url=url)
    with proxy(request.param, folder, port, server.port, files):
        server.start()
        yield Proxied(server, url, ssl.create_default_context(cafile=str(files.certificate)))
        server.stop()


@pytest.fixture
async def stream(proxied: Proxied) -> AsyncIterator[dict[str, str]]:
    """A stream made through the proxy."""
    async with proxied.client() as client:
        response = await client.post("/v1/streams", json={"pipeline": "streamdiffusion", "params": SMALL})
        assert response.status_code == 201, response.text
        yield response.json()
        await client.delete(f"/v1/streams/{response.json()['id']}")


@pytest.fixture(autouse=True)
def _trusting(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "NO_TLS", proxied.trust)


async def test_webrtc_is_signalled_through_it(proxied: Proxied, stream: dict[str, str]) -> None:
    assert stream["whip_url"].startswith(proxied.url + "/")
    async with Publisher(stream["whip_url"]) as publisher:
        assert publisher.whep_url.startswith(proxied.url + "/")
        assert publisher.session_url.startswith(proxied.url + "/")
        async with Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")
        assert (await publisher.delete()).status_code == 200


async def test_events_come_at_once(proxied: Proxied, stream: dict[str, str]) -> None:
    async with proxied.client() as client, client.stream("GET", f"/v1/streams/{stream['id']}/events") as response:
        assert response.status_code == 200
        lines = response.aiter_lines()
        async with proxied.client() as other:

            async def change(go: int) -> None:
                await other.patch(f"/v1/streams/{stream['id']}", json={"params": {"prompt": f"rain {go}"}})
                async for line in lines:
                    if line == "event: updated":
                        return

            await in_time(change, 2, "an event through the proxy")


async def test_whole_pictures_go_both_ways_through_it(proxied: Proxied, stream: dict[str, str]) -> None:
    def open_socket(url: str) -> connect:
        return connect(socket_url(url), max_size=None, compression=None, proxy=None, ssl=proxied.trust)

    async with open_socket(stream["whip_url"]) as camera, open_socket(stream["whep_url"]) as screen:

        async def send() -> None:
            for number in range(60_000):
                await camera.send(encoded(number))
                await camera.recv()

        async with alongside(send()):
            await eventually(lambda: _sees_a_card(screen), what="a card over the WebSocket")
            async with proxied.client() as client, client.stream("GET", _mjpeg(stream)) as response:
                assert response.status_code == 200
                parts = 0
                async with asyncio.timeout(60):
                    async for chunk in response.aiter_bytes():
                        parts += chunk.count(b"Content-Type: image/jpeg")
                        if parts > 10:
                            break


async def test_a_body_as_large_as_a_style_image_is_the_servers_to_judge(
    proxied: Proxied, stream: dict[str, str]
) -> None:
    async with proxied.client() as client:
        body = {"params": {"prompt": "x" * 11_500_000}}
        response = await client.patch(f"/v1/streams/{stream['id']}", json=body)
    assert response.headers["content-type"].startswith("application/json")
    assert set(response.json()) > {"success", "code"}, "the proxy's own page"


async def _sees_a_card(socket: ClientConnection) -> bool:
    return (await see(socket)).number() is not None


def _mjpeg(stream: dict[str, str]) -> str:
    return stream["whep_url"].rpartition("/")[0] + "/pictures.mjpeg"
