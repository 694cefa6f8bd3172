"""Downloads of recordings: ranges, questions for the headers alone, files that go meanwhile."""

from pathlib import Path
from typing import Any

import pytest

from sdstream.api.answers import HEAD
from sdstream.api.downloads import FileDownload, answerable_ranges
from sdstream.file_errors import RangeNotSatisfiable
from sdstream.streams.recordings import Recording
from tests.api.conftest import Site

NAME = "20260102-030405.mp4"
CONTENT = bytes(range(100))


async def put(site: Site) -> str:
    """A recording of a new stream; its path."""
    stream = (await site.client.post("/v1/streams", json={})).json()
    folder = site.streams.recordings.folder / stream["id"]
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    return f"/v1/streams/{stream['id']}/recordings/{NAME}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", "bytes=0-9"),
        ("bytes=90-", "bytes=90-"),
        ("bytes=-10", "bytes=-10"),
        ("Bytes=0-9, 20-29", "bytes=0-9,20-29"),
        ("bytes=0-9,100-", "bytes=0-9"),
        ("bytes=0-999999999999", "bytes=0-999999999999"),
        ("bytes=9-5", None),
        ("bytes=--5", None),
        ("bytes=-", None),
        ("bytes=abc", None),
        ("bytes=0-9,abc", None),
        ("bytes=", None),
        ("bytes", None),
        ("items=0-9", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("", None),
    ],
)
def test_what_a_file_has_nothing_of_or_is_no_range_is_passed_over(header: str, expected: str | None) -> None:
    assert answerable_ranges({"range": header}, 100) == expected


@pytest.mark.parametrize(
    ("header", "byte_count"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=100-,200-300", 100), ("bytes=0-", 0)]
)
def test_a_range_of_which_the_file_has_nothing_is_refused_with_its_length(header: str, byte_count: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        answerable_ranges({"range": header}, byte_count)
    assert caught.value.headers == {"Content-Range": f"bytes */{byte_count}"}


def test_beside_an_if_range_the_whole_file_may_be_what_is_wanted() -> None:
    assert answerable_ranges({"range": "bytes=100-", "if-range": '"old"'}, 100) is None


async def test_a_range_beyond_the_end_is_416(site: Site) -> None:
    path = await put(site)
    answer = await site.client.get(path, headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.json()["code"]) == (416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["content-range"] == "bytes */100"
    head = await site.client.head(path, headers={"Range": "bytes=100-"})
    assert (head.status_code, head.headers["content-length"]) == (200, "100")


@pytest.mark.parametrize("header", ["bytes=9-5", "items=0-9", "bytes"])
async def test_without_an_answerable_range_all_is_sent(site: Site, header: str) -> None:
    answer = await site.client.get(await put(site), headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_the_answerable_range_of_two_is_sent(site: Site) -> None:
    answer = await site.client.get(await put(site), headers={"Range": "bytes=100-,10-19"})
    assert (answer.status_code, answer.content) == (206, CONTENT[10:20])
    assert answer.headers["content-range"] == "bytes 10-19/100"


async def test_a_question_for_the_headers_reads_nothing_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_bytes(CONTENT)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is to be received")

    scope = {"type": "http", "method": "GET", HEAD: True, "headers": [], "asgi": {"spec_version": "2.4"}}
    await FileDownload(file, None, "video/mp4")(scope, receive, send)
    assert dict(sent[0]["headers"])[b"content-length"] == b"100"
    assert b"".join(message.get("body", b"") for message in sent) == b""


async def test_a_recording_that_goes_while_it_is_looked_for_is_not_found(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await put(site)
    shelf = site.streams.recordings
    find = shelf.find

    async def find_and_lose(stream_id: str, name: str) -> Recording:
        recording = await find(stream_id, name)
        assert recording.path is not None
        recording.path.unlink()
        return recording

    monkeypatch.setattr(shelf, "find", find_and_lose)
    answer = await site.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
