"""A small hub on loopback: lists repositories and gives their files as the real one does, and fails on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LARGE = (".safetensors", ".bin")
"""Files that the hub keeps outside git: they have a SHA-256 and come from another host."""


@dataclass(slots=True)
class Repository:
    """Files by name, at a commit. `gated` ones are listed for all and given to those with `token`. `answer` is given in
    the place of a list, as by something that is no hub."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    gated: bool = False
    revisions: tuple[str, ...] = ("main",)
    answer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: the path, its range if any, and the key that came with it."""

    path: str
    range: str | None
    authorization: str | None
    host: str


@dataclass(slots=True)
class FakeHub:
    """Serves `repositories`; `url` is its `HF_ENDPOINT`."""

    repositories: dict[str, Repository] = field(default_factory=dict[str, Repository])
    token: str = "hf_secret_token"
    requests: list[Request] = field(default_factory=list[Request])
    cuts: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """File name to the bytes after which the connections for it break off, one by one."""
    spoilt: dict[str, int] = field(default_factory=dict[str, int])
    """File name to how many times its bytes come wrong."""
    broken: int | None = None
    """The status that every request is answered with."""
    hold: threading.Event | None = None
    """While it is not set, the file `held` stops in the middle."""
    held: str = ""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, folder: Path, **options: Any) -> Repository:
        """Offer the files of a directory."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name] = Repository(files, **options)
        return self.repositories[name]

    def asked_for(self, ending: str) -> list[Request]:
        """The requests for files with this ending, redirects followed not counted."""
        return [request for request in self.requests if request.path.endswith(ending) and "/resolve/" in request.path]

    @contextmanager
    def run(self) -> Iterator["FakeHub"]:
        """Serve until the end of the block."""
        hub = self

        class Handler(_Handler):
            owner = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            if self.hold is not None:
                self.hold.set()
            server.shutdown()
            server.server_close()
            thread.join(5)

    def be_the_hub(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Have this process's huggingface_hub ask here, and keep what it fetches in `cache`."""
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def git_blob(content: bytes) -> str:
    """Git's name for a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.owner
        path = unquote(urlsplit(self.path).path)
        host = self.headers.get("Host", "")
        hub.requests.append(Request(path, self.headers.get("Range"), self.headers.get("Authorization"), host))
        if hub.broken is not None:
            self._fail(hub.broken, None)
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._list("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif parts[0] == "cdn":
            self._give("/".join(parts[1:3]), "/".join(parts[3:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._fail(404, None)

    def _list(self, name: str, revision: str) -> None:
        repository = self.owner.repositories.get(name)
        if repository is None:
            self._fail(401, "RepoNotFound")
        elif revision not in (*repository.revisions, repository.commit):
            self._fail(404, "RevisionNotFound")
        else:
            siblings = [_sibling(file, content) for file, content in repository.files.items()]
            answer = {"id": name, "sha": repository.commit, "private": False, "siblings": siblings}
            body = json.dumps(answer).encode() if repository.answer is None else repository.answer
            self._send(200, body, {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self.owner.repositories.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {self.owner.token}"
        if repository is None:
            self._fail(401, "RepoNotFound")
        elif repository.gated and not allowed:
            self._fail(401 if self.headers.get("Authorization") is None else 403, "GatedRepo")
        elif file not in repository.files:
            self._fail(404, "EntryNotFound")
        elif file.endswith(LARGE):
            # Another host by name, as the real hub's store is: a key must not follow there.
            self._send(302, b"", {"Location": f"http://localhost:{self.owner.port}/cdn/{name}/{file}"})
        else:
            self._give(name, file)

    def _give(self, name: str, file: str) -> None:
        hub = self.owner
        whole = hub.repositories[name].files[file]
        if hub.spoilt.get(file, 0) > 0:
            hub.spoilt[file] -= 1
            whole = bytes([whole[0] ^ 1]) + whole[1:]
        start, status, headers = 0, 200, {"ETag": f'"{git_blob(whole)}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is not None:
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        body = whole[start:]
        cut = hub.cuts[file].pop(0) if hub.cuts.get(file) else None
        holds = hub.hold is not None and file == hub.held
        if cut is None and not holds:
            self._send(status, body, headers)
            return
        self._begin(status, headers, len(body))
        self.wfile.write(body[: len(body) // 2 if cut is None else cut])
        self.wfile.flush()
        if cut is None and hub.hold is not None:
            if hub.hold.wait(300):
                self.wfile.write(body[len(body) // 2 :])
            return
        self.close_connection = True

    def _fail(self, status: int, code: str | None) -> None:
        headers = {} if code is None else {"X-Error-Code": code, "X-Error-Message": code}
        self._send(status, b"", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._begin(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _sibling(file: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": git_blob(content)}
    if file.endswith(LARGE):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


__all__ = ["FakeHub", "Repository", "Request", "git_blob"]
