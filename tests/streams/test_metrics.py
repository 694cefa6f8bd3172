"""The metrics, their names and their page."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from sdstream.metrics import LATENCY_BOUNDS, METRICS, LatencyCounts, ServerStatistics, build_registry, render_metrics
from sdstream.streams.views import StreamState
from sdstream.worker.ports import LanePhase, LaneStatus
from tests.streams.conftest import Scene

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
FULL = ServerStatistics(
    streams=3,
    drops={"superseded": 4},
    sound_drops={"sound_late": 2},
    outputs={"live": 1},
    states={"ONLINE": 1, "OFFLINE": 2},
    latencies={"worker": LatencyCounts((5,) + (0,) * (len(LATENCY_BOUNDS) - 1) + (2,), 9.5)},
    updates={"hot": 7},
    loads={"ready": 3},
    load_seconds={"ready": 12.5},
    replaced={"similar": 3},
    worker_calls={1: 5, 4: 2},
    worker_call_seconds={1: 0.25, 4: 0.5},
    worker_phase="ready",
    worker_phases=("starting", "ready"),
    worker_memory_used=1,
    worker_memory_total=2,
    worker_start_seconds=4.5,
    accelerations={"torch+cuda_graph": 2},
    engine_events={"hit": 1},
)


def samples_of(statistics: ServerStatistics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render_metrics(build_registry(lambda: statistics)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_is_served_and_none_else() -> None:
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in samples_of(FULL)}
    assert {name for name in names if not name.startswith("sdstream_process_")} == set(METRICS)


def test_numbers_and_labels_arrive() -> None:
    samples = samples_of(FULL)
    assert samples["sdstream_streams", ()] == 3
    assert samples["sdstream_frames_dropped_total", (("reason", "superseded"),)] == 4
    assert samples["sdstream_load_seconds_total", (("outcome", "ready"),)] == 12.5
    assert samples["sdstream_worker_phase", (("phase", "ready"),)] == 1
    assert samples["sdstream_worker_calls_total", (("streams", "4"),)] == 2
    assert samples["sdstream_worker_call_seconds_total", (("streams", "4"),)] == 0.5
    assert samples["sdstream_worker_phase", (("phase", "starting"),)] == 0


async def test_streams_are_counted_by_what_runs_their_networks(scene: Scene) -> None:
    for acceleration in ("torch+cuda_graph", "tensorrt-rtx", "torch+cuda_graph", ""):
        record = await scene.create_live()
        ready = LaneStatus(LanePhase.READY, revision=record.revision, acceleration=acceleration)
        scene.lane_of(record).listener.on_lane_status(ready)
    samples = samples_of(scene.service.statistics())
    counted = {labels[0][1]: value for (name, labels), value in samples.items() if name.endswith("_accelerations")}
    assert counted == {"torch+cuda_graph": 2, "tensorrt-rtx": 1}


def test_a_histogram_is_cumulative() -> None:
    samples = samples_of(FULL)
    assert samples["sdstream_latency_seconds_bucket", (("hop", "worker"), ("le", "0.001"))] == 5
    assert samples["sdstream_latency_seconds_bucket", (("hop", "worker"), ("le", "2.5"))] == 5
    assert samples["sdstream_latency_seconds_bucket", (("hop", "worker"), ("le", "+Inf"))] == 7
    assert samples["sdstream_latency_seconds_sum", (("hop", "worker"),)] == 9.5


def test_unknown_memory_is_left_out() -> None:
    assert not [name for name, _ in samples_of(ServerStatistics()) if "memory_used" in name]


async def test_the_series_do_not_grow_with_streams(scene: Scene) -> None:
    registry = build_registry(scene.service.statistics)

    def series() -> set[str]:
        lines = render_metrics(registry).decode().splitlines()
        return {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}

    first = await scene.create_live()
    await scene.flow(first, 1)
    before = series()
    for _ in range(5):
        await scene.flow(await scene.create_live(), 1)
    assert series() == before
    for state in StreamState:
        assert f'sdstream_stream_states{{state="{state}"}}' in before


def test_the_page_lists_every_metric_with_its_help() -> None:
    row = re.compile(r"^\| `(sdstream_\w+)` \| \w+ \|[^|]*\| (.+?) \|$", re.MULTILINE)
    assert dict(row.findall(PAGE.read_text("utf-8"))) == METRICS


async def test_loads_are_counted_with_their_time_also_of_streams_that_are_gone(scene: Scene) -> None:
    record = await scene.create_live()
    lane = scene.lane_of(record)
    lane.listener.on_lane_status(LaneStatus(LanePhase.LOADING, detail="making the UNet"))
    scene.clock.advance(2.5)
    lane.listener.on_lane_status(LaneStatus(LanePhase.READY, revision=record.revision))
    counted = samples_of(scene.service.statistics())
    labels = (("outcome", "ready"),)
    loads, seconds = counted["sdstream_loads_total", labels], counted["sdstream_load_seconds_total", labels]
    assert (loads >= 1, seconds >= 2.5) == (True, True)
    await scene.service.delete(record.id)
    later = samples_of(scene.service.statistics())
    assert (later["sdstream_loads_total", labels], later["sdstream_load_seconds_total", labels]) == (loads, seconds)
