"""The operations of outputs besides WHEP: HLS and recordings."""

from sdstream.api import schemas
from sdstream.api.operation import Answer, Operation
from sdstream.api.output_schemas import IngestAnswer, RecordingList

_BINARY = {"type": "string", "format": "binary"}

OUTPUT_OPERATIONS: dict[str, Operation] = {
    "watch_hls": Operation(
        "GET",
        "/hls/{playback_id}/{name}",
        "Extensions",
        "Watch by HLS",
        "Players are given `index.m3u8`, which names all else: fragmented MP4, about a second each, H.264 and AAC. It "
        "is made from the first request on, which waits for the first segment, and until some seconds after the last. "
        "The URL is a capability, as WHEP's is.",
        {200: Answer("A playlist, head or segment", None, "application/vnd.apple.mpegurl", _BINARY)},
        (404, 503),
        key=False,
        extension=True,
    ),
    "watch_motion_jpeg": Operation(
        "GET",
        "/playback/{playback_id}/pictures.mjpeg",
        "Extensions",
        "Watch as motion JPEG",
        "One JPEG after the other, without end and without sound, for an `<img>` and whatever else shows motion JPEG; "
        "404 until somebody publishes. The URL is a capability, as WHEP's is.",
        {200: Answer("Pictures without end", None, "multipart/x-mixed-replace", _BINARY)},
        (404, 429, 503),
        key=False,
        extension=True,
    ),
    "get_ingest": Operation(
        "GET",
        "/v1/streams/{id}/ingest",
        "Extensions",
        "Addresses for RTMP, RTSP and SRT",
        "Where this stream is published to and watched besides WHIP and WHEP; empty under the embedded media back "
        "end. The addresses are capabilities: who knows one may publish, or watch.",
        {200: Answer("The addresses", IngestAnswer)},
        (401, 403, 404),
        extension=True,
    ),
    "list_recordings": Operation(
        "GET",
        "/v1/streams/{id}/recordings",
        "Extensions",
        "List recordings",
        "Oldest first. One that is being written is not `finished`.",
        {200: Answer("The recordings", RecordingList)},
        (401, 403, 404, 503),
        extension=True,
    ),
    "get_recording": Operation(
        "GET",
        "/v1/streams/{id}/recordings/{name}",
        "Extensions",
        "Download a recording",
        "MP4; ranges are answered, with 416 where the file has nothing of them. 409 while it is being written.",
        {200: Answer("The file", None, "video/mp4", _BINARY), 206: Answer("A range of it", None, "video/mp4", _BINARY)},
        (401, 403, 404, 409, 416, 503),
        extension=True,
    ),
    "delete_recording": Operation(
        "DELETE",
        "/v1/streams/{id}/recordings/{name}",
        "Extensions",
        "Delete a recording",
        "409 while it is being written.",
        {200: Answer("Deleted", schemas.Deleted)},
        (401, 403, 404, 409, 503),
        extension=True,
    ),
}

__all__ = ["OUTPUT_OPERATIONS"]
