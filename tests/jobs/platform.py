"""A fake of RunPod's queue platform: the client API and the wire protocol of its SDK's worker, for one endpoint.

It is strict where the real one is known to be: chunks over 1 MB and results over 10 MB are refused, and what is no
strict JSON is kept as a violation. A job may be pinned to a worker, which the real platform cannot do.
"""

import asyncio
import json
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiohttp import web

ENDPOINT = "ep-under-test"
API_KEY = "rpa_fake"
POLL_SECONDS = 10.0
MAX_RUN_BYTES = 10_000_000
MAX_CHUNK_BYTES = 1_000_000
MAX_RESULT_BYTES = 10_000_000
PIN = "X-Pin-Worker"


@dataclass
class FakeJob:
    """One job; `chunks` are what nobody has read yet, `history` all of them."""

    id: str
    body: dict[str, Any]
    pin: str | None
    state: str = "IN_QUEUE"
    worker: str | None = None
    chunks: list[Any] = field(default_factory=list[Any])
    history: list[Any] = field(default_factory=list[Any])
    output: Any = None
    error: Any = None
    taken: int = 0
    ended_at: float | None = None

    def view(self) -> dict[str, Any]:
        members = {"output": self.output, "error": self.error, "workerId": self.worker}
        return {"id": self.id, "status": self.state} | {
            name: value for name, value in members.items() if value is not None
        }


