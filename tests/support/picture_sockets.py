"""Publishers and viewers of whole pictures over WebSockets, by the `websockets` library."""

import asyncio
import contextlib
import io
from urllib.parse import urlsplit

import av
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.pictures import Picture, TestCard


def socket_url(signalling_url: str) -> str:
    """The WebSocket beside a WHIP or WHEP URL."""
    parts = urlsplit(signalling_url)
    scheme = {"http": "ws", "https": "wss"}[parts.scheme]
    return parts._replace(scheme=scheme, path=parts.path.rpartition("/")[0] + "/pictures").geturl()


def open_socket(signalling_url: str) -> connect:
    """To be entered: the socket beside a WHIP or WHEP URL. Pictures may be large."""
    return connect(socket_url(signalling_url), max_size=None, compression=None, proxy=None)


def encoded(number: int, size: tuple[int, int] = (384, 384), form: str = "JPEG") -> bytes:
    """A test card as JPEG, PNG or WEBP."""
    file = io.BytesIO()
    image = TestCard(*size).draw(number).to_ndarray(format="rgb24")
    Image.fromarray(image).save(file, form)
    return file.getvalue()


def decoded(data: bytes) -> Picture:
    """The picture of a JPEG."""
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.load()
    return Picture(av.VideoFrame.from_image(image))


async def see(socket: ClientConnection) -> Picture:
    """The next picture of a viewer's socket, which is answered for."""
    data = await socket.recv(decode=False)
    await socket.send("taken")
    return decoded(data)


async def close_of(socket: ClientConnection, seconds: float = 30) -> tuple[int, str]:
    """Wait for the server to close the socket; its code and reason."""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


__all__ = ["close_of", "decoded", "encoded", "open_socket", "see", "socket_url"]
