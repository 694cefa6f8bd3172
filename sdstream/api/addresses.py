"""The URLs that answers carry: absolute, and right as the client sees this server."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import Scope

from sdstream.settings import Settings
from sdstream.streams.views import StreamRecord

# A Host header goes into URLs and is echoed by JSON and headers, so only what can be a host and a port is believed.
HOST_PATTERN = re.compile(r"(?:[A-Za-z0-9_.~-]{1,253}|\[[0-9A-Fa-f:.%]{2,60}\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """How one client reaches this server; `base` has no slash at its end, `host` includes a port that matters."""

    base: str
    host: str

    def whip_url(self, record: StreamRecord) -> str:
        """Where this stream's publisher posts its offer."""
        return f"{self.base}/live/video-to-video/{record.stream_key}/whip"

    def whep_url(self, record: StreamRecord) -> str:
        """Where viewers post their offers; the same for the whole life of the stream."""
        return f"{self.base}/playback/{record.output_playback_id}/whep"

    def hls_url(self, record: StreamRecord) -> str:
        """What HLS players are given; the same for the whole life of the stream."""
        return f"{self.base}/hls/{record.output_playback_id}/index.m3u8"


class AddressBook:
    """Derives the public address of a request from the settings and its headers."""

    def __init__(self, settings: Settings) -> None:
        self._trusted = settings.trust_proxy_headers
        self._fixed = _address(settings.public_url) if settings.public_url else None
        self.prefix = urlsplit(settings.public_url).path if settings.public_url else ""
        """The path of `public_url`; a proxy may pass it on or strip it."""
        self._fallback = f"{settings.host}:{settings.port}"

    def of(self, scope: Scope) -> PublicAddress:
        """The address that the sender of this request sees."""
        if self._fixed is not None:
            return self._fixed
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        scheme: str = scope.get("scheme", "http")
        host = _header(headers, b"host")
        if self._trusted:
            forwarded = _header(headers, b"x-forwarded-proto").lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
            host = _header(headers, b"x-forwarded-host") or host
        if not HOST_PATTERN.fullmatch(host):
            host = _listening_host(scope) or self._fallback
        return PublicAddress(f"{scheme}://{host}", host)


def _address(url: str) -> PublicAddress:
    return PublicAddress(url.rstrip("/"), urlsplit(url).netloc.rpartition("@")[2])


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    """The first value of a header; of a list of proxies, the one nearest to the client."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1").partition(",")[0].strip()
    return ""


def _listening_host(scope: Scope) -> str:
    server: tuple[str, int | None] | None = scope.get("server")
    if server is None or server[1] is None:
        return ""
    host = f"[{server[0]}]" if ":" in server[0] else server[0]
    return f"{host}:{server[1]}"


__all__ = ["HOST_PATTERN", "AddressBook", "PublicAddress"]
