"""A stock aiortc server that sends each publisher's pictures back: what one writes with the library as it comes.

Decode and encode are aiortc's, one encoder per viewer; nothing of the library is changed but the address it listens on.
Prints its URL; `POST /NAME/whip` publishes, `POST /NAME/whep` watches.
"""

import asyncio

import aioice.ice
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaRelay


def loopback(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return ["127.0.0.1"]


class EchoServer:
    """Names and their tracks."""

    def __init__(self) -> None:
        self.connections: set[RTCPeerConnection] = set()
        self.tracks: dict[str, MediaStreamTrack] = {}
        self.relay = MediaRelay()

    async def whip(self, request: web.Request) -> web.Response:
        connection = self.connect()
        name = request.match_info["name"]

        @connection.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            if track.kind == "video":
                self.tracks[name] = track

        return await self.answer(connection, request)

    async def whep(self, request: web.Request) -> web.Response:
        connection = self.connect()
        connection.addTrack(self.relay.subscribe(self.tracks[request.match_info["name"]]))
        return await self.answer(connection, request)

    def connect(self) -> RTCPeerConnection:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connections.add(connection)

        @connection.on("connectionstatechange")
        def on_state() -> None:
            if connection.connectionState in ("closed", "failed"):
                self.connections.discard(connection)

        return connection

    @staticmethod
    async def answer(connection: RTCPeerConnection, request: web.Request) -> web.Response:
        await connection.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        return web.Response(status=201, text=connection.localDescription.sdp, content_type="application/sdp")


async def main() -> None:
    aioice.ice.get_host_addresses = loopback
    echo = EchoServer()
    application = web.Application()
    application.add_routes([web.post("/{name}/whip", echo.whip), web.post("/{name}/whep", echo.whep)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"echo is listening on http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
