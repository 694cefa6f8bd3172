"""ICE servers out of `Link` headers, as a client reads them."""

import re
from collections.abc import Iterable

from aiortc import RTCIceServer

LINK = re.compile(r'<(?P<url>[^>]+)>\s*;\s*rel="ice-server"(?P<rest>(?:;[^,"]*"(?:[^"\\]|\\.)*")*)')
PARAMETER = re.compile(r'([a-z-]+)="((?:[^"\\]|\\.)*)"')


def read_links(headers: Iterable[str]) -> list[RTCIceServer]:
    """One server for each link of each header."""
    found: list[RTCIceServer] = []
    for match in (match for header in headers for match in LINK.finditer(header)):
        members = {name: re.sub(r"\\(.)", r"\1", value) for name, value in PARAMETER.findall(match["rest"])}
        found.append(RTCIceServer(match["url"], members.get("username"), members.get("credential")))
    return found


__all__ = ["read_links"]
