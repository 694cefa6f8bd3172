"""A made-up release of MediaMTX on loopback: a script for the program, packed and summed as the real ones are."""

import contextlib
import gzip
import hashlib
import io
import platform
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sdstream.media.mediamtx.release import CHECKSUMS, VERSION, Release, release_for

RELEASE = release_for(platform.system(), platform.machine())


def program(says: str = f"v{VERSION}") -> bytes:
    """A script that says this when it is asked for its version."""
    return f"#!/bin/sh\necho {says}\n".encode()


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A `.tar.gz` of these."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(made.getvalue(), mtime=0)


def plain(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """A plain file of an archive."""
    return tarfile.TarInfo(name), content


class ReleaseServer:
    """The folder of one release. An archive breaks off after as many bytes as `cuts` say, one by one."""

    def __init__(self, release: Release = RELEASE) -> None:
        self.release = release
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        """Name and Range of each request."""
        self.put(packed(plain("mediamtx.yml", b"api: yes\n"), plain("mediamtx", program()), plain("LICENSE", b"MIT")))
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v{release.version}"

    @property
    def names(self) -> list[str]:
        """What was asked for, in order."""
        return [name for name, _ in self.asked]

    def put(self, archive: bytes) -> None:
        """Have this archive, and its right checksum among others."""
        other = hashlib.sha256(b"another").hexdigest()
        right = hashlib.sha256(archive).hexdigest()
        lines = [f"{other} *checksums.sha256", f"{right} *{self.release.archive}", f"{other} *mediamtx_v0_else.zip"]
        self.files = {self.release.archive: archive, CHECKSUMS: "\n".join([*lines, ""]).encode()}

    @contextlib.contextmanager
    def run(self) -> Iterator["ReleaseServer"]:
        """Answer until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.rpartition("/")[2], request.headers.get("Range")
        self.asked.append((name, wanted))
        content = self.files.get(name)
        if content is None:
            request.send_response(404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        start = 0
        if wanted is not None and request.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = content[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts and name != CHECKSUMS else body)
