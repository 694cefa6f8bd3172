"""The thread that turns a stream's encoded pictures and Opus into units, for all outputs of the stream together."""

from collections.abc import Callable

from sdstream.logs import FoldedReporter
from sdstream.media.embedded.encoding import EncodedPicture
from sdstream.media.embedded.outputs.aac import AacLine
from sdstream.media.embedded.outputs.units import (
    SOUND_RATE,
    TICKS_PER_SAMPLE,
    DropToKeyframeQueue,
    PictureUnit,
    SoundUnit,
    UnitSink,
)
from sdstream.media.embedded.sound import SoundPacket
from sdstream.media.embedded.threads import LoopThread

MOST_WAITING = 400
"""Pictures and packets of sound, together about five seconds."""
SOUND_PATIENCE = 1.5
"""Seconds that sound may stay behind the pictures before silence takes its place: when the latency of the pictures
falls, sound that is held for the latency before is behind them for a moment."""
NO_SOUND_PATIENCE = 0.3
"""The same once there has been none for `SOUND_PATIENCE`, so that no muxer waits long for sound that does not come."""
JOIN_SECONDS = 5.0


class OutputFeed:
    """Delivered to on the event loop; gives units to its sinks on a thread of its own.

    A sink that fails is a defect: it is reported and left out, the others go on.
    """

    def __init__(self, faults: FoldedReporter, on_keyframe_wanted: Callable[[], None]) -> None:
        self._faults = faults
        self._on_keyframe_wanted = on_keyframe_wanted
        self._queue: DropToKeyframeQueue[EncodedPicture | SoundPacket] = DropToKeyframeQueue(MOST_WAITING)
        self._sinks: tuple[UnitSink, ...] = ()
        self._line = AacLine()
        self._offset: float | None = None
        """Captured seconds at the outputs' time 0."""
        self._heard = -(1 << 40)
        """The newest sound, in samples of the outputs' clock."""
        self._thread = LoopThread("outputs", self._run)

    @property
    def sound_configuration(self) -> bytes:
        """The AudioSpecificConfig of all sound units."""
        return self._line.configuration

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    @property
    def corrections(self) -> int:
        return self._line.corrections

    def add(self, sink: UnitSink) -> None:
        """Give `sink` every unit from now on; it starts at the first keyframe that it is given."""
        self._sinks = (*self._sinks, sink)
        self._on_keyframe_wanted()

    def remove(self, sink: UnitSink) -> None:
        self._sinks = tuple(other for other in self._sinks if other is not sink)

    @property
    def limit(self) -> None:
        """Files and other servers' viewers would keep what one viewer's line cost."""

    def deliver_here(self, picture: EncodedPicture) -> bool:
        """Sound comes on the loop, and pictures come there with it."""
        return False

    def deliver(self, picture: EncodedPicture) -> None:
        if not self._queue.put(picture, keyframe=picture.keyframe):
            self._on_keyframe_wanted()

    def deliver_sound(self, packet: SoundPacket) -> None:
        self._queue.put(packet, keyframe=False)

    async def close(self) -> None:
        self._queue.close()
        await self._thread.ended(JOIN_SECONDS)

    def _run(self) -> None:
        while not self._queue.closed:
            item = self._queue.take()
            if item is None:
                continue
            try:
                if isinstance(item, EncodedPicture):
                    self._take_picture(item)
                else:
                    self._take_sound(item)
            except Exception as error:  # noqa: BLE001 -- supervisor: outputs must not end each other
                self._report("the feed of the outputs failed", error)

    def _take_picture(self, picture: EncodedPicture) -> None:
        offset = picture.captured_at - picture.timestamp / 90_000
        if picture.is_live or self._offset is None:
            self._offset = offset
        now = round(picture.timestamp / TICKS_PER_SAMPLE)
        if self._line.position is None:
            self._line.start(now)
        self._give(PictureUnit(picture.data, picture.timestamp, picture.keyframe, picture.size))
        patience = SOUND_PATIENCE if now - self._heard < SOUND_PATIENCE * SOUND_RATE else NO_SOUND_PATIENCE
        for unit in self._line.fill(now - round(patience * SOUND_RATE)):
            self._give(unit)

    def _take_sound(self, packet: SoundPacket) -> None:
        if self._offset is None:
            return  # before the first picture there is no clock to lie on
        time = round((packet.captured_at - self._offset) * SOUND_RATE)
        self._heard = max(self._heard, time)
        for unit in self._line.put(packet.payload, time, begins=packet.begins):
            self._give(unit)

    def _give(self, unit: PictureUnit | SoundUnit) -> None:
        for sink in self._sinks:
            try:
                sink.take(unit)
            except Exception as error:  # noqa: BLE001 -- supervisor: one output must not end the others
                self.remove(sink)
                self._report("an output failed and is left out", error)

    def _report(self, what: str, error: Exception) -> None:
        self._faults.report(f"outputs {type(error).__name__}", what, error=type(error).__name__, exc_info=error)


__all__ = ["OutputFeed"]
