"""All that is known of a stream at one moment, put together."""

from datetime import datetime, timedelta

from sdstream.clock import Clock
from sdstream.media.ports import MediaStatistics
from sdstream.streams.live import LiveStream
from sdstream.streams.past import Past
from sdstream.streams.state import Moments, Verdict
from sdstream.streams.views import StreamRecord, StreamStatus
from sdstream.worker.ports import WorkerHealth


def make_status(
    record: StreamRecord,
    live: LiveStream | None,
    past: Past,
    verdict: Verdict,
    state_changed_at: datetime | None,
    moments: Moments,
    health: WorkerHealth,
    clock: Clock,
) -> StreamStatus:
    """The status of the stream of `record`, whose state is the `verdict` on its `moments`."""

    def date(moment: float | None) -> datetime | None:
        return None if moment is None else clock.now() - timedelta(seconds=clock.monotonic() - moment)

    lane = live.lane_status if live else None
    return StreamStatus(
        stream_id=record.id,
        state=verdict.state,
        started_at=date(live.publisher_at if live else None) or record.created_at,
        state_changed_at=state_changed_at,
        reason=verdict.reason,
        publisher_accepted=live is not None,
        input_fps=moments.input_fps,
        output_fps=moments.output_fps,
        last_input_at=date(moments.last_input_at),
        last_output_at=date(moments.last_output_at),
        last_params_update_at=past.updated_at,
        last_params=past.params,
        last_error=past.error,
        last_error_at=date(past.error_at),
        last_restart_at=date(past.restart_at),
        restart_count=past.restarts,
        last_restart_logs=health.last_restart_logs if past.restarts else (),
        revision=record.revision,
        lane=lane,
        pictures_late=record.params.pictures_late,
        load_seconds_left=live.loading.seconds_left if live else None,
        next_tries=tuple(date(part.next_at) for part in lane.missing) if lane else (),
        media=live.statistics() if live else MediaStatistics(),
        latencies=live.traffic.latencies(clock.monotonic()) if live else {},
        drops=live.drops() if live else {},
        replaced=live.traffic.replaced() if live else {},
    )


__all__ = ["make_status"]
