"""The publisher's end of a WebSocket of whole pictures, for networks in which no WebRTC gets through."""

import asyncio
from urllib.parse import urlsplit, urlunsplit

from aiortc.mediastreams import MediaStreamError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from sdstream.clock import SystemClock
from sdstream.commands.camera import CameraTrack, Codec
from sdstream.commands.whip import CONNECT_SECONDS, GOODBYE_SECONDS, Sent, refusal_in
from sdstream.errors import CommandFailed


class PictureSession:
    """One such WebSocket. To be closed, whether `open` succeeded or not."""

    codec: Codec = "jpeg"
    playback_url: str | None = None
    """Nothing tells it here."""

    def __init__(self, url: str, key: str | None) -> None:
        """`url` is the WHIP URL, beside which the WebSocket is."""
        self.url = socket_url(url)
        self.ending = ""
        """The server's words for the end, if it had any."""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._clock = SystemClock()
        self._socket: ClientConnection | None = None
        self._sending: asyncio.Task[None] | None = None
        self._bytes = self._pictures = 0
        self._round_trip: float | None = None

    async def open(self, track: CameraTrack) -> None:
        """Connect, and send the pictures of `track` from now on. Raises `CommandFailed` with the server's words."""
        try:
            self._socket = await connect(
                self.url,
                additional_headers=self._headers,
                compression=None,  # pictures are compressed already
                open_timeout=CONNECT_SECONDS,
                close_timeout=GOODBYE_SECONDS,
            )
        except InvalidStatus as refusal:
            answer = refusal.response
            words = refusal_in(bytes(answer.body)) or answer.reason_phrase
            raise CommandFailed(f"the server refused the stream: {answer.status_code}, {words}") from None
        except (OSError, WebSocketException, ValueError) as error:
            raise CommandFailed(
                f"no answer from {self.url}: {error or type(error).__name__}", hint="Is `sdstream serve` running there?"
            ) from None
        self._sending = asyncio.ensure_future(self._send(self._socket, track))

    async def wait_ended(self) -> None:
        """Return when the other side has closed, the connection was lost, or the track has ended."""
        if self._sending is not None:
            await asyncio.wait((self._sending,))

    async def sent(self) -> Sent:
        """What was sent so far; a packet is a picture, and none is lost."""
        return Sent(self._bytes, self._pictures, 0, self._round_trip)

    async def close(self) -> None:
        """Close the WebSocket, which ends the session."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait((self._sending,))
        if self._socket is not None:
            await self._socket.close()

    async def _send(self, socket: ClientConnection, track: CameraTrack) -> None:
        """Each picture when the one before is answered for: those that are too late meanwhile the track leaves out."""
        try:
            while True:
                data = bytes(await track.recv())
                began = self._clock.monotonic()
                await socket.send(data)
                self._bytes += len(data)
                self._pictures += 1
                await socket.recv()
                self._round_trip = self._clock.monotonic() - began
        except MediaStreamError:
            return
        except ConnectionClosed:
            self.ending = socket.close_reason or ""


def socket_url(url: str) -> str:
    """The WebSocket for whole pictures beside a WHIP URL."""
    parts = urlsplit(url)  # which makes the scheme small
    return urlunsplit(("ws" + parts.scheme.removeprefix("http"), parts.netloc, _beside(parts.path), parts.query, ""))


def _beside(path: str) -> str:
    return path.rpartition("/")[0] + "/pictures"


__all__ = ["PictureSession", "socket_url"]
