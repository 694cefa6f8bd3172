"""A stream service over fakes whose time moves by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sdstream.clock import ManualClock
from sdstream.fetching import PublicFetcher
from sdstream.params import ModelTable
from sdstream.settings import load_settings
from sdstream.streams.service import StreamService
from sdstream.streams.views import StreamRecord
from tests.streams.fakes import OFFER, FakeLane, FakeMedia, FakeMediaStream, FakeWorker, picture

CREATE = {"pipeline": "streamdiffusion", "params": {"model_id": "stabilityai/sd-turbo"}}


@dataclass
class Scene:
    """A service with its fakes, and the moves that most tests make."""

    service: StreamService
    media: FakeMedia
    worker: FakeWorker
    clock: ManualClock
    frames: int = 0

    async def create(self, **params: Any) -> StreamRecord:
        body = {"pipeline": "streamdiffusion", "params": CREATE["params"] | params}  # type: ignore[operator]
        return (await self.service.create(body, "author")).record

    async def create_live(self, **params: Any) -> StreamRecord:
        """A stream whose publisher is connected."""
        record = await self.create(**params)
        await self.publish(record)
        return record

    async def publish(self, record: StreamRecord) -> str:
        opened = await self.service.publish(record.stream_key, OFFER)
        self.media_of(record).connect()
        return opened.answer.session_id

    async def watch(self, record: StreamRecord) -> str:
        return (await self.service.watch(record.output_playback_id, OFFER)).answer.session_id

    def media_of(self, record: StreamRecord) -> FakeMediaStream:
        return self.media.streams[record.id]

    def lane_of(self, record: StreamRecord) -> FakeLane:
        return self.worker.lanes[record.id]

    async def flow(self, record: StreamRecord, seconds: float, fps: float = 30.0, *, processed: bool = True) -> None:
        """Let pictures come for `seconds`, processed at once or not at all, with a tick five times a second."""
        ticked_at = self.clock.monotonic()
        for _ in range(round(seconds * fps)):
            self.clock.advance(1 / fps)
            self.media_of(record).listener.on_video(picture(self.clock, self.frames))
            self.frames += 1
            lane = self.worker.lanes.get(record.id)
            if processed and lane is not None:
                lane.give_back()
            if self.clock.monotonic() - ticked_at >= 0.2:
                ticked_at = self.clock.monotonic()
                await self.service.tick()
        await self.service.tick()

    async def wait(self, seconds: float, step: float = 0.2) -> None:
        """Let time pass with ticks and nothing else."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await self.service.tick()


SceneMaker = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def make_scene(tmp_path: Path) -> AsyncIterator[SceneMaker]:
    """Makes a started scene: `await make_scene(max_streams=2)`; settings as keywords."""
    made: list[Scene] = []

    async def make(
        *,
        data_dir: Path | None = None,
        worker: FakeWorker | None = None,
        clock: ManualClock | None = None,
        fetcher: PublicFetcher | None = None,
        **settings: Any,
    ) -> Scene:
        clock = clock or ManualClock()
        media = FakeMedia()
        worker = worker or FakeWorker(clock)
        folder = data_dir or tmp_path
        loaded = load_settings({"data_dir": str(folder)} | settings, {})
        service = StreamService(
            loaded,
            media=media,
            worker=worker,
            models=ModelTable.from_settings(loaded),
            data_dir=folder,
            clock=clock,
            tick_seconds=None,
            fetcher=fetcher,
        )
        scene = Scene(service, media, worker, clock)
        made.append(scene)
        await service.start()
        return scene

    yield make
    for scene in made:
        await scene.service.close()


@pytest.fixture
async def scene(make_scene: SceneMaker) -> Scene:
    """A scene with the default settings."""
    return await make_scene()
