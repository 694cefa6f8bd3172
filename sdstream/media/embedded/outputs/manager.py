"""All outputs of one stream besides WHEP: made when somebody wants them, taken down when nobody does."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdstream.clock import Clock
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.distribution import Distribution
from sdstream.media.embedded.outputs.feed import OutputFeed
from sdstream.media.embedded.outputs.fragments import FragmentMuxer, FragmentSink
from sdstream.media.embedded.outputs.hls import HlsOutput
from sdstream.media.embedded.outputs.names import NameLookUp
from sdstream.media.embedded.outputs.push import PushOutput
from sdstream.media.embedded.outputs.recorder import Recorder
from sdstream.media.ports import HlsFile, OutputStatistics, RecordingStatistics

CODEC = "H264"
LOOK_SECONDS = 2.0
"""How often it is looked whether anybody still watches HLS."""
EARLY_KEYFRAME = 0.55
"""Seconds after HLS begins at which a keyframe is asked for, so that the first segment is a short one."""
RECORDER_PATIENCE = 3.0
"""Seconds that a recording may wait for the fragment that is being made before it ends without it."""
FINISH_SECONDS = 6.0
"""How long the end of a stream waits for a recording to be made whole; the next start does what is left."""


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What outputs need of the settings. `least_free` is the bytes of disk that recordings leave alone."""

    allow_private: bool = False
    least_free: int = 0


@dataclass(frozen=True, slots=True)
class OutputEvents:
    """Whom to tell, on the event loop."""

    on_output: Callable[[OutputStatistics], None]
    on_recording: Callable[[str, str | None], None]


class OutputSet:
    """Everything runs on the event loop."""

    def __init__(
        self,
        distribution: Distribution,
        options: OutputOptions,
        events: OutputEvents,
        clock: Clock,
        faults: FoldedReporter,
    ) -> None:
        self._distribution = distribution
        self._options = options
        self._events = events
        self._clock = clock
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._feed: OutputFeed | None = None
        self._muxer: FragmentMuxer | None = None
        self._hls: HlsOutput | None = None
        self._hls_breaks = 0
        self._names = NameLookUp(allow_private=options.allow_private)
        self._pushes: dict[str, PushOutput] = {}
        self._recorder: Recorder | None = None
        self._ending: set[Recorder] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def push_to(self, urls: Sequence[str]) -> None:
        """Push to `urls` and nowhere else from now on."""
        if self._closed:
            return
        for url in [url for url in self._pushes if url not in urls]:
            push = self._pushes.pop(url)
            if self._feed is not None:
                self._feed.remove(push)
            self._later(push.close())
        for url in urls:
            if url not in self._pushes:
                feed = self._open_feed()
                push = PushOutput(
                    url,
                    feed.sound_configuration,
                    self._clock,
                    names=self._names,
                    on_keyframe_wanted=self._want_keyframe,
                    on_state=self._on_push_state,
                )
                self._pushes[url] = push
                feed.add(push)
        self._close_unused()

    def record_to(self, file: Path | None) -> None:
        """Record into `file`, or end the recording."""
        recorder = self._recorder
        if recorder is not None:
            self._recorder = None
            self._ending.add(recorder)
            recorder.stop_soon()
            self._call_later(RECORDER_PATIENCE, recorder.stop)
        if file is not None and not self._closed:
            self._open_feed()  # first: where that fails there is nothing to take back
            started = self._recorder = Recorder(
                file,
                lambda problem: self._from_thread(lambda: self._on_stopped(file, problem)),
                self._options.least_free,
            )
            self._attach(started)
            self._events.on_recording(file.name, None)

    async def hls_file(self, name: str) -> HlsFile | None:
        """A file of HLS, which is made from the first request on."""
        if self._closed:
            return None
        hls = self._hls
        if hls is None:
            if not name.endswith(".m3u8"):
                return None
            hls = HlsOutput(self._clock, self._hls_breaks)
            self._attach(hls)
            self._hls = hls
            self._call_later(EARLY_KEYFRAME, self._want_keyframe)
            self._call_later(LOOK_SECONDS, self._look_at_hls)
        return await hls.file(name)

    def statistics(self) -> tuple[OutputStatistics, ...]:
        return tuple(push.statistics() for push in self._pushes.values())

    def recording(self) -> RecordingStatistics | None:
        return None if self._recorder is None else self._recorder.statistics()

    @property
    def hls_active(self) -> bool:
        return self._hls is not None

    async def close(self) -> None:
        """End everything; a recording is made whole first. Idempotent."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        pushes, self._pushes = list(self._pushes.values()), {}
        recorders = [*self._ending, *([self._recorder] if self._recorder is not None else [])]
        self._recorder = self._hls = None
        muxer, self._muxer = self._muxer, None
        feed, self._feed = self._feed, None
        if feed is not None:
            await self._drop_feed(feed)
        if muxer is not None:
            await asyncio.to_thread(muxer.finish)
        for recorder in recorders:
            recorder.stop()
        for recorder in recorders:
            await asyncio.to_thread(recorder.join, FINISH_SECONDS)
        await asyncio.gather(*(push.close() for push in pushes), *self._tasks, return_exceptions=True)

    # Helpers

    def _open_feed(self) -> OutputFeed:
        if self._feed is None:
            feed = OutputFeed(self._faults, lambda: self._from_thread(self._want_keyframe))
            try:
                self._distribution.join(CODEC, feed, feed)
            except BaseException:
                self._later(feed.close())
                raise
            self._feed = feed
        return self._feed

    def _attach(self, sink: FragmentSink) -> None:
        feed = self._open_feed()
        if self._muxer is None:
            self._muxer = FragmentMuxer()
            self._muxer.add(sink)
            feed.add(self._muxer)
        else:
            self._muxer.add(sink)

    def _detach(self, sink: FragmentSink) -> None:
        muxer = self._muxer
        if muxer is None:
            return
        muxer.remove(sink)
        if not muxer.is_wanted:
            self._muxer = None
            if self._feed is not None:
                self._feed.remove(muxer)
            self._later(asyncio.to_thread(muxer.finish))
        self._close_unused()

    def _close_unused(self) -> None:
        if self._pushes or self._muxer is not None or self._feed is None:
            return
        feed, self._feed = self._feed, None
        self._later(self._drop_feed(feed))

    async def _drop_feed(self, feed: OutputFeed) -> None:
        unused = self._distribution.leave(CODEC, feed, feed)
        await feed.close()
        if unused is not None:
            await unused.close()

    def _look_at_hls(self) -> None:
        hls = self._hls
        if hls is None:
            return
        if hls.is_idle:
            self._hls = None
            self._hls_breaks = hls.breaks + 1
            self._detach(hls)
        else:
            self._call_later(LOOK_SECONDS, self._look_at_hls)

    def _want_keyframe(self) -> None:
        self._distribution.request_keyframe(CODEC)

    def _on_push_state(self, push: PushOutput) -> None:
        if self._pushes.get(push.url) is push:
            self._events.on_output(push.statistics())

    def _on_stopped(self, file: Path, problem: str | None) -> None:
        recorder = self._recorder
        if recorder is not None and recorder.statistics().name == file.name:
            self._recorder = None
            self._detach(recorder)
        for ended in [item for item in self._ending if item.statistics().name == file.name]:
            self._ending.discard(ended)
            self._detach(ended)
        if problem is not None:
            self._events.on_recording(file.name, problem)

    def _from_thread(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback)

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            callback()

        timer = self._loop.call_later(seconds, fire)
        self._timers.add(timer)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


__all__ = ["OutputEvents", "OutputOptions", "OutputSet"]
