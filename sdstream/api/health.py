"""A second door that leads to health alone, for load balancers that ask on a port of their own."""

from starlette.types import ASGIApp, Receive, Scope, Send

from sdstream.api.answers import error_answer
from sdstream.errors import NotFound

PATHS = frozenset({"/ping", "/health", "/ready"})


class HealthDoor:
    """ASGI middleware: requests that came in by `port` reach `PATHS` only; all others pass."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PATHS:
            server: tuple[str, int | None] | None = scope.get("server")
            if server is not None and server[1] == self._port:
                error = NotFound("this port answers /ping, /health and /ready only")
                await error_answer(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)


__all__ = ["PATHS", "HealthDoor"]
