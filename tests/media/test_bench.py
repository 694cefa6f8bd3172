"""The benches' own arithmetic: numbers in pixels, percentiles, and which arrival belongs to which sending."""

import asyncio
import contextlib
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy
import pytest

from bench import api, cpu, network
from bench.cpu import align, carried
from bench.soak import Samples, describe
from bench.support.caller import Caller, Reply
from bench.support.clip import LENGTH, make_clip, read_stamp
from bench.support.peers import VIDEO, MarkerViewer, PictureViewer
from bench.support.targets import conditions
from sdstream.media.embedded.pictures import view_of


@pytest.mark.parametrize("lost", [set(), {0, 1, 7}, set(range(20, 40))], ids=["none", "some", "many"])
def test_arrivals_are_matched_with_what_was_sent(lost: set[int]) -> None:
    sent = {number: number / 30 for number in range(50, 200)}
    delays = numpy.random.default_rng(1).uniform(0.004, 0.2, 200)
    arrivals = {
        number - 90: moment + float(delays[number])
        for number, moment in sent.items()
        if number >= 90 and number - 90 not in lost
    }
    assert align(sent, arrivals) == 90


def test_the_numbers_in_the_clip_can_be_read() -> None:
    clip = make_clip()
    views = [view_of(frame, received_at=0.0, sequence=0) for frame in clip.frames]
    assert [read_stamp(view.y) for view in views if view is not None] == list(range(LENGTH))


def test_noise_has_no_number() -> None:
    grey = numpy.full((512, 512), 128, numpy.uint8)
    assert read_stamp(grey) is None


def test_the_most_streams_with_few_late_pictures_count() -> None:
    rows = [
        {"streams": 4, "late_percent": 0.0},
        {"streams": 8, "late_percent": 0.9},
        {"streams": 10, "late_percent": 3},
    ]
    assert carried(rows) == 8
    assert carried([]) == 0


def test_no_percentile_is_above_the_largest_of_a_few() -> None:
    ages = [(float(moment), 0.1 * moment) for moment in range(1, 7)]
    figures = network.measure(ages, 0.0, 0.0, 30.0)
    assert figures["p50"] <= figures["p95"] <= figures["max"] == 600.0
    viewer = PictureViewer.__new__(PictureViewer)
    viewer.ages = ages
    figures = describe(Samples([0.0], [1.0], [1], [1]), [viewer], [{}], 30.0)
    assert figures["age_p99_ms"][0] <= 600.0


async def test_the_99th_of_100_calls_is_their_p99() -> None:
    moments = iter(range(1, 101))

    async def call(caller: Caller) -> Reply:
        await asyncio.sleep(0)
        return Reply(200, {}, b"")

    class Clock:
        """Call n takes n seconds."""

        now = 0.0
        asked = 0

        def perf_counter(self) -> float:
            self.asked += 1
            if self.asked > 1 and self.asked % 2:
                self.now += next(moments, 0)
            return self.now

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(api, "time", Clock())
        result = await api.measure(api.Endpoint("ping", 200, call), [Caller("", 0, 0)], 100, None)
    assert (result.p50, result.p99, result.maximum) == (50_500, 99_000, 100_000)


@pytest.mark.parametrize("rate", [2, 30, 60])
async def test_every_picture_counts_whatever_the_cameras_rate(rate: int) -> None:
    viewer = MarkerViewer(httpx.AsyncClient(), 90_000 // rate)
    for number in range(20):
        header = struct.pack("!BBHII", 0x80, 0x80 | VIDEO.payload_type, number, number * 90_000 // rate, 1)
        viewer.on_rtp(header + b"picture")
    await viewer.close()
    assert sorted(viewer.arrivals) == list(range(20))


def test_a_file_of_figures_says_when_and_how_they_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/tree/bench/network.py", "--narrow"])
    told = conditions()
    assert told["command"] == "python -m bench.network --narrow"
    assert time.strptime(told["date"], "%Y-%m-%d")
    assert told["machine"]["cores"]


async def test_what_one_more_viewer_costs_is_the_difference_of_two_measurements_with_the_same_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here a picture is twice as dear while a codec runs on the machine, and a viewer is 1 % of a core."""
    busy, measured = threading.Event(), threading.Event()
    server = SimpleNamespace(viewers=4)

    def codec(clip: object, seconds: float) -> dict[str, float]:
        busy.set()
        measured.wait(30)
        measured.clear()
        return {"decode": 0.0, "encode": 0.0}

    async def spend(target: object, streams: object, seconds: float) -> tuple[float, int, float]:
        is_busy = await asyncio.to_thread(busy.wait, 5)
        busy.clear()
        measured.set()
        return (2 if is_busy else 1) * server.viewers * 0.01, 30, 1.0

    async def add_viewer() -> None:
        server.viewers += 1

    @contextlib.asynccontextmanager
    async def streams_of(*given: object) -> AsyncIterator[list[Any]]:
        yield [SimpleNamespace(add_viewer=add_viewer)]

    for name, stand_in in {"codec_cost": codec, "_spend": spend, "streams_of": streams_of}.items():
        monkeypatch.setattr(cpu, name, stand_in)
    monkeypatch.setattr(cpu, "settle", lambda process: 0.0)
    nobody: Any = SimpleNamespace(process=None)
    cost = await cpu.measure_cost(nobody, nobody, 0.4)
    assert cost["extra_viewer_percent"] == pytest.approx(2.0)
