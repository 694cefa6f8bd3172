"""Fetching for users: nothing private, nothing large, nothing slow; and what bad style images lead to."""

import asyncio
import base64
import contextlib
import gzip
import io
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdstream.clock import ManualClock
from sdstream.fetching import (
    LOOK_UPS_AT_ONCE,
    MAX_BYTES,
    FetchBrokenOff,
    FetchProblem,
    PublicFetcher,
    Transfer,
    is_public,
)
from sdstream.pace import STALL_SECONDS
from sdstream.params import StyleImage
from sdstream.params.pictures import KINDS, MOST_SCANS
from sdstream.streams.style_images import FORMATS, MAX_PIXELS, StyleImageChecker, decode
from tests.streams.conftest import Scene, SceneMaker
from tests.support.endless import jpeg_of_scans
from tests.support.waiting import eventually

SDXL = "stabilityai/sdxl-turbo"


def png(width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


@contextlib.asynccontextmanager
async def web(answer: bytes, *, hang: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server on loopback that gives `answer` to whatever is asked; yields its URL and the requests it saw."""
    seen: list[bytes] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                if hang:
                    await reader.read()
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}", seen
    await asyncio.wait_for(asyncio.gather(*serving), 30)


def ok(body: bytes, kind: str = "image/png") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def near(address: str) -> bool:
    return address in ("127.0.0.1", "::1")


async def test_a_picture_is_fetched_with_the_name_it_was_asked_by() -> None:
    async with web(ok(png())) as (url, seen):
        assert await PublicFetcher(near).fetch(f"{url}/a.png?x=1") == png()
    assert seen[0].startswith(b"GET /a.png?x=1 ")
    assert f"host: {url.removeprefix('http://')}".encode() in seen[0].lower()


async def test_the_certificates_of_authorities_are_not_read_anew_for_each_fetch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web(ok(png())) as (url, _):
        await PublicFetcher(near).fetch(url)
        read: list[str] = []
        honest = ssl.create_default_context
        monkeypatch.setattr(ssl, "create_default_context", lambda **given: read.append("read") or honest(**given))
        await PublicFetcher(near).fetch(url)
    assert read == []


async def test_a_private_address_is_not_even_connected_to() -> None:
    async with web(ok(png())) as (url, seen):
        with pytest.raises(FetchProblem, match="no public address"):
            await PublicFetcher().fetch(url)
    assert seen == []


async def test_a_redirect_to_a_private_address_is_not_followed() -> None:
    async with web(redirect("http://192.168.0.1/admin")) as (url, seen):
        with pytest.raises(FetchProblem, match="no public address"):
            await PublicFetcher(near).fetch(url)
    assert len(seen) == 1


async def test_a_redirect_to_a_file_is_not_followed() -> None:
    async with web(redirect("file:///etc/passwd")) as (url, _):
        with pytest.raises(FetchProblem, match="not an http"):
            await PublicFetcher(near).fetch(url)


async def test_a_redirect_to_what_is_no_url_is_told() -> None:
    async with web(redirect("http://[x")) as (url, _):
        with pytest.raises(FetchProblem, match="no URL"):
            await PublicFetcher(near).fetch(url)


@pytest.mark.parametrize(
    "to", ["data:text/plain,hello", "http://localhost:99999/", "http://localhost:0/", "http://xn--a/"]
)
async def test_a_redirect_to_where_nothing_can_be_is_told(to: str) -> None:
    async with web(redirect(to)) as (url, _):
        with pytest.raises(FetchProblem):
            await PublicFetcher(lambda address: True, 60).fetch(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://localhost:99999/", "has a port that there is not"),
        ("http://localhost:0/", "has a port that there is not"),
        ("http://xn--a/", "is not a URL"),
        ("http://xn--a.invalid/", "is not a URL"),
    ],
)
async def test_a_url_that_leads_nowhere_is_told(url: str, problem: str) -> None:
    with pytest.raises(FetchProblem, match=problem):
        await PublicFetcher(lambda address: True, 60).fetch(url)


@pytest.mark.parametrize("packed", ["gzip", "GZIP, gzip", "br", "deflate", "zstd"])
async def test_what_comes_packed_is_not_unpacked(packed: str) -> None:
    """A kilobyte can hold gigabytes, and unpacking them held the event loop for seconds."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Encoding: {packed}\r\n".encode()
    body = gzip.compress(gzip.compress(bytes(1_000_000)))
    async with web(head + b"Content-Length: %d\r\n\r\n" % len(body) + body) as (url, seen):
        with pytest.raises(FetchProblem, match="comes packed"):
            await PublicFetcher(near, 60).fetch(url)
    assert b"accept-encoding: identity\r\n" in seen[0].lower()


async def test_a_word_about_how_a_store_keeps_a_file_says_nothing_of_what_comes() -> None:
    answer = ok(png()).replace(b"\r\n\r\n", b"\r\nContent-Encoding: aws-chunked\r\n\r\n", 1)
    async with web(answer) as (url, _):
        assert await PublicFetcher(near, 60).fetch(url) == png()


async def test_a_part_that_begins_at_a_number_without_an_end_is_a_problem_of_its_server(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 206 Part\r\nContent-Range: bytes " + b"9" * 5000 + b"-\r\nContent-Length: 1\r\n\r\nx"
    file = tmp_path / "part"
    file.write_bytes(b"ab")
    async with web(answer) as (url, _):
        with file.open("ab") as target, pytest.raises(FetchBrokenOff):
            await PublicFetcher(near, 60).go_on(url, target, 100, lambda came, total: None, Transfer('"x"'))


async def test_a_name_of_the_bytes_that_cannot_be_sent_back_is_none(tmp_path: Path) -> None:
    answer = ok(b"abc").replace(b"\r\n\r\n", '\r\nETag: "\u00e9"\r\n\r\n'.encode("latin-1"), 1)
    file, transfer = tmp_path / "part", Transfer()
    async with web(answer) as (url, _):
        for _ in range(2):
            with file.open("ab") as target:
                await PublicFetcher(near, 60).go_on(url, target, 100, lambda came, total: None, transfer)
    assert (transfer.validator, file.read_bytes()) == ("", b"abc")


async def test_look_ups_that_hang_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    looked_up: list[str] = []

    def hang(host: str, *_: object, **__: object) -> list[object]:
        looked_up.append(host)
        over.wait(200)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    fetcher = PublicFetcher(near, seconds=200)
    fetches = [asyncio.create_task(fetcher.fetch(f"http://h{number}.example/")) for number in range(40)]
    try:
        await eventually(lambda: looked_up, what="a look-up")
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 30) == "done"
        assert len(looked_up) <= LOOK_UPS_AT_ONCE
    finally:
        over.set()
        fetcher.close()
        await asyncio.gather(*fetches, return_exceptions=True)


async def test_redirects_end() -> None:
    async with web(redirect("/again")) as (url, seen):
        with pytest.raises(FetchProblem, match="redirects more than"):
            await PublicFetcher(near).fetch(url)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered with 404"),
        (ok(b"<html>", "text/html"), "text/html"),
        (ok(b"x" * (MAX_BYTES + 1)), "larger than"),
        (b"nonsense\r\n\r\n", "cannot be fetched"),
    ],
)
async def test_a_bad_answer_is_named(answer: bytes, problem: str) -> None:
    async with web(answer) as (url, _):
        with pytest.raises(FetchProblem, match=problem):
            await PublicFetcher(near).fetch(url)


