"""The playground's files, read once and served from memory."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sdstream.api.addresses import HOST_PATTERN
from sdstream.settings import Settings

PLAYGROUND = Path(__file__).parent / "playground"
INDEX = "index.html"

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
"""What is served, by suffix; files of other kinds are not."""


@dataclass(frozen=True, slots=True)
class Page:
    """One file in memory. `tag` changes whenever the content does, so browsers ask each time and load once."""

    content: bytes
    content_type: str
    tag: str


class Pages:
    """Serves the files of one directory at fixed paths. Nothing outside the list can be reached."""

    def __init__(self, settings: Settings, directory: Path = PLAYGROUND) -> None:
        self._pages = _read(directory)
        self._settings = settings

    def routes(self) -> list[BaseRoute]:
        """One route for each file; index.html is also `/`."""
        paths = ["/", *self._pages] if f"/{INDEX}" in self._pages else list(self._pages)
        return [Route(path, self.answer, methods=["GET"], include_in_schema=False) for path in paths]

    async def answer(self, request: Request) -> Response:
        path = request.scope["path"]
        page = self._pages[f"/{INDEX}" if path == "/" else path]
        security = security_headers(self._settings, request.headers.get("host", ""))
        headers = {**security, "ETag": page.tag, "Cache-Control": "no-cache"}
        if page.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(page.content, headers={**headers, "Content-Type": page.content_type})


def security_headers(settings: Settings, host: str = "") -> dict[str, str]:
    """Headers that let the page use this server, the camera and nothing else; `host` is the request's `Host` header."""
    # Not every browser takes a WebSocket to the same host for 'self'. Which scheme the page has, a proxy may hide.
    sockets = f" ws://{host} wss://{host}" if HOST_PATTERN.fullmatch(host) else ""
    # The page may be opened under another name than public_url, whose WHIP and WHEP URLs it then calls.
    public = f" {_origin(settings.public_url)}" if settings.public_url else ""
    public += public.replace(" http", " ws", 1)
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "media-src": "'self' blob: mediastream:",
        "font-src": "'self'",
        "connect-src": f"'self'{sockets}{public}",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _read(directory: Path) -> dict[str, Page]:
    pages: dict[str, Page] = {}
    for file in sorted(directory.rglob("*")) if directory.is_dir() else []:
        content_type = CONTENT_TYPES.get(file.suffix.lower())
        if content_type is None or not file.is_file():
            continue
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        pages["/" + file.relative_to(directory).as_posix()] = Page(content, content_type, tag)
    return pages


__all__ = ["CONTENT_TYPES", "Page", "Pages", "security_headers"]
