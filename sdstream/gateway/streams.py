"""What the parts of the API that need no stream ask of the gateway: is it alive, how much more does it take."""

from sdstream.gateway.fleet import Fleet
from sdstream.media.ports import IceServer
from sdstream.metrics import ServerStatistics
from sdstream.streams.views import Capacity
from sdstream.worker.ports import WorkerHealth, WorkerPhase


class GatewayStreams:
    """The part of `sdstream.api.ports.Streams` that is about the whole server.

    What is about one stream is answered by `sdstream.gateway.routes` and never comes here.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def start(self) -> None:
        await self._fleet.open()

    async def close(self) -> None:
        await self._fleet.close()

    def worker_health(self) -> WorkerHealth:
        """READY once the endpoint's API answers; whether it has workers is the platform's affair."""
        if self._fleet.health is None:
            return WorkerHealth(WorkerPhase.STARTING, last_error=self._fleet.problem)
        return WorkerHealth(WorkerPhase.READY, device=f"endpoint {self._fleet.endpoint}")

    def faults(self) -> int:
        return 0

    async def ice_servers(self, token: str, host: str) -> tuple[IceServer, ...]:
        """None of the gateway's own: the workers' answers carry theirs."""
        return ()

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            streams=self._fleet.sessions,
            worker_phase=self.worker_health().phase.value,
            worker_phases=tuple(phase.value for phase in WorkerPhase),
        )

    def capacity(self) -> Capacity:
        health = self._fleet.health
        reason = "RunPod's API does not answer." if health is None else self._fleet.directory_problem or ""
        running = sum(health.workers.get(state, 0) for state in ("running", "idle", "ready")) if health else 0
        return Capacity(
            streams=self._fleet.sessions,
            max_streams=max(self._fleet.sessions, running),
            publishing=0,
            viewers=0,
            max_viewers=0,
            accepting=not reason,
            reason=reason,
            worker_phase=self.worker_health().phase.value,
            device=f"endpoint {self._fleet.endpoint}",
            memory_used=None,
            memory_total=None,
        )


__all__ = ["GatewayStreams"]
