"""Fetches what users point to: from public addresses only, with limits on size, time and redirects.

A server that fetches for others can be sent after its own network. So the name is resolved here, every address it has
must be public, and the connection goes to the address that was checked, with the name only in `Host` and in TLS. Each
redirect is checked the same way. Proxies of the environment are not used: they would resolve the name again. Nothing is
unpacked: the limit on size is one on what comes.
"""

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import BinaryIO
from urllib.parse import urljoin

import httpx

from sdstream.clock import Clock, SystemClock
from sdstream.pace import LEAST_BYTES, STALL_SECONDS, Pace

MAX_BYTES = 10 * 1024 * 1024
MAX_SECONDS = 5.0
MAX_REDIRECTS = 3
MAX_SILENCE = 15.0
"""Seconds between two pieces of an answer."""

LOOK_UPS_AT_ONCE = 4

_REDIRECTS = {301, 302, 303, 307, 308}
_ABSENT = {404, 410}
_PASSING = {408, 425, 429}
"""Answers that another try may mend."""
_PACKINGS = {"gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd"}
"""Other words there, such as S3's `aws-chunked`, say nothing of the bytes that come."""
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_UNCHECKED = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
"""IPv4-compatible addresses, and those that a network translates in ways of its own."""


Tell = Callable[[int, int | None], None]
"""Told how many bytes have come, and of how many where the server says so; what it raises ends the fetching."""


class FetchProblem(Exception):
    """Why something could not be fetched, in a sentence part for a person: `has no public address`."""


class FetchNotFound(FetchProblem):
    """The server has nothing at this address."""


class FetchBrokenOff(FetchProblem):
    """The way broke, or the server has a bad moment: another try may bring what is missing."""


@dataclass(slots=True)
class Transfer:
    """What is known of a file that comes in several tries."""

    validator: str = ""
    """What the server calls the bytes that have come (a strong ETag, else the time of their change); empty when it
    gave them no name, and they are no use for another try."""
    sha256: str = ""
    """The hash of the whole, in hexadecimal, where the server told it."""


