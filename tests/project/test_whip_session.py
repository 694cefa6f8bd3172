"""The publisher's WHIP session against a server in this process, and what it leaves behind."""

from collections.abc import AsyncIterator
from typing import Any

import aioice.ice
import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from sdstream.commands import publish, whip
from sdstream.commands.camera import CameraTrack, TestCard
from sdstream.commands.whip import WhipSession
from sdstream.errors import CommandFailed
from sdstream.frames import PictureSize

SIZE = PictureSize(64, 64)


class Server:
    """Answers offers with a peer of its own, or refuses them, and knows the clients that asked."""

    def __init__(self) -> None:
        self.refuses = False
        self.words: str | None = None
        """What it answers in place of SDP."""
        self.clients: list[httpx.AsyncClient] = []
        self.asked: list[tuple[str, str]] = []
        self.state_at_the_end = ""
        self.session: WhipSession | None = None
        self._peer: Any = RTCPeerConnection(RTCConfiguration(iceServers=[]))

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, request.headers["authorization"]))
        if request.method == "DELETE":
            assert self.session is not None
            self.state_at_the_end = self.session._peer.connectionState
        if request.method != "POST":
            return httpx.Response(204)
        if self.refuses:
            return httpx.Response(404, json={"message": "no such stream"})
        if self.words is not None:
            return httpx.Response(200, text=self.words)
        await self._peer.setRemoteDescription(RTCSessionDescription(request.content.decode(), "offer"))
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        return httpx.Response(201, text=self._peer.localDescription.sdp, headers={"location": "/sessions/1"})

    def open_session(self) -> WhipSession:
        self.session = WhipSession("http://media.example/whip", "sds_key", "vp8")
        return self.session

    async def close(self) -> None:
        await self._peer.close()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    made = Server()

    class Client(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, transport=httpx.MockTransport(made.answer))
            made.clients.append(self)

    monkeypatch.setattr(whip.httpx, "AsyncClient", Client)
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    yield made
    await made.close()


async def test_one_client_asks_for_all_and_ends_the_session_before_the_connection(server: Server) -> None:
    session = server.open_session()
    track = CameraTrack(TestCard(SIZE, 25), "vp8", 100_000)
    await session.open(track)
    await track.close()
    await session.close()
    assert server.asked == [(method, "Bearer sds_key") for method in ("OPTIONS", "POST", "DELETE")]
    assert server.state_at_the_end == "connected"
    assert [client.is_closed for client in server.clients] == [True]


async def test_a_refused_session_leaves_nothing_open(server: Server) -> None:
    server.refuses = True
    session = server.open_session()
    with pytest.raises(CommandFailed, match="404, no such stream"):
        await publish._publish(session, TestCard(SIZE, 25), SIZE, 100_000, {})
    assert [client.is_closed for client in server.clients] == [True]
    assert session._peer.connectionState == "closed"


@pytest.mark.parametrize("words", ["", "<html>Welcome</html>", "v=0\r\nm=video x\r\n"])
async def test_an_answer_that_is_no_sdp_is_told(words: str, server: Server) -> None:
    server.words = words
    session = server.open_session()
    with pytest.raises(CommandFailed, match="takes the offer and gives no WebRTC answer"):
        await publish._publish(session, TestCard(SIZE, 25), SIZE, 100_000, {})
    assert session._peer.connectionState == "closed"
