"""How much more this server takes, put together for `GET /v1/capacity`."""

from sdstream.settings import Settings
from sdstream.streams.directory import StreamDirectory
from sdstream.streams.views import Capacity
from sdstream.worker.ports import WorkerHealth, WorkerPhase


def describe_capacity(
    streams: StreamDirectory, settings: Settings, health: WorkerHealth, busy_since: float, *, closing: bool
) -> Capacity:
    """`busy_since` is the monotonic second from which on a use counts."""
    reason = _why_not(streams, health, busy_since, closing)
    return Capacity(
        streams=streams.count_busy(busy_since),
        max_streams=settings.max_streams,
        publishing=sum(stream.is_publishing for stream in streams),
        viewers=sum(stream.viewers for stream in streams),
        max_viewers=settings.max_viewers,
        accepting=not reason,
        reason=reason,
        worker_phase=health.phase.value,
        device=health.device,
        memory_used=health.memory_used,
        memory_total=health.memory_total,
    )


def _why_not(streams: StreamDirectory, health: WorkerHealth, busy_since: float, closing: bool) -> str:
    """Why no further stream is accepted; empty when one is."""
    if closing:
        return "The server is shutting down."
    if health.phase in (WorkerPhase.FAILED, WorkerPhase.STOPPED):
        return f"The worker does not run: {health.last_error or 'see the log'}."
    return streams.crowd(busy_since) or streams.glut()


__all__ = ["describe_capacity"]