class PublicFetcher:
    """Fetches over http and https. `is_allowed` decides on addresses; tests let loopback pass."""

    def __init__(
        self,
        is_allowed: Callable[[str], bool] | None = None,
        seconds: float = MAX_SECONDS,
        schemes: Sequence[str] = ("http", "https"),
        clock: Clock | None = None,
    ) -> None:
        self._schemes = tuple(schemes)
        self._is_allowed = is_allowed or is_public
        self._seconds = seconds
        self._clock = clock or SystemClock()
        # Threads of their own: a look-up cannot be ended, and one that hangs must not hold up the work of others.
        self._look_ups = ThreadPoolExecutor(LOOK_UPS_AT_ONCE, thread_name_prefix="look-up")

    def close(self) -> None:
        """Look nothing up any more."""
        self._look_ups.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str, media_type: str = "image/") -> bytes:
        """The body of `url`, whose `Content-Type` must start with `media_type`. Raises `FetchProblem`."""
        body = bytearray()

        def take(chunk: bytes, total: int | None) -> None:
            body.extend(chunk)

        await self._fetch(url, media_type, MAX_BYTES, take)
        return bytes(body)

    async def download(self, url: str, file: BinaryIO, max_bytes: int, tell: Tell) -> None:
        """Write the body of `url`, of any type, into `file`. Raises `FetchProblem`, or what `tell` raises."""
        written = 0

        def take(chunk: bytes, total: int | None) -> None:
            nonlocal written
            file.write(chunk)
            written += len(chunk)
            tell(written, total)

        await self._fetch(url, "", max_bytes, take)

    async def go_on(self, url: str, file: BinaryIO, max_bytes: int, tell: Tell, transfer: Transfer) -> None:
        """Bring `file`, open for appending, to hold the whole body of `url`, of any type: what is there is kept if the
        server still has the same bytes. `transfer` belongs to that and is brought up to date.

        Raises `FetchProblem`, `FetchBrokenOff` where another try may help, or what `tell` raises.
        """

        told = ""

        def begin(response: httpx.Response) -> int:
            nonlocal told
            told = _told_hash(response.headers) or told
            if response.status_code in _REDIRECTS:
                return 0
            resumed = response.status_code == 206 and _range_start(response.headers) == file.seek(0, 2)
            if not resumed:
                file.truncate(0)
                transfer.validator = transfer.sha256 = ""
            if response.status_code != 200 and not resumed:
                raise FetchBrokenOff("is given from another place than was asked for")
            transfer.validator = _validator(response.headers) or transfer.validator
            transfer.sha256 = told or transfer.sha256
            return file.seek(0, 2)

        def take(chunk: bytes, total: int | None) -> None:
            file.write(chunk)
            tell(file.tell(), total)

        start = file.seek(0, 2) if transfer.validator else 0
        headers = {"Range": f"bytes={start}-", "If-Range": transfer.validator} if start else {}
        await self._fetch(url, "", max_bytes, take, headers, begin)

    async def _fetch(
        self,
        url: str,
        media_type: str,
        max_bytes: int,
        take: Callable[[bytes, int | None], None],
        headers: Mapping[str, str] | None = None,
        begin: Callable[[httpx.Response], int] = lambda response: 0,
    ) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                silence = min(self._seconds, MAX_SILENCE)
                async with httpx.AsyncClient(trust_env=False, timeout=silence, verify=_authorities()) as client:
                    await self._follow(client, url, media_type, max_bytes, take, headers or {}, begin)
        except TimeoutError:
            raise FetchProblem(f"gave no answer within {self._seconds:g} s") from None
        except httpx.HTTPError as error:
            raise FetchBrokenOff(f"cannot be fetched: {error or type(error).__name__}") from error

    async def _follow(
        self,
        client: httpx.AsyncClient,
        url: str,
        media_type: str,
        max_bytes: int,
        take: Callable[[bytes, int | None], None],
        headers: Mapping[str, str],
        begin: Callable[[httpx.Response], int],
    ) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._prepare(client, url, media_type, headers)
            try:
                response = await client.send(request, stream=True)
            except (httpx.InvalidURL, UnicodeError):  # httpx reads where a redirect leads, though it does not follow it
                raise FetchProblem("redirects to what is no URL") from None
            try:
                if response.status_code not in _REDIRECTS:
                    return await _read(response, media_type, max_bytes, take, begin, self._clock)
                begin(response)
                url = _redirected(url, response.headers.get("Location", ""))
            finally:
                await response.aclose()
        raise FetchProblem(f"redirects more than {MAX_REDIRECTS} times")

    async def _prepare(
        self, client: httpx.AsyncClient, url: str, media_type: str, headers: Mapping[str, str]
    ) -> httpx.Request:
        try:
            parts = httpx.URL(url)
            host = parts.host
        except (httpx.InvalidURL, UnicodeError):  # the latter for a punycode name that stands for nothing
            raise FetchProblem("is not a URL") from None
        if parts.scheme not in self._schemes or not host:
            raise FetchProblem(f"is not an {' or '.join(self._schemes)} URL")
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
        if not 1 <= port <= 65_535:
            raise FetchProblem("has a port that there is not")
        address = await self._resolve(host, port)
        return client.build_request(
            "GET",
            parts.copy_with(host=address),
            headers={
                "Host": parts.netloc.decode("ascii"),
                "Accept": f"{media_type or '*/'}*",
                "Accept-Encoding": "identity",  # what is packed has no ranges, and may be anything unpacked
                "User-Agent": "sdstream",
                **headers,
            },
            extensions={"sni_hostname": host},
        )

    async def _resolve(self, host: str, port: int) -> str:
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._look_ups, partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError):
            raise FetchProblem("has a host that cannot be found") from None
        addresses = [str(entry[4][0]) for entry in found]
        # One private address among public ones is how a rebinding host looks.
        if not addresses or not all(self._is_allowed(address) for address in addresses):
            raise FetchProblem("has no public address")
        return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is reachable by anybody: not private, loopback, link-local, multicast or reserved."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if parsed in _TRANSLATED:  # behind NAT64 every public IPv4 address looks so
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        if parsed.sixtofour is not None or parsed.teredo is not None or any(parsed in net for net in _UNCHECKED):
            return False  # they carry an IPv4 address that nobody has checked
        if parsed.is_site_local:
            return False
    return parsed.is_global and not parsed.is_multicast


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchProblem("redirects to what is no URL") from None


