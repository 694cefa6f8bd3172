"""What the threads of the media do when something on them fails: encoders go on, decoders end their session."""

import gc
import itertools
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import av
import pytest
import structlog
from av.codec.codec import UnknownCodecError
from structlog.testing import capture_logs

from sdstream.clock import SystemClock
from sdstream.frames import I420Frame, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.embedded import broadcast as broadcast_module
from sdstream.media.embedded.assembly import Picture
from sdstream.media.embedded.broadcast import Broadcast
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.decoding import LARGEST_SIDE, TOO_LARGE_WARNING, DecoderThread
from sdstream.media.embedded.encoding import EncodedPicture, PictureEncoder
from sdstream.media.embedded.lines import UNLIMITED
from sdstream.media.embedded.pictures import OwnedPicture
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.embedded.rtp import unpack_h264
from sdstream.media.embedded.threads import LoopThread
from sdstream.media.embedded.viewer import ViewerSession
from sdstream.media.ports import PublisherState
from tests.media.clients import DirectPublisher
from tests.media.conftest import SIZE, Echo
from tests.support.waiting import eventually

SMALL = PictureSize(64, 64)


@dataclass(eq=False)
class Watcher:
    """Stands for a viewer's session and keeps what it is given, and on which threads."""

    takes_here: bool = True
    pictures: list[EncodedPicture] = field(default_factory=list[EncodedPicture])
    threads: set[str] = field(default_factory=set[str])
    limit: float | None = UNLIMITED

    def deliver_here(self, picture: EncodedPicture) -> bool:
        if self.takes_here:
            self.deliver(picture)
        return self.takes_here

    def deliver(self, picture: EncodedPicture) -> None:
        self.threads.add(threading.current_thread().name)
        self.pictures.append(picture)


@dataclass
class Scene:
    broadcast: Broadcast
    watcher: Watcher
    counters: StreamCounters


class FailingEncoder(PictureEncoder):
    """Fails to be made as often as `failures` says, and always as NVENC. `made` are the encoders asked for."""

    failures = 0
    made: list[str]

    def __init__(
        self,
        codec: Any,
        size: PictureSize,
        bitrate: int,
        h264_encoder: Any = "x264",
        most_rate: float = 30.0,
        rate: float = 30.0,
    ) -> None:
        self.made.append(h264_encoder)
        if h264_encoder == "nvenc":
            raise UnknownCodecError("h264_nvenc")
        if type(self).failures:
            type(self).failures -= 1
            raise ValueError("no encoder to be had")
        super().__init__(codec, size, bitrate, h264_encoder, most_rate, rate)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[FailingEncoder]:
    monkeypatch.setattr(broadcast_module, "PictureEncoder", FailingEncoder)
    monkeypatch.setattr(broadcast_module, "RESTART_SECONDS", 0.01)
    monkeypatch.setattr(FailingEncoder, "failures", 0)
    monkeypatch.setattr(FailingEncoder, "made", [], raising=False)
    return FailingEncoder


def reporter() -> FoldedReporter:
    return FoldedReporter(structlog.get_logger(), SystemClock(), 60.0)


def open_broadcast(encoder: Any = "x264") -> Scene:
    counters, watcher = StreamCounters(), Watcher()
    broadcast = Broadcast("H264", Bitrates(500_000), encoder, counters, SystemClock(), reporter())
    broadcast.sinks.add(cast(ViewerSession, watcher))
    return Scene(broadcast, watcher, counters)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = open_broadcast()
    yield made
    await made.broadcast.close()


def picture() -> OwnedPicture:
    return OwnedPicture(av.VideoFrame(SMALL.width, SMALL.height, "yuv420p"), SMALL)


async def test_each_sink_is_given_a_picture_once_where_it_takes_it(scene: Scene) -> None:
    other = Watcher(takes_here=False)
    scene.broadcast.sinks.add(other)
    for count in (1, 2, 3):
        scene.broadcast.put(picture)
        await eventually(lambda count=count: len(scene.watcher.pictures) == len(other.pictures) == count)
    assert scene.watcher.pictures == other.pictures
    assert scene.watcher.threads == {"encode-h264"}
    assert other.threads == {threading.current_thread().name}


async def test_an_encoder_that_cannot_be_made_is_made_again(failing: type[FailingEncoder], scene: Scene) -> None:
    failing.failures = 3
    with capture_logs() as lines:
        scene.broadcast.put(picture)
        await eventually(lambda: scene.watcher.pictures)
    assert scene.watcher.pictures[0].keyframe
    assert scene.counters.drops["encoder_failed"] == 3
    assert [line["error"] for line in lines] == ["ValueError"], "one line for the same fault"


async def test_a_picture_that_cannot_be_drawn_is_passed_over(failing: type[FailingEncoder], scene: Scene) -> None:
    def draw() -> OwnedPicture:
        raise MemoryError

    scene.broadcast.put(draw)
    await eventually(lambda: scene.counters.drops.get("encoder_failed"))
    scene.broadcast.put(picture)
    await eventually(lambda: scene.watcher.pictures)
    assert failing.made == ["x264"]


async def test_nvenc_that_fails_is_replaced_by_x264(failing: type[FailingEncoder]) -> None:
    scene = open_broadcast("nvenc")
    scene.broadcast.put(picture)
    await eventually(lambda: scene.watcher.pictures)
    await scene.broadcast.close()
    assert failing.made == ["nvenc", "x264"]


