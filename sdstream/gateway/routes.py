"""Daydream's operations at the gateway: each call is checked here and carried out by the worker that has the stream."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response

from sdstream.api.answers import HEAD, json_answer
from sdstream.api.app import Endpoint
from sdstream.api.bodies import read_bytes
from sdstream.api.context import LOCAL_CALLER, Caller, Context
from sdstream.api.rendering import planned_object, shorten_data_uris
from sdstream.api.routes.streams import flag_of
from sdstream.errors import BadRequest, Forbidden, RequestError
from sdstream.gateway.answers import HANDED_BACK, headers_for_owner, long_response, whole_response
from sdstream.gateway.fleet import Fleet
from sdstream.job_errors import DirectoryUnavailable, OwnerUnreachable
from sdstream.jobs.calls import OwnerCall
from sdstream.jobs.directory import SessionEntry
from sdstream.params import ModelTable, parse_create, wire_params
from sdstream.streams.names import new_record

logger = structlog.get_logger(__name__)

CALLS_AT_ONCE = 16


class GatewayRoutes:
    """The endpoints about streams, under the operation ids of `sdstream.api`."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        self._context = context
        self._fleet = fleet
        self._models = ModelTable.from_settings(context.settings)

    def endpoints(self) -> Mapping[str, Endpoint]:
        """What replaces the endpoints of a server that has streams of its own."""
        return {
            "create_stream": self.create,
            "list_streams": self.list,
            "get_stream": self.pass_on,
            "update_stream": self.pass_on,
            "update_prompts": self.pass_on,
            "get_snapshot": self.pass_on,
            "get_tap": self.pass_on,
            "get_stream_status": self.status,
            "follow_events": self.events,
            "delete_stream": self.delete_by_query,
            "delete_stream_by_path": self.delete_by_path,
            "publish": self.signal_publisher,
            "end_publish_session": self.signal_publisher,
            "trickle_publish": self.signal_publisher,
            "watch": self.signal_viewer,
            "end_watch_session": self.signal_viewer,
            "trickle_watch": self.signal_viewer,
            "watch_hls": self.signal_viewer,
            "watch_motion_jpeg": self.motion_jpeg,
            "get_ingest": self.pass_on,
            "list_recordings": self.recordings,
            "get_recording": self.recording,
            "delete_recording": self.pass_on,
        }

    async def create(self, request: Request) -> Response:
        """A `start` job; answered when a worker has the stream. A dry run is answered here."""
        context = self._context
        caller = await context.caller(request)
        dry_run = flag_of(request, "dry_run")
        context.create_limit.take(caller.key_id)
        body = await context.read_object(request)
        settings = context.settings
        wanted = parse_create(body, self._models, settings.size_policy, allow_private=settings.output_allow_private)
        playground = request.headers.get("x-client-source") == "playground"
        if dry_run:
            record = new_record(wanted, caller.author, datetime.now(UTC), from_playground=playground)
            return json_answer(planned_object(record, context.address(request), wanted.warnings))
        members: dict[str, Any] = {"pipeline": "streamdiffusion", "params": wire_params(wanted.params)}
        if wanted.name is not None:
            members["name"] = wanted.name
        delivery = wanted.delivery
        if delivery.output_rtmp_url is not None:
            members["output_rtmp_url"] = delivery.output_rtmp_url
        if delivery.outputs:
            members["outputs"] = list(delivery.outputs)
        if delivery.recording:
            members["recording"] = delivery.wire_recording
        entry = await self._fleet.begin(members, caller.author, from_playground=playground)
        if wanted.warnings:
            logger.info("parameters ignored or changed", stream_id=entry.session_id, warnings=list(wanted.warnings))
        try:
            stream = (await self._fleet.call(entry, self._read(entry, caller))).json()
        except BaseException:  # whatever it was, it goes on: who asked gets no id, and could never end the stream
            await self._fleet.abandon(entry)
            raise
        return json_answer(stream | {"warnings": list(wanted.warnings)}, 201)

    async def list(self, request: Request) -> Response:
        """All streams that the caller may see, each as its worker tells it; one that does not answer is left out."""
        caller = await self._context.caller(request)
        owner = request.query_params.get("user_id") or None
        entries = await self._fleet.directory.entries()
        self._fleet.sessions = len(entries)
        shown = [
            entry
            for entry in entries
            if owner in (None, entry.author) and (caller.operator or entry.author == caller.author)
        ]
        places = asyncio.Semaphore(CALLS_AT_ONCE)

        async def read(entry: SessionEntry) -> dict[str, Any] | None:
            async with places:
                try:
                    stream = _stream_of((await self._fleet.call(entry, self._read(entry, caller))).json())
                except DirectoryUnavailable:
                    raise
                except RequestError as error:  # it is just ending, or its worker is not well: the others are
                    logger.info("stream left out of the list", stream_id=entry.session_id, problem=error.message)
                    return None
            return stream | {"params": shorten_data_uris(stream["params"])}

        found = [stream for stream in await asyncio.gather(*map(read, shown)) if stream is not None]
        found.sort(key=lambda stream: (stream["created_at"], stream["id"]), reverse=True)
        return json_answer({"success": True, "data": found})

    async def pass_on(self, request: Request) -> Response:
        """Whatever is about one stream and has a short answer."""
        caller = await self._context.caller(request)
        entry = await self._owned(caller, request.path_params["id"])
        return await self._relay(request, entry, caller)

    async def status(self, request: Request) -> Response:
        if self._context.settings.anonymous_status:
            entry = await self._fleet.find(request.path_params["id"])
            return await self._relay(request, entry, LOCAL_CALLER)
        return await self.pass_on(request)

    async def events(self, request: Request) -> Response:
        caller = await self._context.caller(request)
        entry = await self._owned(caller, request.path_params["id"])
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.scope.get(HEAD):
            return Response(media_type="text/event-stream", headers=headers)
        answer = await self._fleet.follow(entry, f"/v1/streams/{entry.session_id}/events", headers_for_owner(request))
        return await long_response(request, answer, live=True)

    async def recordings(self, request: Request) -> Response:
        """The list, whose URLs lead here: a worker knows no key of the gateway's."""
        caller = await self._context.caller(request)
        entry = await self._owned(caller, request.path_params["id"])
        return await self._relay(request, entry, caller, base=self._context.address(request).base)

    async def recording(self, request: Request) -> Response:
        """The file of a recording, or a range of it, as it comes from its worker."""
        caller = await self._context.caller(request)
        entry = await self._owned(caller, request.path_params["id"])
        headers = headers_for_owner(request)
        if request.scope.get(HEAD):
            headers.pop("range", None)  # which has a meaning for a GET alone, as the worker is sent
        answer = await self._fleet.follow(entry, request.scope["path"], headers)
        # With its length, so that a client sees when a worker broke off.
        return await long_response(request, answer, HANDED_BACK | {"content-length"})

    async def motion_jpeg(self, request: Request) -> Response:
        """Whole pictures, one after another, as they come from the worker."""
        entry = await self._fleet.find_by_token(request.path_params["playback_id"])
        answer = await self._fleet.follow(entry, request.scope["path"], headers_for_owner(request))
        return await long_response(request, answer, live=True)

    async def delete_by_query(self, request: Request) -> Response:
        caller = await self._context.caller(request)
        stream_id = request.query_params.get("id")
        if not stream_id:
            raise BadRequest(
                "the query parameter `id` says which stream to delete; it is missing",
                details=[{"field": "id", "problem": "missing", "suggestion": "DELETE /v1/streams?id=ID"}],
            )
        return await self._delete(caller, stream_id)

    async def delete_by_path(self, request: Request) -> Response:
        return await self._delete(await self._context.caller(request), request.path_params["id"])

    async def _delete(self, caller: Caller, stream_id: str) -> Response:
        entry = await self._owned(caller, stream_id)
        call = OwnerCall(
            method="DELETE",
            path=f"/v1/streams/{entry.session_id}",
            author=caller.author,
            key_id=caller.key_id,
            operator=caller.operator,
        )
        try:
            (await self._fleet.call(entry, call)).json()
        except OwnerUnreachable:
            await self._fleet.end(entry)
        return json_answer({"success": True, "data": {}})

    async def signal_publisher(self, request: Request) -> Response:
        """WHIP through the gateway: for pages that may not call a worker's plain http address."""
        return await self._signal(request, request.path_params["stream_key"])

    async def signal_viewer(self, request: Request) -> Response:
        """WHEP through the gateway."""
        return await self._signal(request, request.path_params["playback_id"])

    async def _signal(self, request: Request, token: str) -> Response:
        entry = await self._fleet.find_by_token(token)
        return await self._relay(request, entry, LOCAL_CALLER, base=self._context.address(request).base)

    async def _owned(self, caller: Caller, stream_id: str) -> SessionEntry:
        entry = await self._fleet.find(stream_id)
        if not caller.operator and entry.author != caller.author:
            raise Forbidden("this stream was made with another key")
        return entry

    async def _relay(
        self, request: Request, entry: SessionEntry, caller: Caller, *, base: str | None = None
    ) -> Response:
        """Have the owner answer this very request."""
        call = OwnerCall(
            method=request.scope["method"],
            path=request.scope["path"],
            query=request.url.query,
            headers=headers_for_owner(request),
            body=await read_bytes(request, self._context.settings.max_body_bytes),
            author=caller.author,
            key_id=caller.key_id,
            operator=caller.operator,
            base=base,
        )
        return whole_response(await self._fleet.call(entry, call))

    def _read(self, entry: SessionEntry, caller: Caller) -> OwnerCall:
        return OwnerCall(
            method="GET",
            path=f"/v1/streams/{entry.session_id}",
            author=caller.author,
            operator=caller.operator,
            uses=False,
        )


def _stream_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, if it is a stream with what a list needs of it. Raises `OwnerUnreachable`."""
    if not isinstance(answer.get("params"), dict) or not all(
        isinstance(answer.get(name), str) for name in ("id", "created_at")
    ):
        raise OwnerUnreachable("what has this session answers with what is no stream: it is no worker")
    return answer


__all__ = ["GatewayRoutes"]
