"""Stands in for MediaMTX where it is not installed: what our back end uses of it, as it was seen to behave (1.20.1).

    python -m tests.media.mediamtx_stand_in CONFIGURATION

RTSP over TCP passes packets from a path's publisher to its readers; the control API lists paths and ends sessions. WHIP
and WHEP answer as MediaMTX does, but nothing comes after the answer; WHEP viewers are listed from then on. Whoever
comes is asked for at `authHTTPAddress`. No RTMP and no SRT. The same tests that are run with it are run with MediaMTX
where that is here.
"""

import asyncio
import base64
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

METHODS = "OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, RECORD, TEARDOWN"
MOST_BEHIND = 4 * 2**20
"""Bytes that wait for a reader before it is ended."""
LETTING_GO = 0.05
"""Seconds between a viewer's DELETE and the list without it."""


@dataclass
class Session:
    """An RTSP connection. `channels` has the first interleaved channel of each track's control."""

    id: str
    writer: asyncio.StreamWriter
    path: str = ""
    records: bool = False
    plays: bool = False
    channels: dict[str, int] = field(default_factory=dict[str, int])


@dataclass
class MediaPath:
    description: str
    publisher: Session
    readers: list[Session] = field(default_factory=list[Session])
    web_readers: list[str] = field(default_factory=list[str])
    """Ids of WHEP sessions."""
    received: int = 0


