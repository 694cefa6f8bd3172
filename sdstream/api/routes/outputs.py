"""Outputs besides WHEP: HLS for players, recordings for their owners."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sdstream.api.answers import HEAD, json_answer
from sdstream.api.context import Context
from sdstream.api.downloads import FileDownload, answerable_ranges
from sdstream.api.ingest import ingest_object
from sdstream.api.rendering import recording_object


class OutputRoutes:
    """HLS URLs are capabilities and need no key; recordings need that of the stream's owner."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._streams = context.streams

    async def hls(self, request: Request) -> Response:
        path = request.path_params
        file = await self._streams.hls_file(path["playback_id"], path["name"])
        # A segment never changes; a playlist does with every segment.
        caching = "no-cache" if file.changes else "public, max-age=60, immutable"
        return Response(file.data, media_type=file.content_type, headers={"Cache-Control": caching})

    async def ingest(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        context = self._context
        data = ingest_object(record, context.settings, context.address(request).name, context.place)
        return json_answer({"success": True, "data": data})

    async def list_recordings(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        found = await self._streams.recordings.list(record.id)
        base = self._context.address(request).base
        return json_answer({"success": True, "data": [recording_object(recording, base) for recording in found]})

    async def get_recording(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        shelf = self._streams.recordings
        recording = await shelf.find(record.id, request.path_params["name"])
        if recording.path is not None and not await asyncio.to_thread(recording.path.exists):
            # Between the look and now it was removed, or moved into the bucket.
            recording = await shelf.find(record.id, recording.name)
        is_head = bool(request.scope.get(HEAD))
        ranges = None if is_head else answerable_ranges(request.headers, recording.byte_count)
        if recording.path is not None:
            return FileDownload(recording.path, ranges, "video/mp4")
        if is_head:
            return Response(media_type="video/mp4", headers=_headers(recording.name, recording.byte_count))
        download = await shelf.download(recording, ranges)
        headers = _headers(recording.name, download.byte_count)
        if download.content_range is not None:
            headers["Content-Range"] = download.content_range
        status = 200 if download.content_range is None else 206
        return StreamingResponse(download.chunks, status, headers, "video/mp4")

    async def delete_recording(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        await self._streams.recordings.delete(record.id, request.path_params["name"])
        return json_answer({"success": True, "data": {}})


def _headers(name: str, byte_count: int) -> dict[str, str]:
    return {
        "Content-Length": str(byte_count),
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{name}"',
    }


__all__ = ["OutputRoutes"]
