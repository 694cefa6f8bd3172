"""Publishing and watching without WebRTC: whole pictures over WebSockets, and motion JPEG.

For networks that let nothing through but HTTP. The URLs are capabilities, as those of WHIP and WHEP are.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from sdstream.api.answers import HEAD, error_answer
from sdstream.api.context import Context
from sdstream.api.sockets import until_one_ends
from sdstream.errors import RequestError, SessionNotFound
from sdstream.media.ports import PicturePublisher, PictureSession, PictureViewer, SessionEnd

SOCKETS = {
    "publish_pictures": "/live/video-to-video/{stream_key}/pictures",
    "watch_pictures": "/playback/{playback_id}/pictures",
}
"""The paths of WebSockets by name. No OpenAPI document can describe them; docs/api.md does."""
LARGEST_MESSAGE = 8 * 1024 * 1024
"""Bytes of a picture; a longer message ends its socket with code 1009."""
TAKEN = "taken"
"""What the server answers to each picture; what a viewer answers may be any text."""
CLOSE_CODES = {
    SessionEnd.CLOSED: (1001, "the stream or its session was ended"),
    SessionEnd.REPLACED: (4001, "another publisher took over"),
    SessionEnd.UNREADABLE: (1003, "these messages are no JPEG, PNG or WebP"),
    SessionEnd.FAILED: (1011, "the server made a mistake"),
}
"""The WebSocket's close code and reason for each end of a session by the server."""
BOUNDARY = b"picture"


Session = TypeVar("Session", bound=PictureSession)


class PictureRoutes:
    """Sockets of publishers and viewers."""

    def __init__(self, context: Context) -> None:
        self._streams = context.streams

    async def publish(self, socket: WebSocket) -> None:
        stream_key = socket.path_params["stream_key"]
        session = await _opened(socket, self._streams.publish_pictures(stream_key))
        if session is None:
            return
        try:
            await socket.accept()
            await _carry(socket, session, _receive_pictures(socket, session))
        finally:
            with contextlib.suppress(SessionNotFound):
                await self._streams.end_publish_session(stream_key, session.session_id)

    async def watch(self, socket: WebSocket) -> None:
        playback_id = socket.path_params["playback_id"]
        session = await _opened(socket, self._streams.watch_pictures(playback_id))
        if session is None:
            return
        try:
            await socket.accept()
            await _carry(socket, session, _send_pictures(socket, session), _receive_answers(socket, session))
        finally:
            await self._leave(playback_id, session)

    async def motion_jpeg(self, request: Request) -> Response:
        """The same pictures for whatever shows motion JPEG, such as an `<img>`; nothing is answered there."""
        playback_id = request.path_params["playback_id"]
        session = await self._streams.watch_pictures(playback_id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        media_type = f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}"
        if request.scope.get(HEAD):
            await self._leave(playback_id, session)
            return Response(media_type=media_type, headers=headers)
        return _ViewersResponse(
            _parts(session), lambda: self._leave(playback_id, session), media_type=media_type, headers=headers
        )

    async def _leave(self, playback_id: str, session: PictureSession) -> None:
        with contextlib.suppress(SessionNotFound):
            await self._streams.end_watch_session(playback_id, session.session_id)


class _ViewersResponse(StreamingResponse):
    """A stream after which a viewer leaves, also when its client went before the first byte."""

    def __init__(
        self,
        content: AsyncIterator[bytes],
        leave: Callable[[], Awaitable[None]],
        *,
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._leave()


async def _opened(socket: WebSocket, opening: Awaitable[Session]) -> Session | None:
    """The session; None when it may not be, which the client is told by an HTTP answer in place of the handshake."""
    try:
        return await opening
    except RequestError as error:
        await socket.send_denial_response(error_answer(error, socket.scope))
        return None


async def _carry(socket: WebSocket, session: PictureSession, *ways: Coroutine[Any, Any, None]) -> None:
    """Run `ways` until one of them ends because the client has gone, or the session ends, of which it is told."""
    await until_one_ends(session.ended(), *ways, expected=(SessionNotFound,))
    if session.end is not None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has gone at the same moment
            await socket.close(*CLOSE_CODES[session.end])


async def _receive_pictures(socket: WebSocket, session: PicturePublisher) -> None:
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        if data is not None:
            await session.put(data)
            await socket.send_text(TAKEN)


async def _send_pictures(socket: WebSocket, session: PictureViewer) -> None:
    while (data := await session.next()) is not None:
        await socket.send_bytes(data)
    await session.ended()


async def _receive_answers(socket: WebSocket, session: PictureViewer) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        session.taken()


async def _parts(session: PictureViewer) -> AsyncIterator[bytes]:
    yield b"--%s\r\n" % BOUNDARY
    while (data := await session.next()) is not None:
        # With the boundary that ends it: browsers show a picture only when they have seen that.
        head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
        yield head + data + b"\r\n--%s\r\n" % BOUNDARY
        session.taken()  # by the server's own buffers, which take no more when the line is behind


__all__ = ["CLOSE_CODES", "LARGEST_MESSAGE", "SOCKETS", "TAKEN", "PictureRoutes"]
