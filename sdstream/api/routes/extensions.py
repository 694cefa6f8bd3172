"""What sdstream offers beyond Daydream: snapshot, tap, events, parameters, capacity, keys."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sdstream.api.answers import HEAD, encode_json, json_answer
from sdstream.api.context import Context
from sdstream.api.rendering import event_object
from sdstream.errors import BadRequest, ConfigurationError, NotFound, Unavailable
from sdstream.params import IMAGE_PROCESSORS, parameter_catalogue, processor_catalogue
from sdstream.streams.views import StreamEvent

HEARTBEAT_SECONDS = 10.0
"""Well below the 100 s after which RunPod's and other proxies give up on a silent answer."""
RETRY_MILLISECONDS = 2000

logger = structlog.get_logger(__name__)


class ExtensionRoutes:
    """Endpoints that Daydream does not have; `/v1/api-key` it has, but only its plugins' login uses it."""

    def __init__(self, context: Context, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._context = context
        self._streams = context.streams
        self._heartbeat = heartbeat_seconds
        self._snapshots: dict[tuple[str, str | None], asyncio.Future[bytes]] = {}
        catalogue = {"success": True, "data": parameter_catalogue(), "processors": processor_catalogue()}
        self._catalogue = encode_json(catalogue)

    async def snapshot(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        picture = await self._shared_snapshot(record.id)
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def tap(self, request: Request) -> Response:
        """What an image processor made last: a control picture, for one."""
        record = await self._context.owned(request, request.path_params["id"])
        processor = request.path_params["processor"]
        if processor not in IMAGE_PROCESSORS:
            raise NotFound(f"There is no image processor {processor[:64]!r}.")
        picture = await self._shared_snapshot(record.id, processor)
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def _shared_snapshot(self, stream_id: str, processor: str | None = None) -> bytes:
        """One picture is encoded once, however many ask for it at the same time."""
        key = stream_id, processor
        encoding = self._snapshots.get(key)
        if encoding is None:
            encoding = asyncio.ensure_future(self._streams.snapshot(stream_id, processor))
            self._snapshots[key] = encoding
            encoding.add_done_callback(lambda done: self._forget_snapshot(key, done))
        return await asyncio.shield(encoding)  # who leaves must not take the picture from the others

    def _forget_snapshot(self, key: tuple[str, str | None], done: asyncio.Future[bytes]) -> None:
        self._snapshots.pop(key, None)
        if not done.cancelled():
            done.exception()  # looked at, so that nobody complains when all who asked have left

    async def events(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        after = _last_event_id(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.scope.get(HEAD):
            return Response(media_type="text/event-stream", headers=headers)
        lines = self.lines(self._streams.events(record.id, after=after))
        return StreamingResponse(lines, media_type="text/event-stream", headers=headers)

    async def lines(self, events: AsyncIterator[StreamEvent]) -> AsyncIterator[bytes]:
        """`text/event-stream` for as long as there are events, with a comment in every silence."""
        iterator = aiter(events)
        coming: asyncio.Task[StreamEvent] | None = None
        yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(_next(iterator))
                done, _ = await asyncio.wait((coming,), timeout=self._heartbeat)
                if not done:
                    yield b": still here\n\n"
                    continue
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    return
                finally:
                    coming = None
                yield event_lines(event)
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait((coming,))
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    async def parameters(self, request: Request) -> Response:
        return Response(self._catalogue, media_type="application/json")

    async def capacity(self, request: Request) -> Response:
        await self._context.caller(request)
        return json_answer({"success": True, "data": asdict(self._streams.capacity())})

    async def create_key(self, request: Request) -> Response:
        """E10: a further key of the same author, as the plugins' login asks for."""
        context = self._context
        if not context.settings.api_key_endpoint:
            raise NotFound("this server gives no keys", hint="SDSTREAM_API_KEY_ENDPOINT=true offers this endpoint.")
        caller = await context.caller(request)
        context.create_limit.take(caller.key_id)
        body = await context.read_object(request)
        name = body.get("name")
        if name is None:
            name = "unnamed"
        if not isinstance(name, str):
            raise BadRequest(
                "name must be a string",
                details=[{"field": "name", "problem": "not a string", "suggestion": None}],
            )
        try:  # in a thread, because it waits for the disk
            key = await asyncio.to_thread(context.keys.create, name, author=caller.author, operator=False)
        except ConfigurationError as error:  # its text names a file of the server, which is for the log
            logger.warning("a key is not stored", problem=error.message, hint=error.hint)
            raise Unavailable("The key cannot be stored.") from error
        return json_answer({"apiKey": key}, 201)


async def _next(iterator: AsyncIterator[StreamEvent]) -> StreamEvent:
    return await anext(iterator)


def event_lines(event: StreamEvent) -> bytes:
    """One event as the `text/event-stream` format has it."""
    head = f"id: {event.sequence}\nevent: {event.name}\ndata: ".encode()
    return head + encode_json(event_object(event)) + b"\n\n"


def _last_event_id(request: Request) -> int | None:
    """The sequence that the client saw last; None for a client that has seen nothing, or sends what we never sent."""
    given = request.headers.get("last-event-id", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None


__all__ = ["HEARTBEAT_SECONDS", "ExtensionRoutes", "event_lines"]
