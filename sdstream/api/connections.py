"""What anybody may do to a connection before a request or a message is there: little, and not for long.

uvicorn's protocols with limits that they lack. httptools keeps the head of a request however long it is, and nobody
waits for a request's end for a limited time; a frame of a WebSocket costs the event loop the same whatever it holds.
"""

import asyncio
from enum import Enum
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

LONGEST_HEAD = 64 * 1024
"""Bytes of a request that come one after the other and are none of its body: its head, or what follows a chunked body.
Most servers take 8 to 32 kB."""
MOST_PIPELINED = 16
"""Requests of a connection that wait for the answer to one before. Each takes kilobytes, and 20 bytes of the client."""
HEAD_SECONDS = 30.0
"""From the start of a connection, or the first byte of a further request, to the end of the head."""
SILENT_SECONDS = 30.0
"""Between two pieces of a body that is waited for."""
SLICE = 16 * 1024
"""Bytes of a WebSocket that are read before its frames are counted."""
MOST_FRAMES = 128
"""In a slice. A viewer answers a few pictures at a time, and a picture is cut into larger pieces."""
MOST_UNREAD = 8 * 1024 * 1024
"""Bytes that wait for a client which asks by pings for more; a picture that was just sent may be among them."""
TOO_LONG = b"The head of this request is too long."


class _Part(Enum):
    NONE = 0
    """A request is whole, and its answer under way or sent."""
    HEAD = 1
    BODY = 2


class RequestProtocol(HttpToolsProtocol):
    """HTTP requests whose head has an end, and whose sender goes on sending."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._part = _Part.HEAD
        self._since = self.loop.time()
        """When the head began, or the last piece of the body came."""
        self._bodiless = 0
        """Bytes since the last of a body, or since the request began."""
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        # Which tells the newest request alone, though that may wait still, and another be the one that is answered.
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def handle_websocket_upgrade(self) -> None:
        self._part = _Part.NONE
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        if self._part is _Part.NONE:  # the first byte of a further request, or a stray line break
            self._begin(_Part.HEAD)
        elif self._part is _Part.BODY:
            self._since = self.loop.time()
        self._bodiless += len(data)
        super().data_received(data)
        if self._bodiless > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse()
        elif self._part is not _Part.NONE and self._timer is None and not self.transport.is_closing():
            self._wait(HEAD_SECONDS)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests at a time")  # what is no HTTP is answered with 400, and so is this
        self._begin(_Part.HEAD)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._begin(_Part.BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bodiless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._part, self._bodiless = _Part.NONE, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _begin(self, part: _Part) -> None:
        self._part, self._since = part, self.loop.time()
        if part is _Part.HEAD:
            self._bodiless = 0

    @property
    def _is_answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete  # None before the first request

    def _refuse(self) -> None:
        if self._part is _Part.HEAD and not self._is_answering:
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
            length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(TOO_LONG)
            self.transport.write(head + length + TOO_LONG)
        self.transport.close()

    def _wait(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._look)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._part is _Part.NONE or self.transport.is_closing():
            return
        # While an answer is sent, or the application takes nothing, the client may well wait.
        its_turn = self.flow.read_paused or (self._part is _Part.HEAD and self._is_answering)
        limit = HEAD_SECONDS if self._part is _Part.HEAD else SILENT_SECONDS
        left = limit if its_turn else self._since + limit - self.loop.time()
        if left > 0:
            self._wait(left)
        else:
            self.transport.close()


class SocketProtocol(WebSocketsSansIOProtocol):
    """WebSockets whose clients send messages, not frames for their own sake; without the error that uvicorn logs for
    each WebSocket that is refused with an answer."""

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), SLICE):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + SLICE])

    def handle_events(self) -> None:
        if len(self.conn.events) > MOST_FRAMES:
            self.transport.abort()
        else:
            super().handle_events()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MOST_UNREAD:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True


__all__ = [
    "HEAD_SECONDS",
    "LONGEST_HEAD",
    "MOST_FRAMES",
    "MOST_PIPELINED",
    "MOST_UNREAD",
    "SILENT_SECONDS",
    "SLICE",
    "RequestProtocol",
    "SocketProtocol",
]
