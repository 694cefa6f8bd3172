"""Sound on its way through: untouched, in step with the pictures, and counted where something is missing."""

import asyncio
import itertools
from typing import Any

import pytest
from aiortc.mediastreams import AudioStreamTrack

from sdstream.clock import ManualClock
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.embedded.capture import CaptureClock, TrackClock
from sdstream.media.embedded.sound import OldestDroppedSound, ReceivedSound, SoundDelay, SoundRelay
from tests.media.clients import DirectPublisher, DirectViewer, KeptSound
from tests.media.conftest import SIZE
from tests.media.flash import PERIOD, DelayedEcho, FlashingCamera, FlashViewer, Onset, beeps, nearest
from tests.support.waiting import eventually

CLOSE = 0.04
"""Seconds that sound and picture may be apart at the viewer."""
LATEST = 0.3
"""Seconds after a flash that comes early until its sound is left out: five pictures must agree."""


@pytest.fixture
async def delayed(media: EmbeddedMedia) -> DelayedEcho:
    echo = DelayedEcho(0.02)
    echo.stream = await media.open_stream("stream", SIZE, echo)
    return echo


async def see_and_hear(viewer: FlashViewer, count: int) -> list[tuple[Onset, Onset]]:
    """The next `count` flashes, each with its beep; those aside whose beep was left out when the latency fell."""
    done = len(viewer.flashes)
    await eventually(lambda: len(viewer.flashes) > done + count, seconds=count * PERIOD + 10)
    flashes = viewer.flashes[done : done + count]
    await eventually(lambda: viewer.beeps[-1].captured_at > flashes[-1].captured_at + CLOSE)
    heard = [flash for flash in flashes if not any(-CLOSE < at - flash.captured_at < LATEST for at in viewer.mute)]
    return [(flash, nearest(viewer.beeps, flash)) for flash in heard]


@pytest.mark.slow
@pytest.mark.alone
async def test_sound_stays_with_the_picture_when_the_latency_jumps(delayed: DelayedEcho) -> None:
    assert delayed.stream is not None
    async with FlashingCamera(delayed.stream), FlashViewer(delayed.stream) as viewer:
        await see_and_hear(viewer, 3)  # the first reports come after a second
        for delay in (0.02, 0.4, 0.02):
            delayed.delay = delay
            during = await see_and_hear(viewer, 2)
            settled = await see_and_hear(viewer, 2)
            assert during
            assert settled
            # A player that follows the sender reports is right all the time; arrivals are once the delay is found.
            by_reports = [flash.captured_at - beep.captured_at for flash, beep in during + settled]
            by_arrival = [flash.arrived_at - beep.arrived_at for flash, beep in settled]
            assert max(map(abs, by_reports)) < CLOSE, (delay, by_reports)
            assert max(map(abs, by_arrival)) < CLOSE, (delay, by_arrival)
        sound = delayed.stream.statistics().sound
        assert sound.corrections >= 2
        assert sound.gaps == 0
        assert set(sound.dropped) == {"sound_skipped"}


async def test_opus_is_passed_on_as_it_came(delayed: DelayedEcho) -> None:
    assert delayed.stream is not None
    async with FlashingCamera(delayed.stream), FlashViewer(delayed.stream) as viewer:
        await eventually(lambda: len(viewer.packets) >= 40)
        sound = delayed.stream.statistics().sound
    sent = beeps()
    heard = [sent.index(packet.payload) for packet in viewer.packets]  # each is as it was sent, or this raises
    left_out = sum((after - before - 1) % len(sent) for before, after in itertools.pairwise(heard))
    # A machine that was held up lets the latency of pictures jump: only then something is skipped, and that is told.
    assert left_out <= (sum(sound.dropped.values()) if sound.corrections else 0)
    steps = {(b.timestamp - a.timestamp) % 2**32 for a, b in itertools.pairwise(viewer.packets)}
    assert steps == {960}


