"""A push to one RTMP server: its queue, its connection, and a new try after each failure."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import Callable

import structlog

from sdstream.clock import Clock
from sdstream.frames import PictureSize
from sdstream.media.embedded.outputs.names import NameLookUp
from sdstream.media.embedded.outputs.rtmp import RtmpError, RtmpPublisher, RtmpTarget, avc_header
from sdstream.media.embedded.outputs.units import DropToKeyframeQueue, PictureUnit, Unit
from sdstream.media.embedded.rates import PictureRate
from sdstream.media.ports import OutputState, OutputStatistics

MOST_WAITING = 300
"""Pictures and packets of sound, together about four seconds; a server that takes longer misses what lies between."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
SETTLED_SECONDS = 10.0
"""A connection that held so long is tried again at once when it breaks."""
LOOK_SECONDS = 1.0
"""How often a connection with nothing to send is looked at."""

log = structlog.get_logger(__name__)


class PushOutput:
    """Implements `UnitSink`: pushes to `url` until closed. `take` is for the feed's thread, all else for the loop.

    The main path never waits for it: units wait in a bounded queue that drops to the next keyframe.
    """

    def __init__(
        self,
        url: str,
        configuration: bytes,
        clock: Clock,
        *,
        names: NameLookUp,
        on_keyframe_wanted: Callable[[], None],
        on_state: Callable[["PushOutput"], None],
    ) -> None:
        self.url = url
        self.state = OutputState.CONNECTING
        self.last_error: str | None = None
        self._target = RtmpTarget(url)
        self._configuration = configuration
        self._clock = clock
        self._names = names
        self._on_keyframe_wanted = on_keyframe_wanted
        self._on_state = on_state
        self._queue: DropToKeyframeQueue[Unit] = DropToKeyframeQueue(MOST_WAITING)
        self._queue.clear()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._publisher: RtmpPublisher | None = None
        self._sent_before = 0
        self._connections = 0
        self._pictures = 0
        self._task = asyncio.create_task(self._run(), name="rtmp-push")

    def statistics(self) -> OutputStatistics:
        sent = self._publisher.bytes_sent if self._publisher is not None else 0
        return OutputStatistics(
            target=self._target.label,
            state=self.state,
            last_error=self.last_error,
            connections=self._connections,
            pictures=self._pictures,
            bytes_sent=self._sent_before + sent,
            dropped=self._queue.dropped,
        )

    def take(self, unit: Unit) -> None:
        if self.state is not OutputState.LIVE and self._publisher is None:
            return  # what nobody will send needs no place
        if self._queue.put(unit, keyframe=isinstance(unit, PictureUnit) and unit.keyframe):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake.set)

    async def close(self) -> None:
        """End the push. Idempotent."""
        self._queue.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = self._clock.monotonic()
            try:
                await self._push()
            except (RtmpError, OSError, TimeoutError, ValueError) as error:
                self.last_error = _describe(error)
            except Exception as error:  # the supervisor of the push, which is tried again until it is taken away
                self.last_error = "this server made a mistake"
                log.warning("a push failed", target=self._target.label, error=type(error).__name__, exc_info=error)
            finally:
                await self._disconnect()
            if self._clock.monotonic() - began > SETTLED_SECONDS:
                pause = FIRST_PAUSE
            self._change(OutputState.WAITING)
            await asyncio.sleep(pause * (0.8 + 0.4 * random.random()))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _push(self) -> None:
        self._change(OutputState.CONNECTING)
        address = await self._names.resolve(self._target.host, self._target.port)
        publisher = RtmpPublisher(self._target, address)
        self._queue.clear()  # from here on units wait, from a keyframe on
        self._publisher = publisher
        await publisher.open()
        self._connections += 1
        self._on_keyframe_wanted()
        await self._send_units(publisher)

    async def _send_units(self, publisher: RtmpPublisher) -> None:
        begin: int | None = None
        rate = PictureRate()
        described: tuple[PictureSize, bytes] | None = None
        told_rate: float | None = None
        while True:
            unit = self._queue.take(timeout=0)
            if unit is None:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wake.wait()
                publisher.check()
                continue
            if isinstance(unit, PictureUnit):
                if begin is None:
                    if not unit.keyframe:
                        continue
                    begin = unit.time
                rate.note(unit.time)
                milliseconds = max(0, (unit.time - begin) // 90)
                if unit.keyframe:
                    now = unit.size, avc_header(unit.data)
                    if now != described or (told_rate is None and rate.value is not None):
                        described, told_rate = now, rate.value
                        publisher.describe(unit.size, told_rate, self._configuration, unit.data, milliseconds)
                await publisher.send_picture(unit.data, milliseconds, keyframe=unit.keyframe)
                self._pictures += 1
                if self.state is not OutputState.LIVE:
                    self.last_error = None
                    self._change(OutputState.LIVE)
            elif begin is not None and unit.ticks >= begin:
                await publisher.send_sound(unit.data, (unit.ticks - begin) // 90)

    async def _disconnect(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            self._sent_before += publisher.bytes_sent
            await publisher.close()

    def _change(self, state: OutputState) -> None:
        if state is not self.state:
            self.state = state
            log.info("rtmp push", target=self._target.label, state=state.value, error=self.last_error)
            self._on_state(self)


def _describe(error: BaseException) -> str:
    if isinstance(error, RtmpError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {(error.reason or 'the server speaks none').lower().replace('_', ' ')}"
    if isinstance(error, socket.gaierror):
        return "the name of the server is not known"
    if isinstance(error, OSError):
        return f"no connection: {os.strerror(error.errno) if error.errno else type(error).__name__}"
    return "the server sends what cannot be read"


__all__ = ["PushOutput"]
