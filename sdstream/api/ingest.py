"""Where a stream is published to and watched by RTMP, RTSP and SRT, as the caller would reach it."""

from dataclasses import dataclass
from typing import Any

from sdstream.reachability import Place
from sdstream.settings import Settings, is_loopback
from sdstream.streams.views import StreamRecord


@dataclass(frozen=True, slots=True)
class DirectWay:
    """A port that takes `protocol`; `address` is how callers reach it, None where nothing leads there."""

    protocol: str
    port: int
    address: tuple[str, int] | None


def direct_ways(settings: Settings, host: str, place: Place | None) -> tuple[DirectWay, ...]:
    """The ports that are set, for a caller that knows this server as `host`.

    RunPod's proxy, by whose name callers come there, passes HTTP alone: another address and number lead to a TCP port,
    and none to SRT's, which is UDP. Who calls from inside the container needs neither.
    """
    if settings.media_backend != "mediamtx":
        return ()
    ports = (
        ("rtmp", settings.mediamtx_rtmp_port),
        ("rtsp", settings.mediamtx_rtsp_port),
        ("srt", settings.mediamtx_srt_port),
    )
    mapped = place if place is not None and not (is_loopback(host) or place.is_private_name(host)) else None
    found: list[DirectWay] = []
    for protocol, port in ports:
        if port is None:
            continue
        address: tuple[str, int] | None = host, port
        if mapped is not None:
            address = None if protocol == "srt" else mapped.tcp_address(port)
        found.append(DirectWay(protocol, port, address))
    return tuple(found)


def ingest_object(record: StreamRecord, settings: Settings, host: str, place: Place | None = None) -> dict[str, Any]:
    """The addresses for a caller that knows this server as `host`; empty lists where no port takes such protocols."""
    publish: list[dict[str, str | None]] = []
    watch: list[dict[str, str | None]] = []
    for way in direct_ways(settings, host, place):
        if way.address is not None:
            name, port = way.address
            base = f"{way.protocol}://{f'[{name}]' if ':' in name else name}:{port}"
            publish.append(_address(way.protocol, base, "in", record.stream_key, "publish"))
            watch.append(_address(way.protocol, base, "out", record.output_playback_id, "read"))
    return {"publish": publish, "watch": watch}


def _address(protocol: str, base: str, folder: str, key: str, action: str) -> dict[str, str | None]:
    if protocol == "srt":
        url = f"{base}?streamid={action}:{folder}/{key}&pkt_size=1316"
        return {"protocol": protocol, "url": url, "server": None, "key": None}
    apart = (f"{base}/{folder}", key) if protocol == "rtmp" else (None, None)
    return {"protocol": protocol, "url": f"{base}/{folder}/{key}", "server": apart[0], "key": apart[1]}


__all__ = ["DirectWay", "direct_ways", "ingest_object"]
