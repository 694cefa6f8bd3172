"""Every metric of sdstream and the one registry that serves them.

Numbers are collected when a scraper asks: nothing here runs per picture. Labels are bounded (reasons, hops, states):
no stream id, name or address is ever a label, so a server that lives for months keeps the same number of series.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

LATENCY_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the latency buckets, in seconds."""


@dataclass(frozen=True, slots=True)
class LatencyCounts:
    """A histogram: how many durations fell into each bucket (the last is above all bounds), and their sum."""

    buckets: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    seconds: float = 0.0

    def __add__(self, other: "LatencyCounts") -> "LatencyCounts":
        buckets = tuple(mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True))
        return LatencyCounts(buckets, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What the whole server has done and holds; counters never fall, also when streams are deleted."""

    streams: int = 0
    publishers: int = 0
    viewers: int = 0
    states: Mapping[str, int] = field(default_factory=dict[str, int])
    frames_in: int = 0
    frames_out: int = 0
    frames_encoded: int = 0
    keyframes: int = 0
    decode_errors: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    sound_packets: int = 0
    sound_gaps: int = 0
    sound_corrections: int = 0
    sound_drops: Mapping[str, int] = field(default_factory=dict[str, int])
    drops: Mapping[str, int] = field(default_factory=dict[str, int])
    outputs: Mapping[str, int] = field(default_factory=dict[str, int])
    hls_streams: int = 0
    recordings: int = 0
    replaced: Mapping[str, int] = field(default_factory=dict[str, int])
    latencies: Mapping[str, LatencyCounts] = field(default_factory=dict[str, LatencyCounts])
    updates: Mapping[str, int] = field(default_factory=dict[str, int])
    loads: Mapping[str, int] = field(default_factory=dict[str, int])
    load_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    worker_phase: str = "starting"
    worker_phases: tuple[str, ...] = ()
    worker_restarts: int = 0
    worker_start_seconds: float | None = None
    worker_calls: Mapping[int, int] = field(default_factory=dict[int, int])
    worker_call_seconds: Mapping[int, float] = field(default_factory=dict[int, float])
    worker_memory_used: int | None = None
    worker_memory_total: int | None = None
    accelerations: Mapping[str, int] = field(default_factory=dict[str, int])
    engine_events: Mapping[str, int] = field(default_factory=dict[str, int])
    store_commits: int = 0
    store_seconds: float = 0.0
    faults: int = 0


METRICS: dict[str, str] = {
    "sdstream_streams": "Streams on record.",
    "sdstream_publishers": "Streams with a publisher now.",
    "sdstream_viewers": "Viewers connected now, of all streams.",
    "sdstream_stream_states": "Streams in each computed state.",
    "sdstream_frames_in_total": "Pictures decoded from publishers.",
    "sdstream_frames_out_total": "Processed pictures handed to the encoders.",
    "sdstream_frames_encoded_total": "Pictures encoded, placards included.",
    "sdstream_keyframes_total": "Keyframes encoded.",
    "sdstream_decode_errors_total": "Pictures from publishers that could not be decoded.",
    "sdstream_received_bytes_total": "Media bytes received from publishers.",
    "sdstream_sent_bytes_total": "Media bytes sent to viewers.",
    "sdstream_frames_dropped_total": "Pictures dropped, by reason.",
    "sdstream_frames_replaced_total": "Pictures in whose place another was shown: similar (the last again), unsafe.",
    "sdstream_sound_packets_total": "Packets of sound passed on.",
    "sdstream_sound_gaps_total": "Packets of sound that never came from their publisher.",
    "sdstream_sound_corrections_total": "Jumps of the time that sound is held, when the pictures' latency jumped.",
    "sdstream_sound_dropped_total": "Packets of sound dropped, by reason.",
    "sdstream_outputs": "Pushes to RTMP servers, by what they do: connecting, live, waiting.",
    "sdstream_hls_streams": "Streams whose HLS is being made because somebody watches it.",
    "sdstream_recordings": "Streams that are being recorded.",
    "sdstream_latency_seconds": "Time pictures spend in each hop: receive, queue, wait, worker, encode, send, total.",
    "sdstream_updates_total": "Updates accepted, by what they did: unchanged, hot, reload.",
    "sdstream_loads_total": "Loads of streams that came to an end, by how: ready, failed.",
    "sdstream_load_seconds_total": "Time that those loads took, fetching included.",
    "sdstream_worker_phase": "1 for the phase that the worker process is in, 0 for the others.",
    "sdstream_worker_restarts_total": "Times the worker process was started again.",
    "sdstream_worker_start_seconds": "Time from the start of the present worker process until it was ready.",
    "sdstream_worker_calls_total": "Calls of the worker, by the number of streams that rode in them.",
    "sdstream_worker_call_seconds_total": "Time that those calls took.",
    "sdstream_worker_memory_used_bytes": "Memory in use on the worker's device, where it is known.",
    "sdstream_worker_memory_bytes": "Memory of the worker's device, where it is known.",
    "sdstream_stream_accelerations": "Streams by what runs their networks now, such as torch+cuda_graph.",
    "sdstream_engine_events_total": "What happened to compiled engines in the worker, by kind of event.",
    "sdstream_store_commits_total": "Transactions of the stream store.",
    "sdstream_store_commit_seconds_total": "Time spent in transactions of the stream store.",
    "sdstream_faults_total": "Defects of sdstream that its supervisors caught and went on after; the log has each.",
}
"""Name and help of every metric; those of the server process itself start with `sdstream_process_`."""


class StatisticsCollector(Collector):
    """Turns the statistics of the moment into metric families."""

    def __init__(self, source: Callable[[], ServerStatistics]) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the source, which may not run yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        statistics = self._source()
        yield _gauge("sdstream_streams", statistics.streams)
        yield _gauge("sdstream_publishers", statistics.publishers)
        yield _gauge("sdstream_viewers", statistics.viewers)
        yield _labelled_gauge("sdstream_stream_states", "state", statistics.states)
        yield _counter("sdstream_frames_in_total", statistics.frames_in)
        yield _counter("sdstream_frames_out_total", statistics.frames_out)
        yield _counter("sdstream_frames_encoded_total", statistics.frames_encoded)
        yield _counter("sdstream_keyframes_total", statistics.keyframes)
        yield _counter("sdstream_decode_errors_total", statistics.decode_errors)
        yield _counter("sdstream_received_bytes_total", statistics.bytes_received)
        yield _counter("sdstream_sent_bytes_total", statistics.bytes_sent)
        yield _labelled_counter("sdstream_frames_dropped_total", "reason", statistics.drops)
        yield _counter("sdstream_sound_packets_total", statistics.sound_packets)
        yield _counter("sdstream_sound_gaps_total", statistics.sound_gaps)
        yield _counter("sdstream_sound_corrections_total", statistics.sound_corrections)
        yield _labelled_counter("sdstream_sound_dropped_total", "reason", statistics.sound_drops)
        yield _labelled_gauge("sdstream_outputs", "state", statistics.outputs)
        yield _gauge("sdstream_hls_streams", statistics.hls_streams)
        yield _gauge("sdstream_recordings", statistics.recordings)
        yield _labelled_counter("sdstream_frames_replaced_total", "reason", statistics.replaced)
        yield _histogram("sdstream_latency_seconds", "hop", statistics.latencies)
        yield _labelled_counter("sdstream_updates_total", "applied", statistics.updates)
        yield _labelled_counter("sdstream_loads_total", "outcome", statistics.loads)
        yield _labelled_counter("sdstream_load_seconds_total", "outcome", statistics.load_seconds)
        phases = {phase: int(phase == statistics.worker_phase) for phase in statistics.worker_phases}
        yield _labelled_gauge("sdstream_worker_phase", "phase", phases)
        yield _counter("sdstream_worker_restarts_total", statistics.worker_restarts)
        if statistics.worker_start_seconds is not None:
            yield _gauge("sdstream_worker_start_seconds", statistics.worker_start_seconds)
        calls, seconds = statistics.worker_calls, statistics.worker_call_seconds
        yield _labelled_counter("sdstream_worker_calls_total", "streams", {str(n): calls[n] for n in sorted(calls)})
        yield _labelled_counter(
            "sdstream_worker_call_seconds_total", "streams", {str(n): seconds[n] for n in sorted(seconds)}
        )
        if statistics.worker_memory_used is not None:
            yield _gauge("sdstream_worker_memory_used_bytes", statistics.worker_memory_used)
        if statistics.worker_memory_total is not None:
            yield _gauge("sdstream_worker_memory_bytes", statistics.worker_memory_total)
        yield _labelled_gauge("sdstream_stream_accelerations", "acceleration", statistics.accelerations)
        yield _labelled_counter("sdstream_engine_events_total", "event", statistics.engine_events)
        yield _counter("sdstream_store_commits_total", statistics.store_commits)
        yield _counter("sdstream_store_commit_seconds_total", statistics.store_seconds)
        yield _counter("sdstream_faults_total", statistics.faults)


def build_registry(source: Callable[[], ServerStatistics]) -> CollectorRegistry:
    """A registry with all metrics of one server; `source` is asked at each scrape, on the scraping thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatisticsCollector(source))
    ProcessCollector(namespace="sdstream", registry=registry)
    return registry


def render_metrics(registry: CollectorRegistry) -> bytes:
    """The registry in Prometheus' text format, for `Content-Type: METRICS_CONTENT_TYPE`."""
    return generate_latest(registry)


METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, METRICS[name], value=value)


def _counter(name: str, value: float) -> Metric:
    return CounterMetricFamily(name, METRICS[name], value=value)


def _labelled_gauge(name: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, METRICS[name], labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _labelled_counter(name: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, METRICS[name], labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _histogram(name: str, label: str, values: Mapping[str, LatencyCounts]) -> Metric:
    family = HistogramMetricFamily(name, METRICS[name], labels=[label])
    for key, counts in sorted(values.items()):
        running = 0
        cumulative: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, LATENCY_BOUNDS), "+Inf"), counts.buckets, strict=True):
            running += count
            cumulative.append((bound, running))
        family.add_metric([key], cumulative, counts.seconds)
    return family


__all__ = [
    "LATENCY_BOUNDS",
    "METRICS",
    "METRICS_CONTENT_TYPE",
    "LatencyCounts",
    "ServerStatistics",
    "StatisticsCollector",
    "build_registry",
    "render_metrics",
]