async def test_a_slow_answer_ends() -> None:
    async with web(b"", hang=True) as (url, _):
        with pytest.raises(FetchProblem, match="no answer within"):
            await PublicFetcher(near, seconds=0.2).fetch(url)


async def test_a_file_that_comes_too_slowly_is_broken_off(tmp_path: Path) -> None:
    clock = ManualClock()

    def tell(came: int, total: int | None) -> None:
        clock.advance(STALL_SECONDS / 4)

    transfer = b"".join(b"1\r\nx\r\n" for _ in range(20)) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + transfer
    async with web(answer) as (url, _):
        with (tmp_path / "file").open("wb") as file, pytest.raises(FetchBrokenOff, match="stalls"):
            await PublicFetcher(near, clock=clock).download(url, file, 100, tell)
    assert 0 < (tmp_path / "file").stat().st_size < 20


PRIVATE = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1
    ::1 :: fe80::1%eth0 fc00::1 ::ffff:10.0.0.1 2002:7f00:1:: ff02::1 fec0::1 64:ff9b::a00:1 64:ff9b:1::a00:1
    ::7f00:1 ::5db8:d822 no-address"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_these_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_these_addresses_are_public(address: str) -> None:
    assert is_public(address)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(content: bytes) -> None:
    for candidate in (content, png()[:20] + content, png()[: len(content)]):
        with contextlib.suppress(FetchProblem):
            decode(candidate)


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_of_every_format_that_a_data_uri_may_have_are_read(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, kind)
    assert decode(file.getvalue()).size == (8, 8)


def test_the_formats_are_those_of_data_uris() -> None:
    assert {name.lower() for name in FORMATS} == set(KINDS)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICNS", "EPS"])