async def _read(
    response: httpx.Response,
    media_type: str,
    max_bytes: int,
    take: Callable[[bytes, int | None], None],
    begin: Callable[[httpx.Response], int],
    clock: Clock,
) -> None:
    status = response.status_code
    if status in _PASSING or status >= 500:
        raise FetchBrokenOff(f"is answered with {status}")
    if status in _ABSENT:
        raise FetchNotFound(f"is answered with {status}")
    # A part, or no such part: the file has another length now.
    if status != 200 and not (status in (206, 416) and "Range" in response.request.headers):
        raise FetchProblem(f"is answered with {status}")
    kind = response.headers.get("Content-Type", "")
    if not kind.lower().startswith(media_type):
        raise FetchProblem(f"is of type {kind[:80] or 'unknown'}, not {media_type}*")
    packed = response.headers.get("Content-Encoding", "").lower()
    if _PACKINGS.intersection(packed.replace(" ", "").split(",")):
        raise FetchProblem(f"comes packed ({packed[:40]}), which was not asked for")
    came = begin(response)
    length = response.headers.get("Content-Length", "")
    total = came + int(length) if length.isdecimal() else None
    if total is not None and total > max_bytes:
        raise FetchProblem(f"is larger than {max_bytes} bytes")
    pace = Pace(clock.monotonic(), came)
    async for chunk in response.aiter_raw():  # never unpacked: a kilobyte can hold gigabytes
        came += len(chunk)
        pace = pace.after(now := clock.monotonic(), came)
        if pace.is_stalled(now, came):
            raise FetchBrokenOff(f"stalls: fewer than {LEAST_BYTES} bytes came within {STALL_SECONDS:g} s")
        if came > max_bytes:
            raise FetchProblem(f"is larger than {max_bytes} bytes")
        take(chunk, total)


@cache
def _authorities() -> ssl.SSLContext:
    """Whom to believe who a host is. Read once: httpx reads the file for each client, which holds up all else 50 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _range_start(headers: httpx.Headers) -> int | None:
    """Where a part begins."""
    found = re.match(r"bytes ([0-9]{1,18})-", headers.get("Content-Range", ""))
    return None if found is None else int(found[1])


def _validator(headers: httpx.Headers) -> str:
    """What names exactly these bytes, for `If-Range`; a weak ETag does not."""
    tag = headers.get("ETag", "")
    name = tag if tag.startswith('"') else "" if tag else headers.get("Last-Modified", "")
    return name if name.isascii() else ""  # others cannot be sent back


def _told_hash(headers: httpx.Headers) -> str:
    """The SHA-256 of the whole body, in hexadecimal, where the headers tell it (RFC 9530, or the hub's own way)."""
    linked = headers.get("X-Linked-ETag", "").strip('"')
    if re.fullmatch("[0-9a-f]{64}", linked):
        return linked
    found = re.search(r"sha-256=:?([A-Za-z0-9+/]{43}=)", headers.get("Repr-Digest", ""), re.IGNORECASE)
    try:
        return "" if found is None else base64.b64decode(found[1], validate=True).hex()
    except binascii.Error:
        return ""


__all__ = [
    "MAX_BYTES",
    "MAX_REDIRECTS",
    "MAX_SECONDS",
    "FetchBrokenOff",
    "FetchNotFound",
    "FetchProblem",
    "PublicFetcher",
    "Transfer",
    "is_public",
]