class StandIn:
    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._paths: dict[str, MediaPath] = {}
        self._sessions: dict[str, Session] = {}
        self._web: set[str] = set()
        """URLs of WHIP and WHEP sessions."""
        self._http = httpx.AsyncClient(trust_env=False)

    async def run(self) -> None:
        host, _, port = self._values["rtspAddress"].rpartition(":")
        server = await asyncio.start_server(self._serve, host or "0.0.0.0", int(port))
        async with server:
            await asyncio.gather(
                self._listen("apiAddress", self._api_routes()), self._listen("webrtcAddress", self._web_routes())
            )

    async def _listen(self, name: str, routes: list[Route]) -> None:
        host, _, port = self._values[name].rpartition(":")
        application = Starlette(routes=routes)
        await uvicorn.Server(
            uvicorn.Config(application, host=host, port=int(port), log_level="warning", lifespan="off")
        ).serve()

    async def _may(self, action: str, path: str, protocol: str, login: str | None) -> bool:
        user, _, password = base64.b64decode((login or "").removeprefix("Basic ")).decode().partition(":")
        question = {"action": action, "path": path, "protocol": protocol, "user": user, "password": password}
        answer = await self._http.post(
            self._values["authHTTPAddress"], json=question | {"token": "", "query": "", "id": None, "ip": "127.0.0.1"}
        )
        return answer.status_code // 100 == 2

    # The control API

    def _api_routes(self) -> list[Route]:
        def guarded(work: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
            async def answer(request: Request) -> Response:
                if not await self._may("api", "", "", request.headers.get("authorization")):
                    return JSONResponse({"error": "authentication error"}, 401)
                return work(request)

            return answer

        return [
            Route("/v3/info", guarded(lambda request: JSONResponse({"version": "v1.20.1"}))),
            Route("/v3/paths/list", guarded(self._list)),
            Route("/v3/webrtcsessions/list", guarded(self._list_sessions)),
            Route("/v3/rtspsessions/kick/{id}", guarded(self._kick), methods=["POST"]),
        ]

    def _list(self, request: Request) -> Response:
        items = [
            {
                "name": name,
                "online": True,
                "source": {"type": "rtspSession", "id": path.publisher.id},
                "readers": [
                    *({"type": "rtspSession", "id": reader.id} for reader in path.readers),
                    *({"type": "webRTCSession", "id": each} for each in path.web_readers),
                ],
                "inboundBytes": path.received,
                "outboundBytes": path.received * len(path.readers),
            }
            for name, path in sorted(self._paths.items())
        ]
        return self._page(request, items)

    def _list_sessions(self, request: Request) -> Response:
        names = [name for path in self._paths.values() for name in path.web_readers]
        items = [{"id": name, "inboundRTPPackets": 0, "inboundRTPPacketsLost": 0} for name in names]
        return self._page(request, items)

    def _page(self, request: Request, items: list[dict[str, Any]]) -> Response:
        page, size = int(request.query_params["page"]), int(request.query_params["itemsPerPage"])
        pages = -(-len(items) // size)
        return JSONResponse({"pageCount": pages, "items": items[page * size : (page + 1) * size]})

    def _kick(self, request: Request) -> Response:
        session = self._sessions.get(request.path_params["id"])
        if session is None:
            return JSONResponse({"error": "session not found"}, 404)
        session.writer.close()
        return JSONResponse({"status": "ok"})

    # WHIP and WHEP

    def _web_routes(self) -> list[Route]:
        where = "/{path:path}/{kind:str}"
        return [
            Route(where + "/{id:uuid}", self._change, methods=["PATCH", "DELETE"]),
            Route(where, self._offer, methods=["POST"]),
        ]

    async def _offer(self, request: Request) -> Response:
        path, kind = request.path_params["path"], request.path_params["kind"]
        action = "publish" if kind == "whip" else "read"
        if not await self._may(action, path, "webrtc", request.headers.get("authorization")):
            return JSONResponse({"error": "authentication error"}, 401)
        offer = (await request.body()).decode()
        if not offer.startswith("v=0"):
            return JSONResponse({"error": "the offer is no SDP"}, 400)
        if kind == "whep" and path not in self._paths:
            return JSONResponse({"error": "no stream is available on path"}, 404)
        session = str(uuid.uuid4())
        url = f"/{path}/{kind}/{session}"
        self._web.add(url)
        if kind == "whep":
            self._paths[path].web_readers.append(session)
        return Response(offer, 201, {"Location": url, "Content-Type": "application/sdp"})

    async def _change(self, request: Request) -> Response:
        if request.url.path not in self._web:
            return JSONResponse({"error": "session not found"}, 404)
        if request.method == "DELETE":
            self._web.discard(request.url.path)
            # It says so first, and lets go a moment later.
            asyncio.get_running_loop().call_later(LETTING_GO, self._let_go, request.path_params["id"])
            return Response(status_code=200)
        if b"a=ice-ufrag" not in await request.body():
            return JSONResponse({"error": "the fragment cannot be read"}, 400)
        return Response(status_code=204)

    def _let_go(self, session: uuid.UUID) -> None:
        for path in self._paths.values():
            if str(session) in path.web_readers:
                path.web_readers.remove(str(session))

    # RTSP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(str(uuid.uuid4()), writer)
        self._sessions[session.id] = session
        try:
            while True:
                first = await reader.readexactly(1)
                if first == b"$":
                    head = await reader.readexactly(3)
                    self._pass_on(session, head[0], await reader.readexactly(int.from_bytes(head[1:])))
                    continue
                text = (first + await reader.readuntil(b"\r\n\r\n")).decode()
                line, *rest = text.rstrip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
                body = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
                method, url, _ = line.split(" ")
                await self._answer(session, method, url, headers, body)
        except (EOFError, OSError):
            pass
        finally:
            self._leave(session)
            writer.close()

    async def _answer(self, session: Session, method: str, url: str, headers: dict[str, str], body: str) -> None:
        more: list[str] = []
        described = ""
        name = "/".join(url.partition("://")[2].partition("/")[2].split("?")[0].split("/")[:2])
        status = "200 OK"
        if method in ("ANNOUNCE", "DESCRIBE"):
            action = "publish" if method == "ANNOUNCE" else "read"
            if not await self._may(action, name, "rtsp", headers.get("authorization")):
                status, more = "401 Unauthorized", ['WWW-Authenticate: Basic realm="ipcam"']
            elif method == "ANNOUNCE":
                self._publish(session, name, body)
            elif name in self._paths:
                described = self._paths[name].description
                more = ["Content-Type: application/sdp", f"Content-Base: {url}/"]
            else:
                status = "404 Not Found"
        elif method == "SETUP":
            channel = headers["transport"].partition("interleaved=")[2].partition("-")[0]
            session.channels[url.rpartition("/")[2]] = int(channel)
            more = [f"Transport: {headers['transport']}"]
        elif method == "PLAY" and name in self._paths:
            session.path, session.plays = name, True
            self._paths[name].readers.append(session)
        elif method == "OPTIONS":
            more = [f"Public: {METHODS}"]
        lines = [f"RTSP/1.0 {status}", f"CSeq: {headers['cseq']}", f"Session: {session.id}", *more]
        lines.append(f"Content-Length: {len(described.encode())}")
        session.writer.write(("\r\n".join(lines) + "\r\n\r\n" + described).encode())
        if method == "TEARDOWN":
            session.writer.close()

    def _publish(self, session: Session, name: str, description: str) -> None:
        """The one before is ended, and its readers with it."""
        before = self._paths.pop(name, None)
        if before is not None:
            for each in (before.publisher, *before.readers):
                each.writer.close()
        session.path, session.records = name, True
        self._paths[name] = MediaPath(description, session)

    def _pass_on(self, session: Session, channel: int, data: bytes) -> None:
        path = self._paths.get(session.path)
        if path is None or path.publisher is not session:
            return
        path.received += len(data)
        control = next((name for name, first in session.channels.items() if channel in (first, first + 1)), None)
        if control is None:
            return
        odd = channel - session.channels[control]
        for reader in path.readers:
            if control in reader.channels:
                head = bytes([0x24, reader.channels[control] + odd]) + len(data).to_bytes(2)
                reader.writer.write(head + data)
                if reader.writer.transport.get_write_buffer_size() > MOST_BEHIND:
                    reader.writer.close()

    def _leave(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        path = self._paths.get(session.path)
        if path is None:
            return
        if path.publisher is session:
            del self._paths[session.path]
            for reader in path.readers:
                reader.writer.close()
        elif session in path.readers:
            path.readers.remove(session)


if __name__ == "__main__":
    asyncio.run(StandIn(json.loads(Path(sys.argv[1]).read_text("utf-8"))).run())
