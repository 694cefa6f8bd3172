"""A small S3 for tests: one bucket, whole and multipart uploads, keys that expire, and an upload that can be held."""

import asyncio
import threading
import urllib.parse
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web

BUCKET = "results"
KEY_ID, EXPIRED_ID = "good-key", "expired-key"


class FakeBucket:
    """Runs in a thread of its own. Objects are there when they are whole; `hold` stops uploads before that."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.headers: list[dict[str, str]] = []
        self.hold = threading.Event()
        self.holding = threading.Event()
        self.port = 0
        self._forgotten = 0
        self._parts: dict[str, dict[int, bytes]] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self, key_id: str = KEY_ID) -> dict[str, str]:
        """A job's `s3Config`."""
        return {
            "accessId": key_id,
            "accessSecret": "s3cret-of-the-bucket",
            "bucketName": BUCKET,
            "endpointUrl": self.url,
        }

    def start(self) -> "FakeBucket":
        self._thread.start()
        assert self._up.wait(30)
        return self

    def stop(self) -> None:
        self.hold.clear()
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=256 * 2**20)
        app.router.add_route("*", "/{bucket}{key:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._up.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        claim = request.headers.get("Authorization", "") + request.query.get("X-Amz-Credential", "")
        if EXPIRED_ID in claim:
            return _error(400, "ExpiredToken")
        if KEY_ID not in claim:
            return _error(403, "InvalidAccessKeyId")
        if request.match_info["bucket"] != BUCKET:
            return _error(404, "NoSuchBucket")
        key = urllib.parse.unquote(request.match_info["key"].lstrip("/"))
        method, query = request.method, request.query
        if method == "GET" and not key:
            return web.Response(text="<ListBucketResult/>", content_type="application/xml")
        if method in ("GET", "HEAD"):
            return self._get(request, key)
        body = await request.read()
        if method == "POST" and "uploads" in query:
            self._parts[key] = {}
            return _xml(
                f"<InitiateMultipartUploadResult><UploadId>{escape(key)}</UploadId></InitiateMultipartUploadResult>"
            )
        if method == "PUT" and "partNumber" in query:
            self._parts[key][int(query["partNumber"])] = body
            return web.Response(headers={"ETag": '"part"'})
        if method == "POST" and "uploadId" in query:
            await self._keep(key, b"".join(part for _, part in sorted(self._parts.pop(key).items())), "")
            return _xml('<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>')
        if method == "PUT":
            await self._keep(key, body, request.headers.get("Content-Type", ""))
            return web.Response(headers={"ETag": '"whole"'})
        return _error(405, "MethodNotAllowed")

    def forget_held(self) -> None:
        """What is held is never kept, as whoever sent it is gone; further uploads are not held."""
        self._forgotten += 1
        self.hold.clear()
        self.holding.clear()

    async def _keep(self, key: str, content: bytes, content_type: str) -> None:
        begun = self._forgotten
        while self.hold.is_set():
            self.holding.set()
            await asyncio.sleep(0.02)
        if self._forgotten != begun:
            return
        self.objects[key], self.types[key] = content, content_type

    def _get(self, request: web.Request, key: str) -> web.Response:
        content = self.objects.get(key)
        if content is None:
            return _error(404, "NoSuchKey")
        wanted: Any = request.http_range
        part = content[wanted]
        headers = {"ETag": '"whole"', "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(content))
            return web.Response(headers=headers)
        return web.Response(body=part, status=206 if "Range" in request.headers else 200, headers=headers)


def _error(status: int, code: str) -> web.Response:
    return web.Response(
        status=status,
        text=f"<Error><Code>{code}</Code><Message>no</Message></Error>",
        content_type="application/xml",
    )


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/xml")
