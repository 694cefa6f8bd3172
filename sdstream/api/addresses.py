"""The URLs that answers carry: absolute, and right as the client sees this server."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import Scope

from sdstream.reachability import Place
from sdstream.settings import Settings, is_loopback
from sdstream.streams.views import StreamRecord

# A Host header goes into URLs and is echoed by JSON and headers, so only what can be a host and a port is believed.
HOST_PATTERN = re.compile(r"(?:[A-Za-z0-9_.~-]{1,253}|\[[0-9A-Fa-f:.%]{2,60}\])(?::[0-9]{1,5})?")

BASE = "sdstream.base"
"""The scope member that holds the base URL of a request which another process of ours has taken and passed on."""


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """How one client reaches this server; `base` has no slash at its end, `host` includes a port that matters."""

    base: str
    host: str

    @property
    def name(self) -> str:
        """The host without a port, and an IPv6 address without brackets."""
        return urlsplit(f"//{self.host}").hostname or self.host

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
    """Derives the public address of a request from the settings, its headers, and on RunPod from its variables.

    `public_url` comes first. Then the name by which the client came, if it is one by which others can come, too: with
    the scheme of RunPod's proxy, whose last stretch is plain HTTP. A name that nobody outside knows, such as the
    container's own address, gives way to RunPod's.
    """

    def __init__(self, settings: Settings, place: Place | None = None) -> None:
        self._place = place
        self._bases = place.bases(settings.port) if place is not None else {}
        self._trusted = settings.trust_proxy_headers
        self._fixed = _address(settings.public_url) if settings.public_url else None
        self.prefix = urlsplit(settings.public_url).path if settings.public_url else ""
        """The path of `public_url`; a proxy may pass it on or strip it."""
        self._fallback = f"{settings.host}:{settings.port}"

    def of(self, scope: Scope) -> PublicAddress:
        """The address that the sender of this request sees."""
        base: str | None = scope.get(BASE)
        if base is not None:
            return _address(base)
        if self._fixed is not None:
            return self._fixed
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        given = _header(headers, b"x-forwarded-host") if self._trusted else ""
        if self._bases and not given:
            known = self._known(_header(headers, b"host"))
            if known is not None:
                return known
        scheme: str = scope.get("scheme", "http")
        host = _header(headers, b"host")
        if self._trusted:
            forwarded = _header(headers, b"x-forwarded-proto").lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
            host = _header(headers, b"x-forwarded-host") or host
        if not _is_host(host):
            host = _listening_host(scope) or self._fallback
        return PublicAddress(f"{scheme}://{host}", host)

    def _known(self, host: str) -> PublicAddress | None:
        """The address on RunPod for a `Host` header; None when the header is good as it is."""
        lower = host.lower()
        for name, base in self._bases.items():
            if lower == name.lower():
                return _address(base)
        assert self._place is not None
        if _is_host(host) and (is_loopback(urlsplit(f"//{host}").hostname or "") or self._place.is_private_name(host)):
            return None
        return _address(next(iter(self._bases.values())))


def _is_host(text: str) -> bool:
    """Whether it can be a host and a port, also to whoever takes a URL with it apart: brackets hold an IPv6 address."""
    if not HOST_PATTERN.fullmatch(text):
        return False
    try:
        urlsplit(f"//{text}")
    except ValueError:
        return False
    return True


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


__all__ = ["BASE", "HOST_PATTERN", "AddressBook", "PublicAddress"]