async def test_lost_sound_is_a_gap_that_the_viewer_can_see(delayed: DelayedEcho) -> None:
    assert delayed.stream is not None
    camera = FlashingCamera(delayed.stream)
    async with camera, FlashViewer(delayed.stream) as viewer:
        await eventually(lambda: len(viewer.packets) >= 5)
        camera.muted = lambda number: number % 10 == 0
        await eventually(lambda: len(viewer.packets) >= 40)
        assert delayed.stream.statistics().sound.gaps >= 2
    steps = [(b.sequence - a.sequence) % 2**16 for a, b in itertools.pairwise(viewer.packets)]
    assert set(steps) == {1, 2}


async def test_a_viewer_of_a_silent_camera_sees_pictures(delayed: DelayedEcho) -> None:
    assert delayed.stream is not None
    async with FlashingCamera(delayed.stream, sound=False), FlashViewer(delayed.stream) as viewer:
        await eventually(lambda: len(viewer.flashes) >= 2)
    assert viewer.packets == []


async def test_sound_of_aiortc_reaches_aiortc(media: EmbeddedMedia, delayed: DelayedEcho) -> None:
    class Speaking(DirectPublisher):
        def arrange(self) -> None:
            super().arrange()
            self.connection.addTransceiver(AudioStreamTrack(), direction="sendonly")

    class Listening(DirectViewer):
        heard = 0

        def started(self) -> None:
            super().started()
            receiver = next(item.receiver for item in self.connection.getTransceivers() if item.kind == "audio")
            self.tasks.append(asyncio.get_running_loop().create_task(self._listen(receiver.track)))

        async def _listen(self, track: Any) -> None:
            while True:
                await track.recv()
                self.heard += 1

    assert delayed.stream is not None
    async with Speaking(delayed.stream), Listening(delayed.stream) as viewer:
        await viewer.wait_kind("card")
        await eventually(lambda: viewer.heard >= 20)


def test_the_delay_follows_a_jump_at_once_and_a_drift_slowly() -> None:
    delay = SoundDelay()
    now = 0.0
    for _ in range(30):
        now += 1 / 30
        delay.observe(0.1, now)
    assert delay.seconds == pytest.approx(0.1)
    jumped = 0
    for _ in range(5):
        now += 1 / 30
        jumped += delay.observe(0.5, now)
    assert (jumped, delay.corrections) == (1, 1)
    assert delay.seconds == pytest.approx(0.5)
    for _ in range(30):
        now += 1 / 30
        assert not delay.observe(0.53, now)
    assert 0.51 < delay.seconds <= 0.5201


def test_one_late_picture_moves_no_sound() -> None:
    delay = SoundDelay()
    for number in range(100):
        delay.observe(0.5 if number % 10 == 5 else 0.1, number / 30)
    assert delay.corrections == 0
    assert delay.seconds == pytest.approx(0.1, abs=0.005)


def test_the_oldest_waiting_sound_is_dropped() -> None:
    waiting = OldestDroppedSound(3)
    for number in (1, 2, 4, 3, 5):
        assert waiting.put(number, ReceivedSound(number, 0, 0.0, b""))
    assert not waiting.put(5, ReceivedSound(5, 0, 0.0, b""))
    assert [waiting.take()[0] for _ in range(len(waiting))] == [3, 4, 5]
    assert waiting.dropped == 2


