"""The FastAPI application: which path leads to which method, and what surrounds them all."""

import contextlib
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from sdstream import __version__
from sdstream.api.answers import as_request_error, error_answer
from sdstream.api.context import Context
from sdstream.api.edge import Edge, allowed_methods
from sdstream.api.keys import KeyRing
from sdstream.api.operations import OPERATIONS
from sdstream.api.pages import Pages
from sdstream.api.ports import Streams
from sdstream.api.reference import ReferencePage
from sdstream.api.routes.extensions import ExtensionRoutes
from sdstream.api.routes.models import ModelRoutes
from sdstream.api.routes.outputs import OutputRoutes
from sdstream.api.routes.pictures import SOCKETS, PictureRoutes
from sdstream.api.routes.server import ServerRoutes
from sdstream.api.routes.sessions import SessionRoutes
from sdstream.api.routes.streams import StreamRoutes
from sdstream.api.sockets import refuse_socket
from sdstream.api.specification import DESCRIPTION, build_document
from sdstream.clock import Clock
from sdstream.errors import RequestError
from sdstream.settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]
Socket = Callable[[WebSocket], Awaitable[None]]


class PlainRoute(APIRoute):
    """A route of the OpenAPI document whose endpoint takes the request and makes the response itself.

    FastAPI's dependency solving and response validation would cost more than the work of most endpoints.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def create_app(
    service: Streams,
    settings: Settings,
    keys: KeyRing,
    clock: Clock,
    replace: Callable[[Context], Mapping[str, Endpoint]] | None = None,
    sockets: Callable[[Context], Mapping[str, Socket]] | None = None,
) -> FastAPI:
    """The ASGI application over `service`, which the caller starts and closes.

    `replace` gives endpoints that are put in the place of those of the same name, `sockets` all WebSockets.
    """
    context = Context(service, settings, keys, clock)
    replacements: Mapping[str, Endpoint] = replace(context) if replace is not None else {}
    app = FastAPI(
        title="sdstream",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_settle,
        exception_handlers={RequestError: _answer_error, HTTPException: _answer_error},
    )
    for name, endpoint in {**endpoints(context), **replacements}.items():
        operation = OPERATIONS[name]
        app.router.add_api_route(
            operation.path,
            endpoint,
            methods=[operation.method],
            name=name,
            operation_id=name,
            response_model=None,
            route_class_override=PlainRoute,
            include_in_schema=False,
        )
    reference = ReferencePage(build_document, settings)
    app.add_route("/openapi.json", reference.document, methods=["GET"], include_in_schema=False)
    app.add_route("/docs", reference.page, methods=["GET"], include_in_schema=False)
    app.router.routes.extend(Pages(settings).routes())
    for name, socket in (sockets or picture_sockets)(context).items():
        app.router.routes.append(WebSocketRoute(SOCKETS[name], socket, name=name))
    app.router.routes.append(WebSocketRoute("/{path:path}", refuse_socket))
    app.openapi = build_document
    app.add_middleware(Edge, prefix=context.addresses.prefix, clock=clock, links=context.ice_links)
    return app


def picture_sockets(context: Context) -> dict[str, Socket]:
    """The WebSockets of a server that has streams of its own, under the names of `SOCKETS`."""
    pictures = PictureRoutes(context)
    return {"publish_pictures": pictures.publish, "watch_pictures": pictures.watch}


def endpoints(context: Context) -> dict[str, Endpoint]:
    """Every endpoint under the name that `OPERATIONS` describes it by; the busiest come first in the router."""
    streams = StreamRoutes(context)
    sessions = SessionRoutes(context)
    extensions = ExtensionRoutes(context)
    server = ServerRoutes(context)
    outputs = OutputRoutes(context)
    pictures = PictureRoutes(context)
    return {
        "update_stream": streams.update,
        "get_stream": streams.read,
        "get_stream_status": streams.status,
        "create_stream": streams.create,
        "list_streams": streams.list,
        "delete_stream": streams.delete_by_query,
        "delete_stream_by_path": streams.delete_by_path,
        "publish": sessions.publish,
        "watch": sessions.watch,
        "end_publish_session": sessions.end_publish,
        "end_watch_session": sessions.end_watch,
        "trickle_publish": sessions.trickle_publish,
        "trickle_watch": sessions.trickle_watch,
        "watch_hls": outputs.hls,
        "watch_motion_jpeg": pictures.motion_jpeg,
        "update_prompts": streams.update_by_old_path,
        "get_snapshot": extensions.snapshot,
        "get_tap": extensions.tap,
        "follow_events": extensions.events,
        "get_ingest": outputs.ingest,
        "list_recordings": outputs.list_recordings,
        "get_recording": outputs.get_recording,
        "delete_recording": outputs.delete_recording,
        "list_models": ModelRoutes(context).models,
        "list_parameters": extensions.parameters,
        "get_capacity": extensions.capacity,
        "create_api_key": extensions.create_key,
        "get_version": server.version,
        "get_health": server.health,
        "get_readiness": server.ready,
        "ping": server.ping,
        "get_metrics": server.metrics,
    }


@contextlib.asynccontextmanager
async def _settle(app: FastAPI) -> AsyncGenerator[None]:
    """When the server starts: spare the garbage collector what has been imported, which lives to the end anyway.

    A full collection over it takes tens of milliseconds, in which no request and no picture moves.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


async def _answer_error(request: Request, error: Exception) -> Response:
    known = as_request_error(error)
    response = error_answer(known, request.scope)
    if known.status == 405:
        response.headers["Allow"] = ", ".join(allowed_methods(request.app.router.routes, request.scope))
    return response


__all__ = ["Endpoint", "PlainRoute", "create_app", "endpoints"]
