"""A media back end on loopback, and a listener that sends every picture back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from sdstream.clock import SystemClock
from sdstream.frames import I420Frame, PictureSize
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.embedded.stream import EmbeddedStream
from sdstream.media.ports import MediaHop, MediaStream, OutputStatistics, PublisherState
from sdstream.settings import Settings
from tests.media.clients import make_settings

SIZE = PictureSize(384, 384)


@dataclass
class Echo:
    """Sends each picture back and remembers what it was told."""

    stream: MediaStream | None = None
    frames: list[I420Frame] = field(default_factory=list[I420Frame])
    states: list[PublisherState] = field(default_factory=list[PublisherState])
    viewers: list[int] = field(default_factory=list[int])
    hops: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    keep: bool = False
    count: int = 0

    def on_video(self, frame: I420Frame) -> None:
        self.count += 1
        if self.keep:
            self.frames.append(frame.copy())
        assert self.stream is not None
        self.stream.send(frame)

    def on_publisher(self, state: PublisherState) -> None:
        self.states.append(state)

    def on_viewers(self, count: int) -> None:
        self.viewers.append(count)

    def on_hop(self, hop: MediaHop, seconds: float) -> None:
        self.hops.setdefault(hop, []).append(seconds)

    def on_output(self, output: OutputStatistics) -> None:
        """The tests of outputs have a listener of their own."""

    def on_recording(self, name: str, problem: str | None) -> None:
        """The tests of outputs have a listener of their own."""


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
async def media(settings: Settings) -> AsyncIterator[EmbeddedMedia]:
    backend = EmbeddedMedia(settings, SystemClock())
    await backend.start()
    yield backend
    await backend.close()
    # aiortc's own peers end in tasks that nobody waits for.
    await asyncio.sleep(0)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def stream(media: EmbeddedMedia, echo: Echo) -> EmbeddedStream:
    opened = echo.stream = await media.open_stream("stream", SIZE, echo)
    return opened
