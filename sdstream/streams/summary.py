"""The numbers of the whole server, for the metrics."""

from collections import Counter
from collections.abc import Mapping

from sdstream.media.ports import OutputState
from sdstream.metrics import ServerStatistics
from sdstream.streams.directory import StreamDirectory
from sdstream.streams.store import StoreStatistics
from sdstream.streams.views import StreamState
from sdstream.worker.ports import WorkerHealth, WorkerPhase


def summarize(
    streams: StreamDirectory, health: WorkerHealth, written: StoreStatistics, updates: Mapping[str, int], faults: int
) -> ServerStatistics:
    """Add up what all streams, the worker and the store have done; `updates` counts by what they did.

    `faults` is the number of defects that supervisors caught.
    """
    states = Counter({state.value: 0 for state in StreamState})
    states.update(stream.state.value for stream in streams)
    totals = streams.totals()
    statistics = [stream.live.statistics() for stream in streams if stream.live is not None]
    outputs = Counter({state.value: 0 for state in OutputState})
    outputs.update(output.state.value for media in statistics for output in media.outputs)
    lanes = [stream.live.lane_status for stream in streams if stream.live is not None]
    accelerations = Counter(lane.acceleration for lane in lanes if lane is not None and lane.acceleration)
    return ServerStatistics(
        streams=len(streams),
        publishers=sum(stream.is_publishing for stream in streams),
        viewers=sum(stream.viewers for stream in streams),
        states=states,
        frames_in=totals.frames_in,
        frames_out=totals.frames_out,
        frames_encoded=totals.frames_encoded,
        keyframes=totals.keyframes,
        decode_errors=totals.decode_errors,
        bytes_received=totals.bytes_received,
        bytes_sent=totals.bytes_sent,
        sound_packets=totals.sound_packets,
        sound_gaps=totals.sound_gaps,
        sound_corrections=totals.sound_corrections,
        sound_drops=totals.sound_drops,
        drops=totals.drops,
        outputs=outputs,
        hls_streams=sum(media.hls_active for media in statistics),
        recordings=sum(media.recording is not None for media in statistics),
        replaced=totals.replaced,
        latencies=totals.latencies,
        loads=totals.loads,
        load_seconds=totals.load_seconds,
        updates=updates,
        worker_phase=health.phase.value,
        worker_phases=tuple(phase.value for phase in WorkerPhase),
        worker_restarts=health.restarts,
        worker_start_seconds=health.start_seconds,
        worker_calls=health.calls,
        worker_call_seconds=health.call_seconds,
        worker_memory_used=health.memory_used,
        worker_memory_total=health.memory_total,
        accelerations=accelerations,
        engine_events=health.engine_events,
        store_commits=written.commits,
        store_seconds=written.seconds,
        faults=faults,
    )


__all__ = ["summarize"]