class FakePlatform:
    """Runs in a thread of its own. `url` is the base of the endpoint API."""

    def __init__(self) -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.violations: list[str] = []
        self.port = 0
        self._queue: list[FakeJob] = []
        self._stops: dict[str, list[str]] = {}
        self._loop: asyncio.AbstractEventLoop
        self._changed: asyncio.Condition
        self._stopping: asyncio.Event
        self._runner: web.AppRunner
        self._place: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2"

    def start(self) -> "FakePlatform":
        self._thread.start()
        assert self._up.wait(30)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._leave_place()

    def vanish(self) -> None:
        """Cut every connection and refuse new ones. The jobs stay, and nobody else gets the port."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", self.port))

    def come_back(self) -> None:
        """After `vanish`: at the same address."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(30)
        self._leave_place()

    def _leave_place(self) -> None:
        if self._place is not None:
            self._place.close()
            self._place = None

    def worker_environment(self, worker: str) -> dict[str, str]:
        """The variables by which the SDK finds its platform."""
        base = f"http://127.0.0.1:{self.port}/v2/{ENDPOINT}"
        return {
            "RUNPOD_POD_ID": worker,
            "RUNPOD_ENDPOINT_ID": ENDPOINT,
            "RUNPOD_AI_API_KEY": "worker-key",
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    def give_again(self, worker: str) -> list[str]:
        """What the platform does when a worker is gone: its jobs are queued again. Returns their ids."""
        return asyncio.run_coroutine_threadsafe(self._give_again(worker), self._loop).result(30)

    async def _give_again(self, worker: str) -> list[str]:
        lost = [job for job in self.jobs.values() if job.worker == worker and job.state == "IN_PROGRESS"]
        for job in lost:
            job.state, job.worker, job.pin = "IN_QUEUE", None, None
            self._queue.append(job)
        await self._notify()
        return [job.id for job in lost]

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed, self._stopping = asyncio.Condition(), asyncio.Event()
        await self._open()
        self._up.set()
        await self._stopping.wait()
        await self._runner.cleanup()

    async def _open(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        base = f"/v2/{ENDPOINT}"
        app.add_routes(
            [
                web.post(f"{base}/run", self._submit),
                web.post(f"{base}/runsync", self._submit_and_wait),
                web.get(f"{base}/status/{{job}}", self._status),
                web.post(f"{base}/status/{{job}}", self._status),
                web.get(f"{base}/stream/{{job}}", self._stream),
                web.post(f"{base}/stream/{{job}}", self._stream),
                web.post(f"{base}/cancel/{{job}}", self._cancel),
                web.get(f"{base}/health", self._health),
                web.get(f"{base}/job-take/{{worker}}", self._take),
                web.get(f"{base}/job-take-batch/{{worker}}", self._take),
                web.get(f"{base}/job-stop/{{worker}}", self._stop_channel),
                web.post(f"{base}/job-done/{{worker}}/{{job}}", self._done),
                web.post(f"{base}/job-stream/{{worker}}/{{job}}", self._chunk),
                web.get(f"{base}/ping/{{worker}}", self._ping),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, probe: Any, seconds: float) -> Any:
        """The first truthy result of `probe`, or its last after `seconds`."""
        with_limit = time.monotonic() + seconds
        async with self._changed:
            while not (found := probe()) and (left := with_limit - time.monotonic()) > 0:
                try:
                    await asyncio.wait_for(self._changed.wait(), left)
                except TimeoutError:
                    break
        return found or probe()

    # The client API

    def _authorize(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            raise web.HTTPUnauthorized

    async def _submit(self, request: web.Request) -> web.Response:
        job = await self._enqueue(request)
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def _submit_and_wait(self, request: web.Request) -> web.Response:
        job = await self._enqueue(request, "sync-")
        await self._until(lambda: job.ended_at, int(request.query.get("wait", 90_000)) / 1000)
        return web.json_response(job.view())

    async def _enqueue(self, request: web.Request, prefix: str = "") -> FakeJob:
        self._authorize(request)
        content = await request.read()
        if len(content) > MAX_RUN_BYTES:
            raise web.HTTPBadRequest(text="payload too large")
        body = json.loads(content)
        if "input" not in body:
            raise web.HTTPBadRequest(text="input is required")
        job = FakeJob(f"{prefix}{uuid.uuid4()}-u1", body, request.headers.get(PIN))
        self.jobs[job.id] = job
        self._queue.append(job)
        await self._notify()
        return job

    def _find(self, request: web.Request) -> FakeJob:
        self._authorize(request)
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound
        return job

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request).view())

    async def _stream(self, request: web.Request) -> web.Response:
        job = self._find(request)
        await self._until(lambda: job.chunks or job.ended_at, 1.0)
        chunks, job.chunks = job.chunks, []
        return web.json_response({"status": job.state, "stream": chunks})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._find(request)
        if job.state in ("IN_QUEUE", "IN_PROGRESS"):
            if job.worker is not None:
                self._stops.setdefault(job.worker, []).append(job.id)
            await self._end(job, "CANCELLED")
        return web.json_response({"id": job.id, "status": job.state})

    async def _health(self, request: web.Request) -> web.Response:
        self._authorize(request)
        states = [job.state for job in self.jobs.values()]
        jobs = {"inQueue": states.count("IN_QUEUE"), "inProgress": states.count("IN_PROGRESS")}
        return web.json_response({"jobs": jobs, "workers": {"idle": 0, "running": 1}})

    async def _end(self, job: FakeJob, state: str) -> None:
        job.state, job.ended_at = state, time.monotonic()
        if job in self._queue:
            self._queue.remove(job)
        await self._notify()

    # The worker's wire

    async def _take(self, request: web.Request) -> web.Response:
        worker = request.match_info["worker"]
        most = int(request.query.get("batch_size", 1))

        def mine() -> list[FakeJob]:
            return [job for job in self._queue if job.pin in (None, worker)][:most]

        await self._until(mine, POLL_SECONDS)
        if request.transport is None or request.transport.is_closing():
            raise web.HTTPGone  # whoever asked is not there any more: the jobs stay
        taken = mine()
        for job in taken:
            self._queue.remove(job)
            job.state, job.worker, job.taken = "IN_PROGRESS", worker, job.taken + 1
        if not taken:
            return web.Response(status=204)
        handed = [
            {"id": job.id} | {name: job.body[name] for name in ("input", "s3Config") if name in job.body}
            for job in taken
        ]
        return web.json_response(handed if "batch" in request.path else handed[0])

    async def _stop_channel(self, request: web.Request) -> web.Response:
        worker = request.match_info["worker"]
        await self._until(lambda: self._stops.get(worker), POLL_SECONDS)
        if request.transport is None or request.transport.is_closing():
            raise web.HTTPGone  # the worker asks again, and hears of them then
        ids, self._stops[worker] = self._stops.get(worker, []), []
        return web.json_response({"jobsToStop": ids}) if ids else web.Response(status=204)

    async def _read(self, request: web.Request, limit: int, what: str) -> Any:
        content = await request.read()
        if len(content) > limit:
            self.violations.append(f"{what} of {len(content)} bytes")
            raise web.HTTPBadRequest(text="too large")

        def refuse(name: str) -> NoReturn:
            self.violations.append(f"{what} holds {name}")
            raise web.HTTPBadRequest(text="no JSON")

        return json.loads(content, parse_constant=refuse)

    async def _chunk(self, request: web.Request) -> web.Response:
        body = await self._read(request, MAX_CHUNK_BYTES, "a chunk")
        job = self.jobs[request.match_info["job"]]
        job.chunks.append(body)
        job.history.append(body["output"])
        await self._notify()
        return web.Response(text="ok")

    async def _done(self, request: web.Request) -> web.Response:
        body = await self._read(request, MAX_RESULT_BYTES, "a result")
        job = self.jobs[request.match_info["job"]]
        if job.state == "IN_PROGRESS" and job.worker == request.match_info["worker"]:
            job.output, job.error = body.get("output"), body.get("error")
            await self._end(job, "FAILED" if job.error else "COMPLETED")
        return web.Response(text="ok")

    async def _ping(self, request: web.Request) -> web.Response:
        return web.json_response({})
