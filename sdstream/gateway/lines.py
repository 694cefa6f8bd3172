"""WebSockets to workers."""

import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping
from functools import cache

import httpx
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import EXTERNAL_CLOSE_CODES, CloseCode

from sdstream.api.routes.pictures import LARGEST_MESSAGE
from sdstream.job_errors import OwnerAsleep, OwnerUnreachable
from sdstream.jobs.calls import OwnerAnswer

CLOSE_SECONDS = 2.0
"""How long a worker may take to answer a close."""
NO_WAY = (OSError, WebSocketException, ValueError)
"""What `websockets` raises for an address at which nobody speaks it, or that is none."""
BROKEN_OFF = (int(CloseCode.INTERNAL_ERROR), "the worker broke off")
"""The code and the reason that a client is told whose worker has gone without a word."""
LEFT = (int(CloseCode.GOING_AWAY), "the client has gone")
SHUT_DOWN = (int(CloseCode.GOING_AWAY), "the gateway shuts down")

logger = structlog.get_logger(__name__)


class Line:
    """A WebSocket to a worker, on which messages go both ways one at a time, each when the one before has gone."""

    def __init__(self, connection: ClientConnection, session_id: str) -> None:
        self._connection = connection
        self._session_id = session_id

    async def send(self, message: bytes | str) -> None:
        """Dropped once the worker has closed, of which `messages` tells."""
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(message)

    async def messages(self) -> AsyncGenerator[bytes | str]:
        """The worker's messages until it closes, or `close` is called."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                yield await self._connection.recv()

    @property
    def ending(self) -> tuple[int, str]:
        """The code and the reason for which the worker has closed, as a client may be told them."""
        code, reason = self._connection.close_code, self._connection.close_reason or ""
        if code == CloseCode.NO_STATUS_RCVD:
            return CloseCode.NORMAL_CLOSURE, reason
        if code is None or not _is_code_to_send(code):
            logger.info("worker broke off a WebSocket", session_id=self._session_id)
            return BROKEN_OFF
        return code, reason

    async def close(self, code: int, reason: str = "") -> None:
        """Tell the worker that the client has closed. Idempotent."""
        if code == CloseCode.NO_STATUS_RCVD:
            code = CloseCode.NORMAL_CLOSURE
        await self._connection.close(code if _is_code_to_send(code) else CloseCode.GOING_AWAY, reason)


class _Connect(connect):
    """Follows no redirect: a worker's address is the directory's affair, not the worker's."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_line(url: str, headers: Mapping[str, str], session_id: str, seconds: float) -> Line | OwnerAnswer:
    """A WebSocket to the worker at `url`, an http or https one, within `seconds`; its answer where it refuses.

    Raises `OwnerUnreachable`, of which `OwnerAsleep` where something takes the connection and no handshake comes.
    """
    try:
        return Line(
            await _Connect(
                "ws" + url.removeprefix("http"),
                additional_headers=headers,
                compression=None,  # pictures are compressed already
                max_size=LARGEST_MESSAGE,
                max_queue=1,
                open_timeout=seconds,
                close_timeout=CLOSE_SECONDS,
                proxy=None,
                ssl=_tls() if url.startswith("https:") else None,
            ),
            session_id,
        )
    except InvalidStatus as refusal:
        answer = refusal.response
        if answer.status_code < 400:
            raise OwnerUnreachable(f"what has this session answers a WebSocket with {answer.status_code}") from refusal
        return OwnerAnswer(status=answer.status_code, headers=list(answer.headers.raw_items()), body=bytes(answer.body))
    except TimeoutError as error:
        raise OwnerAsleep(f"the control URL of the worker opened no WebSocket within {seconds:g} s") from error
    except NO_WAY as error:
        raise OwnerUnreachable("the control URL of the worker cannot be reached from here") from error


@cache
def _tls() -> ssl.SSLContext:
    """The authorities that calls of workers trust."""
    return httpx.create_ssl_context(trust_env=False)


def _is_code_to_send(code: int) -> bool:
    return code in EXTERNAL_CLOSE_CODES or 3000 <= code < 5000


__all__ = ["BROKEN_OFF", "LEFT", "SHUT_DOWN", "Line", "open_line"]
