"""Outputs besides WHEP: HLS for players, recordings for their owners."""

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from sdstream.api.answers import json_answer
from sdstream.api.context import Context
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

    async def list_recordings(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        found = await self._streams.recordings.list(record.id)
        base = self._context.address(request).base
        return json_answer({"success": True, "data": [recording_object(recording, base) for recording in found]})

    async def get_recording(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        recording = await self._streams.recordings.find(record.id, request.path_params["name"])
        return FileResponse(recording.path, media_type="video/mp4", filename=recording.name)

    async def delete_recording(self, request: Request) -> Response:
        record = await self._context.owned(request, request.path_params["id"])
        await self._streams.recordings.delete(record.id, request.path_params["name"])
        return json_answer({"success": True, "data": {}})


__all__ = ["OutputRoutes"]
