"""Daydream's stream operations, E1 to E6 and E11 of the contract."""

from collections import OrderedDict
from typing import Any, cast

import structlog
from starlette.requests import Request
from starlette.responses import Response

from sdstream.api.addresses import PublicAddress
from sdstream.api.answers import json_answer
from sdstream.api.context import Context
from sdstream.api.params_cache import ParamsCache
from sdstream.api.rendering import planned_object, status_object, stream_object
from sdstream.errors import BadRequest
from sdstream.params import STYLE_IMAGE
from sdstream.streams.views import StreamRecord

MOST_NOTED = 1024
"""Streams whose last warnings are remembered, so that they are logged once."""
FLAGS = {"true": True, "1": True, "": True, "false": False, "0": False}

logger = structlog.get_logger(__name__)


class StreamRoutes:
    """Create, list, read, update, delete, status."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._streams = context.streams
        self._params = ParamsCache()
        self._noted: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    async def create(self, request: Request) -> Response:
        context = self._context
        caller = await context.caller(request)
        dry_run = flag_of(request, "dry_run")
        context.create_limit.take(caller.key_id)
        body = await context.read_object(request)
        from_playground = request.headers.get("x-client-source") == "playground"
        created = await self._streams.create(body, caller.author, from_playground=from_playground, dry_run=dry_run)
        if dry_run:
            return json_answer(planned_object(created.record, context.address(request), created.warnings))
        self._note(created.record.id, created.warnings)
        return json_answer(self._stream(created.record, context.address(request), created.warnings), 201)

    async def list(self, request: Request) -> Response:
        context = self._context
        caller = await context.caller(request)
        owner = request.query_params.get("user_id") or None
        records = self._streams.list_streams(owner if caller.operator else caller.author)
        address = context.address(request)
        data = [
            self._stream(record, address, shorten=True) for record in records if owner is None or record.author == owner
        ]
        return json_answer({"success": True, "data": data})

    async def read(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        return json_answer(self._stream(record, self._context.address(request)))

    async def update(self, request: Request) -> Response:
        context = self._context
        record = await context.owned(request, request.path_params["id"])
        dry_run = flag_of(request, "dry_run")
        context.update_limit.take(record.id)
        outcome = await self._streams.update(record.id, await context.read_object(request), dry_run=dry_run)
        self._note(record.id, outcome.warnings)
        # Megabytes that the caller did not send are not sent back with each move of a slider.
        shorten = STYLE_IMAGE not in outcome.changed
        answer = self._stream(outcome.record, context.address(request), outcome.warnings, shorten=shorten)
        answer |= {"applied": outcome.applied.value, "changed": list(outcome.changed), "dry_run": dry_run}
        return json_answer(answer)

    async def delete_by_query(self, request: Request) -> Response:
        await self._context.caller(request)
        stream_id = request.query_params.get("id")
        if not stream_id:
            raise BadRequest(
                "the query parameter `id` says which stream to delete; it is missing",
                details=[{"field": "id", "problem": "missing", "suggestion": "DELETE /v1/streams?id=ID"}],
            )
        return await self._delete(request, stream_id)

    async def delete_by_path(self, request: Request) -> Response:
        return await self._delete(request, request.path_params["id"])

    async def _delete(self, request: Request, stream_id: str) -> Response:
        record = await self._context.owned(request, stream_id)
        if flag_of(request, "dry_run"):  # who asks for one does not want to lose a stream
            raise BadRequest(
                "deleting has no dry run; nothing was deleted",
                details=[{"field": "dry_run", "problem": "not known to DELETE", "suggestion": "leave it out"}],
            )
        await self._streams.delete(record.id)
        return json_answer({"success": True, "data": {}})

    def _stream(
        self, record: StreamRecord, address: PublicAddress, warnings: tuple[str, ...] = (), *, shorten: bool = False
    ) -> dict[str, Any]:
        state = self._streams.state(record.id)
        return stream_object(record, address, state, self._params.encoded(record, shorten=shorten), warnings)

    def _note(self, stream_id: str, warnings: tuple[str, ...]) -> None:
        """Log what a request got warnings for; not again for the next one like it, which may come in a tenth second."""
        if not warnings or self._noted.get(stream_id) == warnings:
            return
        self._noted[stream_id] = warnings
        self._noted.move_to_end(stream_id)
        if len(self._noted) > MOST_NOTED:
            self._noted.popitem(last=False)
        logger.info("parameters ignored or changed", stream_id=stream_id, warnings=list(warnings))

    async def status(self, request: Request) -> Response:
        context = self._context
        stream_id = request.path_params["id"]
        if context.settings.anonymous_status:  # ids are unguessable, and the Chrome extension sends no key
            record = self._streams.get(stream_id)
        else:
            record = await context.owned(request, stream_id)
        data = status_object(record, self._streams.status(record.id), context.address(request))
        return json_answer({"success": True, "error": None, "data": data})

    async def update_by_old_path(self, request: Request) -> Response:
        """E11, deprecated: the same merge as PATCH, answered in the old shape."""
        context = self._context
        record = await context.owned(request, request.path_params["id"])
        dry_run = flag_of(request, "dry_run")
        context.update_limit.take(record.id)
        body = await context.read_object(request)
        outcome = await self._streams.update(record.id, _modern_update(body), dry_run=dry_run)
        self._note(record.id, outcome.warnings)
        answer: dict[str, Any] = {
            "success": True,
            "message": f"parameters {outcome.applied.value}",
            "was_censored": False,
            "warnings": list(outcome.warnings),
        }
        return json_answer(answer)


def _modern_update(body: dict[str, Any]) -> dict[str, Any]:
    """`{pipeline?, model_id?, params}` of the beta endpoint as a PATCH body; a `model_id` in `params` wins."""
    params: Any = body.get("params")
    model_id = body.get("model_id")
    if isinstance(params, dict) and model_id is not None:
        params = {"model_id": model_id, **cast("dict[str, Any]", params)}
    return {name: value for name, value in body.items() if name not in ("params", "model_id")} | {"params": params}


def flag_of(request: Request, name: str) -> bool:
    """Whether the query says so; False where it does not name it. Raises `BadRequest` for what is no boolean."""
    given = request.query_params.get(name)
    if given is None:
        return False
    try:
        return FLAGS[given.lower()]
    except KeyError:
        raise BadRequest(
            f"{name} must be true or false",
            details=[{"field": name, "problem": f"{given[:40]!r} is neither true nor false", "suggestion": "true"}],
        ) from None


__all__ = ["StreamRoutes", "flag_of"]
