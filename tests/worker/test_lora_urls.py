"""LoRAs at URLs: a transfer that broke off goes on where it broke, if the server still has the same bytes."""

import base64
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sdstream import transfers
from sdstream.directories import ModelPlaces
from sdstream.fetching import PublicFetcher
from sdstream.model_errors import ModelDownloadFailed
from sdstream.worker.files.loras import LoraFiles

CONTENT = bytes(range(256)) * 40


class Web:
    """A server on loopback with one file. It breaks off after as many bytes as `cuts` say, one by one."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.cuts: list[int] = []
        self.tag: str | None = '"one"'
        self.digest = ""
        self.statuses: list[int] = []
        """What the next requests are answered with, whatever they ask."""
        self.asked: list[tuple[str | None, str | None]] = []
        """Range and If-Range of each request."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/x.safetensors?token=secret"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        self.asked.append((wanted, condition))
        if self.statuses:
            request.send_response(self.statuses.pop(0))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = 0
        if wanted is not None and condition == self.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content):
            request.send_response(416)
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.tag is not None:
            request.send_header("ETag", self.tag)
        if self.digest:
            request.send_header("Repr-Digest", self.digest)
        body = self.content[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transfers, "PAUSE_SECONDS", 0.0)
    made = Web()
    yield made
    made.close()


def fetch(web: Web, folder: Path, progress: Any = lambda detail, percent: None) -> Path:
    near = LoraFiles(lambda: PublicFetcher(lambda address: True, schemes=("http",)))
    return near.get(web.url, ModelPlaces(folder / "models", folder / "loras"), progress)


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_it_goes_on_where_it_broke_off(web: Web, tmp_path: Path) -> None:
    web.cuts = [3000, 4000]
    web.digest = digest_of(CONTENT)
    told: list[float | None] = []
    path = fetch(web, tmp_path, lambda detail, percent: told.append(percent))
    assert path.read_bytes() == CONTENT
    assert web.asked == [(None, None), ("bytes=3000-", '"one"'), ("bytes=7000-", '"one"')]
    assert told[-1] == 100
    assert [file for file in path.parent.iterdir() if file.is_file()] == [path]


def test_what_was_fetched_before_is_had_offline(web: Web, tmp_path: Path) -> None:
    path = fetch(web, tmp_path)
    offline = ModelPlaces(tmp_path / "models", tmp_path / "loras", offline=True)
    assert LoraFiles().get(web.url, offline, lambda detail, percent: None) == path
    assert len(web.asked) == 1


def test_it_goes_on_at_another_time_when_somebody_gave_up(web: Web, tmp_path: Path) -> None:
    class GivenUp(Exception):
        pass

    def give_up(detail: str, percent: float | None) -> None:
        if percent is None:  # between two tries
            raise GivenUp

    web.cuts = [3000]
    with pytest.raises(GivenUp):
        fetch(web, tmp_path, give_up)
    assert fetch(web, tmp_path).read_bytes() == CONTENT
    assert web.asked[1:] == [("bytes=3000-", '"one"')]


def test_another_file_in_its_place_is_fetched_from_its_beginning(web: Web, tmp_path: Path) -> None:
    web.cuts = [3000]

    def replace(detail: str, percent: float | None) -> None:
        if percent is None:
            web.content, web.tag = CONTENT[::-1], '"two"'

    assert fetch(web, tmp_path, replace).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_bytes_without_a_name_of_their_own_are_fetched_again(web: Web, tmp_path: Path, tag: str | None) -> None:
    web.cuts, web.tag = [3000], tag
    assert fetch(web, tmp_path).read_bytes() == CONTENT
    assert web.asked == [(None, None), (None, None)]


def test_a_server_with_a_bad_moment_is_asked_again_and_one_that_refuses_is_not(web: Web, tmp_path: Path) -> None:
    web.statuses = [503, 429]
    assert fetch(web, tmp_path / "one").read_bytes() == CONTENT
    web.statuses, web.asked = [403], []
    with pytest.raises(ModelDownloadFailed, match="is answered with 403"):
        fetch(web, tmp_path / "two")
    assert len(web.asked) == 1


def test_five_tries_in_a_row_without_a_byte_are_enough_and_what_came_stays(web: Web, tmp_path: Path) -> None:
    web.cuts = [3000, *[0] * 4]
    with pytest.raises(ModelDownloadFailed, match="cannot be fetched") as caught:
        fetch(web, tmp_path)
    assert "secret" not in caught.value.message
    web.asked.clear()
    assert fetch(web, tmp_path).read_bytes() == CONTENT
    assert web.asked == [("bytes=3000-", '"one"')]


def test_bytes_that_are_not_those_that_were_promised_are_refused(web: Web, tmp_path: Path) -> None:
    web.digest = digest_of(b"something else")
    with pytest.raises(ModelDownloadFailed, match="came twice with bytes"):
        fetch(web, tmp_path)
    assert len(web.asked) == 2
    web.digest = digest_of(CONTENT)
    assert fetch(web, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_begins_anew(web: Web, tmp_path: Path) -> None:
    web.cuts = [8000, *[0] * 4]
    with pytest.raises(ModelDownloadFailed):
        fetch(web, tmp_path)
    web.content = CONTENT[:5000]
    assert fetch(web, tmp_path).read_bytes() == CONTENT[:5000]
