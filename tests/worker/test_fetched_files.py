"""Files that are not on the hub, from a server on loopback: fetched once and whole, and pinned."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sdstream.diffusion.fetching.pins import write_pins
from sdstream.directories import ModelPlaces
from sdstream.fetching import PublicFetcher
from sdstream.model_errors import ModelDownloadFailed, ModelNotAsPinned
from sdstream.worker.annotators.weights import locate
from sdstream.worker.files import fetched
from sdstream.worker.files.fetched import fetch_addresses
from sdstream.worker.files.published import ADDRESSES, LANDMARKS, PERSONS, needed_for

REPOSITORY, FILE = "google/mediapipe", "selfie_segmenter.tflite"


class Web:
    def __init__(self) -> None:
        self.content: bytes | None = b"a model"
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                content = web.content or b""
                self.send_response(404 if web.content is None else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    made = Web()
    base = f"http://127.0.0.1:{made.server.server_address[1]}"
    addresses = {name: f"{base}/{name}" for name in ADDRESSES[REPOSITORY]}
    monkeypatch.setattr(fetched, "ADDRESSES", {REPOSITORY: addresses})
    yield made
    made.server.shutdown()
    made.server.server_close()


def fetch(root: Path, *, shipped: bool = False) -> Path:
    places = ModelPlaces(root, None, shipped_pins=shipped)
    return fetch_addresses(
        REPOSITORY, [FILE], places, lambda detail, percent: None, lambda: PublicFetcher(lambda ip: True)
    )


def test_a_file_is_fetched_once_and_pinned_as_what_comes_from_the_hub(web: Web, tmp_path: Path) -> None:
    folder = fetch(tmp_path)
    assert (folder / FILE).read_bytes() == b"a model"
    assert fetch(tmp_path) == folder
    assert web.asked == [f"/{FILE}"]
    assert set(write_pins(tmp_path)[REPOSITORY].files) == {FILE}
    assert locate(PERSONS[0], lambda source: folder, "mediapipe_segmentation") == folder
    (folder / FILE).unlink()
    web.content = b"another model"
    with pytest.raises(ModelNotAsPinned, match=r"not those pinned: .* pins.json pins") as refused:
        fetch(tmp_path)
    assert "pins.json" in refused.value.hint
    assert not (folder / FILE).exists()


def test_what_comes_is_compared_with_the_hash_that_sdstream_ships(web: Web, tmp_path: Path) -> None:
    with pytest.raises(ModelNotAsPinned, match="this version of sdstream pins 191ac9529ae5"):
        fetch(tmp_path, shipped=True)
    assert not (tmp_path / REPOSITORY / FILE).exists()


def test_what_cannot_be_fetched_says_where_it_may_be_put(web: Web, tmp_path: Path) -> None:
    web.content = None
    with pytest.raises(ModelDownloadFailed, match="google/mediapipe needs is answered with 404") as raised:
        fetch(tmp_path)
    assert str(tmp_path / REPOSITORY) in raised.value.hint
    assert FILE in raised.value.hint


def test_every_file_of_mediapipe_has_an_address_that_names_its_version() -> None:
    needed = {file for source in (*LANDMARKS, *PERSONS) for file in source.files}
    assert set(ADDRESSES[REPOSITORY]) == needed
    assert all(url.startswith("https://") and f"/1/{file}" in url for file, url in ADDRESSES[REPOSITORY].items())
    assert dict(needed_for("mediapipe_pose")) == {REPOSITORY: tuple(source.files[0] for source in LANDMARKS)}
