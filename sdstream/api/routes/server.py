"""What operators and load balancers ask: is it alive, is it ready, what version, which numbers."""

import sys

from starlette.requests import Request
from starlette.responses import Response

from sdstream import __version__
from sdstream.api.answers import json_answer
from sdstream.api.context import Context
from sdstream.errors import WorkerUnavailable
from sdstream.metrics import METRICS_CONTENT_TYPE, build_registry, render_metrics
from sdstream.worker.ports import WorkerPhase

NO_STORE = {"Cache-Control": "no-store"}


class ServerRoutes:
    """Health, readiness, version; none of them needs a key or tells a secret."""

    def __init__(self, context: Context) -> None:
        self._streams = context.streams
        self._registry = build_registry(context.streams.statistics)

    async def health(self, request: Request) -> Response:
        """Alive: this process answers. What the worker does is told, not judged."""
        health = self._streams.worker_health()
        worker = {
            "phase": health.phase.value,
            "restarts": health.restarts,
            "device": health.device,
            "processor": health.processor,
            "memory_used": health.memory_used,
            "memory_total": health.memory_total,
        }
        body = {"status": "ok", "version": __version__, "worker": worker, "faults": self._streams.faults()}
        return json_answer(body, headers=NO_STORE)

    async def ready(self, request: Request) -> Response:
        """Ready: a stream that starts now gets pictures. Raises `WorkerUnavailable` otherwise."""
        health = self._streams.worker_health()
        if health.phase is not WorkerPhase.READY:
            raise WorkerUnavailable(f"the worker is {health.phase.value}")
        if health.is_warming:
            raise WorkerUnavailable("the worker loads the default model")
        return json_answer({"status": "ready"}, headers=NO_STORE)

    async def ping(self, request: Request) -> Response:
        """RunPod's load balancer: 200 takes requests, 204 still starts or warms up, anything else is unwell."""
        health = self._streams.worker_health()
        phase = health.phase
        if phase is WorkerPhase.READY and not health.is_warming:
            return json_answer({"status": "ready"}, headers=NO_STORE)
        if phase in (WorkerPhase.READY, WorkerPhase.STARTING, WorkerPhase.RESTARTING):
            return Response(status_code=204, headers=NO_STORE)
        raise WorkerUnavailable(f"the worker is {phase.value}")

    async def metrics(self, request: Request) -> Response:
        return Response(render_metrics(self._registry), headers={"Content-Type": METRICS_CONTENT_TYPE} | NO_STORE)

    async def version(self, request: Request) -> Response:
        python = ".".join(map(str, sys.version_info[:3]))
        return json_answer({"name": "sdstream", "version": __version__, "python": python})


__all__ = ["ServerRoutes"]
