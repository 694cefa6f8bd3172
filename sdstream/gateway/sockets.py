"""WebSockets of whole pictures at the gateway: what a client and a worker say to one another is handed on."""

import contextlib
from collections.abc import Mapping

from starlette.websockets import WebSocket

from sdstream.api.answers import error_answer
from sdstream.api.app import Socket
from sdstream.api.sockets import until_one_ends
from sdstream.errors import RequestError
from sdstream.gateway.answers import headers_for_owner, whole_response
from sdstream.gateway.fleet import Fleet
from sdstream.gateway.lines import LEFT, Line


class GatewaySockets:
    """The WebSockets under the names of `sdstream.api.routes.pictures.SOCKETS`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> Mapping[str, Socket]:
        """What stands in the place of those of a server that has streams of its own."""
        return {"publish_pictures": self.publish, "watch_pictures": self.watch}

    async def publish(self, socket: WebSocket) -> None:
        await self._hand_on(socket, socket.path_params["stream_key"])

    async def watch(self, socket: WebSocket) -> None:
        await self._hand_on(socket, socket.path_params["playback_id"])

    async def _hand_on(self, socket: WebSocket, token: str) -> None:
        line = await self._opened(socket, token)
        if line is None:
            return
        try:
            await socket.accept()
            await until_one_ends(_from_client(socket, line), _from_worker(socket, line))
        finally:
            await line.close(*LEFT)  # unless it is closed already

    async def _opened(self, socket: WebSocket, token: str) -> Line | None:
        """The line to the worker; None when there is none, which the client is told in place of the handshake."""
        try:
            entry = await self._fleet.find_by_token(token)
            line = await self._fleet.connect(entry, socket.scope["path"], headers_for_owner(socket))
            if isinstance(line, Line):
                return line
            refusal = whole_response(line)
        except RequestError as error:
            refusal = error_answer(error, socket.scope)
        await socket.send_denial_response(refusal)
        return None


async def _from_client(socket: WebSocket, line: Line) -> None:
    """Hand on what the client says until it closes, of which the worker is told."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        await line.send(message["text"] if data is None else data)
    await line.close(message["code"], message.get("reason") or "")


async def _from_worker(socket: WebSocket, line: Line) -> None:
    """Hand on what the worker says until it closes, of which the client is told."""
    async with contextlib.aclosing(line.messages()) as messages:
        async for message in messages:
            if isinstance(message, str):
                await socket.send_text(message)
            else:
                await socket.send_bytes(message)
    with contextlib.suppress(RuntimeError):  # the client has gone at the same moment
        await socket.close(*line.ending)


__all__ = ["GatewaySockets"]
