"""The outermost layer around every request: id, CORS, preflight, HEAD, prefix, log line and the last catch.

Plain ASGI: it adds no task, no copy of the body and no buffering.
"""

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence

import structlog
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdstream.api.answers import HEAD, REQUEST_ID, as_request_error, error_answer
from sdstream.clock import Clock
from sdstream.errors import RequestError

METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
CORS_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    # No credentials mode: the key travels in a header that pages set themselves, so any origin may call.
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Location, ETag, Link, Livepeer-Playback-URL, Retry-After, X-Request-Id"),
    (b"access-control-allow-private-network", b"true"),
)
PREFLIGHT_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"access-control-allow-methods", METHODS.encode()),
    # `*` would not cover Authorization, so each header is named.
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, If-Match, x-client-source, Accept, Last-Event-ID, X-Request-Id, traceparent",
    ),
    (b"access-control-max-age", b"86400"),
    (b"accept-post", b"application/json, application/sdp"),
)
# A random number for each request would be a system call for each, which gives the interpreter away to other threads.
_PROCESS = secrets.token_hex(5)
_COUNTER = itertools.count(1)
PROBES = ("/ready", "/ping")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

logger = structlog.get_logger(__name__)


Links = Callable[[str, Scope], Awaitable[Sequence[str]]]
_SESSIONS = re.compile(r"/(?:live/video-to-video|playback)/(?P<token>[^/]+)/wh[ie]p")


class Edge:
    """ASGI middleware. `links` gives the `Link` values for a WHIP or WHEP URL: its token, and the request."""

    def __init__(self, app: ASGIApp, *, prefix: str, clock: Clock, links: Links) -> None:
        self._app = app
        self._prefix = prefix
        self._clock = clock
        self._links = links

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._prefix and scope["path"].startswith(self._prefix + "/"):
            scope["path"] = scope["path"][len(self._prefix) :]
        request_id = scope[REQUEST_ID] = _request_id(scope)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if scope["type"] == "websocket":  # has no answer of its own but a refusal, and pages of any origin may open it
            await self._app(scope, receive, send)
            return
        added = (*CORS_HEADERS, (b"x-request-id", request_id.encode()))
        started = self._clock.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        if scope["method"] == "OPTIONS":
            await self._preflight(scope, send_with_headers)
            return
        if scope["method"] == "HEAD":  # as RFC 9110 asks, wherever there is a GET
            # In a copy: the HTTP server looks at its own to know that no body may follow.
            scope = {**scope, "method": "GET", HEAD: True}
        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:  # the supervisor of requests: it names what failed and answers 500
            known = as_request_error(error)
            logger.error("request failed", method=scope["method"], path=_template(scope), exc_info=error)
            if status:  # too late for an envelope: cut the connection, so that nobody takes half an answer for whole
                raise
            await error_answer(known, scope)(scope, receive, send_with_headers)
        self._log(scope, status, started)

    async def _preflight(self, scope: Scope, send: Send) -> None:
        allowed = ", ".join(allowed_methods(scope["app"].router.routes, scope))
        headers = [*PREFLIGHT_HEADERS, (b"allow", allowed.encode())]
        match = _SESSIONS.fullmatch(scope["path"])
        # RFC 9725 has OPTIONS tell the ICE servers, but not a browser's preflight: no page sees its headers, and each
        # set of credentials costs a request to a service.
        if match is not None and not any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            try:
                links = await self._links(match["token"], scope)
            except RequestError as error:
                await error_answer(error, scope)(scope, _no_body, send)
                return
            headers += [(b"link", link.encode("ascii")) for link in links]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _log(self, scope: Scope, status: int, started: float) -> None:
        # The template and not the path: stream keys must not reach a log.
        # A probe that asks while the worker starts is answered 503, which is no fault.
        is_probe = status == 503 and scope["path"] in PROBES
        line = logger.warning if status >= 500 and not is_probe else logger.debug
        line(
            "request",
            method=scope["method"],
            path=_template(scope),
            status=status,
            milliseconds=round(1000 * (self._clock.monotonic() - started), 1),
        )


async def _no_body() -> Message:
    return {"type": "http.disconnect"}


def allowed_methods(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """Every method that the path of `scope` takes, by whichever route."""
    methods = {"OPTIONS"}
    for route in routes:
        if route.matches(scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _GIVEN_ID.fullmatch(given):
                return given
    return f"req_{_PROCESS}{next(_COUNTER):08x}"


def _template(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unknown"))


__all__ = ["CORS_HEADERS", "METHODS", "PREFLIGHT_HEADERS", "Edge", "allowed_methods"]
