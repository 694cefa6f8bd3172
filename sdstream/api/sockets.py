"""What all WebSockets of the server have in common."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from sdstream.api.answers import error_answer
from sdstream.errors import NotFound


async def until_one_ends(*ways: Coroutine[Any, Any, None], expected: tuple[type[Exception], ...] = ()) -> None:
    """Run what goes on over a WebSocket side by side until a part of it ends, which ends the others.

    Raises what a part raised, unless it is one of `expected`, or that the client has gone.
    """
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, (WebSocketDisconnect, *expected)):
            raise outcome


async def refuse_socket(socket: WebSocket) -> None:
    """What is asked for at a path that has no WebSocket; the framework would say that it is forbidden."""
    await socket.send_denial_response(error_answer(NotFound("no WebSocket is at this path"), socket.scope))


__all__ = ["refuse_socket", "until_one_ends"]
