"""Where a stream is published to and watched by RTMP, RTSP and SRT, as the caller would reach it."""

from typing import Any

from sdstream.settings import Settings
from sdstream.streams.views import StreamRecord


def ingest_object(record: StreamRecord, settings: Settings, host: str) -> dict[str, Any]:
    """The addresses for a caller that knows this server as `host`; empty lists where no port takes such protocols."""
    publish: list[dict[str, str | None]] = []
    watch: list[dict[str, str | None]] = []
    if settings.media_backend == "mediamtx":
        place = f"[{host}]" if ":" in host else host
        for protocol, port in (
            ("rtmp", settings.mediamtx_rtmp_port),
            ("rtsp", settings.mediamtx_rtsp_port),
            ("srt", settings.mediamtx_srt_port),
        ):
            if port is not None:
                base = f"{protocol}://{place}:{port}"
                publish.append(_address(protocol, base, "in", record.stream_key, "publish"))
                watch.append(_address(protocol, base, "out", record.output_playback_id, "read"))
    return {"publish": publish, "watch": watch}


def _address(protocol: str, base: str, folder: str, key: str, action: str) -> dict[str, str | None]:
    if protocol == "srt":
        url = f"{base}?streamid={action}:{folder}/{key}&pkt_size=1316"
        return {"protocol": protocol, "url": url, "server": None, "key": None}
    apart = (f"{base}/{folder}", key) if protocol == "rtmp" else (None, None)
    return {"protocol": protocol, "url": f"{base}/{folder}/{key}", "server": apart[0], "key": apart[1]}


__all__ = ["ingest_object"]