async def test_another_publisher_goes_on_where_the_one_before_ended() -> None:
    clock = ManualClock()
    relay = SoundRelay(clock)
    seen = KeptSound()
    relay.sinks.add(seen)
    now = clock.monotonic()
    for number in range(3):
        relay.put(ReceivedSound(65_535 + number & 0xFFFF, number * 960, now - 1 + number / 50, b"a"))
    relay.restart()
    relay.put(ReceivedSound(7, 123_456, now - 0.5, b"b"))
    relay.put(ReceivedSound(8, 123_456 + 960, now - 0.48, b"b"))
    relay.put(ReceivedSound(7, 123_456, now - 0.5, b"b"))
    relay.close()
    assert [packet.sequence for packet in seen.packets] == [0, 1, 2, 3, 4]
    assert [packet.begins for packet in seen.packets] == [True, False, False, True, False]
    assert [packet.timestamp for packet in seen.packets] == [0, 960, 1920, 1920 + round(0.46 * 48_000), 2880 + 22_080]
    assert dict(relay.statistics().dropped) == {"sound_late": 1}


def test_sender_reports_put_two_tracks_on_one_clock() -> None:
    clock = CaptureClock()
    # The picture takes 80 ms longer to arrive than the sound of the same moment; RTP clocks begin anywhere.
    for number in range(100):
        captured = 100 + number / 25
        clock.video.arrived((7_000_000 + number * 3600) & 0xFFFFFFFF, captured + 0.1)
        clock.audio.arrived((4_294_900_000 + number * 1920) & 0xFFFFFFFF, captured + 0.02)
    assert clock.captured_at(clock.video, 7_000_000 + 99 * 3600) == pytest.approx(104.06)
    ntp = round(3_900_000_000.0 * 2**32)
    clock.video.reported(7_000_000, ntp)
    clock.audio.reported(4_294_900_000, ntp)
    video = clock.captured_at(clock.video, 7_000_000 + 99 * 3600)
    audio = clock.captured_at(clock.audio, (4_294_900_000 + 99 * 1920) & 0xFFFFFFFF)
    assert video == pytest.approx(103.98, abs=1e-3)
    assert audio == pytest.approx(103.98, abs=1e-3)


def test_reports_that_contradict_the_arrivals_are_not_believed() -> None:
    clock = CaptureClock()
    for track, rate in ((clock.video, 90_000), (clock.audio, 48_000)):
        track.arrived(0, 10.0)
        track.arrived(rate, 11.0)
    clock.video.reported(0, 5 << 32)
    clock.audio.reported(0, 500 << 32)
    assert clock.captured_at(clock.audio, 48_000) == pytest.approx(11.0)


def test_a_track_clock_follows_a_drifting_sender() -> None:
    clock = TrackClock(48_000)
    for number in range(3000):  # a minute, 200 ppm slow
        clock.arrived(number * 960, number / 50 * 1.0002)
    assert clock.offset is not None
    assert clock.offset + 3000 / 50 == pytest.approx(60 * 1.0002, abs=0.003)


async def test_every_hop_of_a_picture_is_told(delayed: DelayedEcho) -> None:
    assert delayed.stream is not None
    async with FlashingCamera(delayed.stream), FlashViewer(delayed.stream) as viewer:
        await eventually(lambda: len(viewer.flashes) >= 2)
    assert set(delayed.hops) == {"receive", "encode", "send"}
    for hop, seconds in delayed.hops.items():
        assert len(seconds) >= 10, hop
        assert min(seconds) >= 0, hop


async def test_sound_goes_on_at_once_after_a_time_in_which_nobody_heard_it() -> None:
    """Its numbers go round in 22 minutes, so they may come back just below the last one that was heard."""
    clock = ManualClock()
    relay = SoundRelay(clock)
    seen = KeptSound()
    now = clock.monotonic() - 2000
    for number in (*range(1000, 1003), *range(1003, 66_500, 500), *range(66_500, 66_503)):
        heard = number < 1003 or number >= 66_500
        (relay.sinks.add if heard else relay.sinks.discard)(seen)
        relay.put(ReceivedSound(number & 0xFFFF, number * 960, now + number / 50, b"a"))
    relay.close()
    assert [packet.sequence for packet in seen.packets] == [0, 1, 2, 3, 4, 5]
    assert [packet.begins for packet in seen.packets] == [True, False, False, True, False, False]
    assert dict(relay.statistics().dropped) == {}