def test_no_other_format_is_opened(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind)
    with pytest.raises(FetchProblem, match="not a picture"):
        decode(file.getvalue())


def test_a_picture_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(FetchProblem, match="pixels"):
        decode(png(MAX_PIXELS // 1000 + 1, 1000))


class FakeFetcher(PublicFetcher):
    """Knows one picture, and never ends for URLs of `slow`."""

    async def fetch(self, url: str, media_type: str = "image/") -> bytes:
        if "slow" in url:
            await asyncio.Event().wait()
        if "good" in url:
            return png()
        if "defect" in url:
            raise LookupError("a defect")
        raise FetchProblem("is answered with 404")


def test_a_picture_of_endless_scans_is_not_decoded() -> None:
    assert decode(jpeg_of_scans(MOST_SCANS)).size == (64, 64)
    with pytest.raises(FetchProblem, match="more than 256 scans"):
        decode(jpeg_of_scans(MOST_SCANS + 1))


async def test_pictures_that_take_long_keep_no_other_work_from_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update begins anew, and what was begun cannot be ended: all threads of the server were busy with it."""
    over, begun = threading.Event(), threading.Semaphore(0)

    def hang(uri: str) -> None:
        begun.release()
        over.wait(200)

    monkeypatch.setattr("sdstream.streams.style_images.decode_data", hang)
    checker = StyleImageChecker(PublicFetcher(near))
    try:
        for number in range(100):
            checker.check("str_1", StyleImage(f"data:{number}"), lambda problem: None, lambda image, picture=None: None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert begun.acquire(timeout=60)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 60) == "done"
    finally:
        over.set()
        await checker.close()


BROKEN_DATA = "data:image/png;base64," + base64.b64encode(png()[:30] + b"IEND").decode()


@pytest.fixture
async def style_scene(make_scene: SceneMaker) -> Scene:
    return await make_scene(fetcher=FakeFetcher())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.org/gone.png", "The style image is answered with 404."),
        (BROKEN_DATA, "The style image is not a picture that can be read."),
        ("https://example.org/defect.png", "The style image cannot be read."),
    ],
)
async def test_a_bad_style_image_is_reported(style_scene: Scene, url: str, message: str) -> None:
    service = style_scene.service
    record = await style_scene.create_live(model_id=SDXL)
    events = service.events(record.id)
    await service.update(record.id, {"params": {"ip_adapter_style_image_url": url}})
    assert await eventually(lambda: service.status(record.id).last_error, what="last_error") == message
    await service.delete(record.id)
    assert "STREAMS/INVALID_PARAMS" in [event.data.get("code") async for event in events]


async def test_a_good_style_image_is_not_reported(style_scene: Scene) -> None:
    service = style_scene.service
    record = await style_scene.create(model_id=SDXL, ip_adapter_style_image_url="https://example.org/good.png")
    await eventually(lambda: not service._style_images.pending, what="the check")
    assert service.status(record.id).last_error is None


async def test_the_worker_is_given_the_picture_and_the_one_before_until_it_has_come(style_scene: Scene) -> None:
    service = style_scene.service
    record = await style_scene.create_live(model_id=SDXL, ip_adapter_style_image_url="https://example.org/good.png")
    lane = style_scene.worker.lanes[record.id]

    def given() -> str:
        return str(getattr(lane.params, "ip_adapter_style_image_url", ""))

    await eventually(lambda: given().startswith("data:image/png;base64,"), what="the picture")
    first = given()
    await service.update(record.id, {"params": {"ip_adapter_style_image_url": "https://example.org/gone.png"}})
    await eventually(lambda: service.status(record.id).last_error, what="last_error")
    assert given() == first
    wire = service.get(record.id).params
    assert getattr(wire, "ip_adapter_style_image_url", None) == "https://example.org/gone.png"


async def test_a_newer_style_image_replaces_the_check_of_the_one_before(style_scene: Scene) -> None:
    service = style_scene.service
    record = await style_scene.create(model_id=SDXL, ip_adapter_style_image_url="https://example.org/slow.png")
    await service.update(record.id, {"params": {"ip_adapter_style_image_url": "https://example.org/good.png"}})
    await eventually(lambda: not service._style_images.pending, what="the check")


async def test_the_check_ends_with_the_stream(style_scene: Scene) -> None:
    service = style_scene.service
    record = await style_scene.create(model_id=SDXL, ip_adapter_style_image_url="https://example.org/slow.png")
    assert service._style_images.pending == 1
    await service.delete(record.id)
    assert service._style_images.pending == 0