async def test_an_encoder_that_waits_to_begin_again_can_be_closed(
    failing: type[FailingEncoder], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast_module, "RESTART_SECONDS", 3600.0)
    failing.failures = 1
    scene.broadcast.put(picture)
    await eventually(lambda: scene.counters.drops.get("encoder_failed"))
    await scene.broadcast.close()  # which waits for the thread for some seconds, and not for an hour
    assert await scene.broadcast._thread.ended(30)


def encoded(width: int, height: int) -> Picture:
    encoder = PictureEncoder("H264", PictureSize(width, height), 500_000)
    made = encoder.encode(av.VideoFrame(width, height, "yuv420p"), 0, keyframe=True)
    assert made is not None
    return Picture(b"".join(unpack_h264(payload)[0] for payload in made.payloads), 0, True)


@dataclass
class Decoding:
    """A decoder thread and what it called."""

    fails: bool = False
    sizes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    troubles: int = 0
    failures: int = 0
    counters: StreamCounters = field(default_factory=StreamCounters)

    def open(self) -> DecoderThread:
        return DecoderThread(
            "H264", self.deliver, self.on_trouble, self.on_failed, self.counters, SystemClock(), reporter()
        )

    def deliver(self, frame: I420Frame) -> None:
        self.sizes.append((frame.size.width, frame.size.height))
        if self.fails:
            raise MemoryError

    def on_trouble(self) -> None:
        self.troubles += 1

    def on_failed(self) -> None:
        self.failures += 1


async def test_a_decoder_thread_that_fails_says_so_once() -> None:
    decoding = Decoding(fails=True)
    decoder = decoding.open()
    with capture_logs() as lines:
        for _ in range(3):
            decoder.put(encoded(64, 64))
        await eventually(lambda: decoding.failures)
        assert await decoder.ended()
    assert (decoding.sizes, decoding.failures) == ([(64, 64)], 1)
    assert [line["error"] for line in lines] == ["MemoryError"]


async def test_pictures_with_too_long_a_side_are_dropped_and_the_user_is_told() -> None:
    decoding = Decoding()
    decoder = decoding.open()
    decoder.put(encoded(LARGEST_SIDE + 16, 64))
    decoder.put(encoded(LARGEST_SIDE, 64))
    await eventually(lambda: decoding.sizes)
    decoder.stop()
    assert await decoder.ended()
    assert decoding.sizes == [(LARGEST_SIDE, 64)]
    assert decoding.counters.drops == {"too_large": 1}
    assert list(decoding.counters.warnings) == [TOO_LARGE_WARNING]


async def test_memory_is_not_taken_for_a_picture_beyond_every_limit() -> None:
    decoding = Decoding()
    decoder = decoding.open()
    decoder.put(encoded(LARGEST_SIDE + 512, LARGEST_SIDE))
    decoder.put(encoded(64, 64))
    await eventually(lambda: decoding.sizes)
    decoder.stop()
    assert await decoder.ended()
    assert decoding.sizes == [(64, 64)]
    assert decoding.counters.decode_errors == decoding.troubles == 1


@dataclass
class Broken(Echo):
    """A listener whose memory is full."""

    def on_video(self, frame: I420Frame) -> None:
        raise MemoryError


async def test_a_publisher_whose_decoder_failed_is_gone_and_may_come_again(media: EmbeddedMedia) -> None:
    listener = Broken()
    stream = await media.open_stream("stream", SIZE, listener)
    async with DirectPublisher(stream) as publisher:
        await eventually(lambda: stream.statistics().publisher is PublisherState.ABSENT and len(listener.states) > 2)
        assert listener.states[:3] == [PublisherState.CONNECTING, PublisherState.CONNECTED, PublisherState.ABSENT]
        await eventually(lambda: publisher.state == "closed")
        assert await stream.end_session(publisher.session_id) is False
    echo = Echo(stream)
    stream._listener = echo
    async with DirectPublisher(stream):
        await eventually(lambda: echo.count)


async def test_counts_of_several_threads_are_not_lost_and_can_be_read_meanwhile() -> None:
    counters = StreamCounters()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def count() -> None:
            for _ in range(2000):
                counters.drop("encoder_busy")
                counters.decode_error()
                counters.encoded(SMALL, 0.01, keyframe=True)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        seen = [counters.drops.get("encoder_busy", 0)]
        while any(thread.is_alive() for thread in threads):
            seen.append(counters.drops.get("encoder_busy", 0))
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert all(earlier <= later for earlier, later in itertools.pairwise(seen))
    assert counters.drops == {"encoder_busy": 8000}
    assert (counters.decode_errors, counters.frames_encoded, counters.keyframes) == (8000, 8000, 8000)


async def test_what_had_a_thread_is_freed_with_it() -> None:
    class Owner:
        def __init__(self) -> None:
            self.thread = LoopThread("owned", self.run)

        def run(self) -> None:
            """Nothing to do."""

    owner = Owner()
    freed = weakref.ref(owner)
    gc.disable()  # a collection would free a ring, too, but nobody knows when it comes
    try:
        assert await owner.thread.ended(30)
        del owner
        assert freed() is None
    finally:
        gc.enable()
