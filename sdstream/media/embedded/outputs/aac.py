"""AAC made once for every output that needs it: an unbroken line of samples, silence where there is no sound."""

from typing import Any, cast

import av
import numpy
from av.codec.context import Flags
from av.error import FFmpegError
from numpy.typing import NDArray

from sdstream.media.embedded.outputs.units import SOUND_RATE, SoundUnit

CHANNELS = 2
BITRATE = 128_000
SAMPLES = 1024
"""In one packet of AAC."""
TOLERANCE = 900
"""Samples (19 ms) that sound may lie beside its place before silence is put in or samples are left out."""
LONGEST_FILL = 10 * SOUND_RATE
"""Samples of silence made at one time; a longer hole restarts the line behind it."""
Samples = NDArray[numpy.float32]


class AacLine:
    """Decodes Opus, places it on the outputs' clock and encodes it. For one thread."""

    def __init__(self) -> None:
        self._decoder: Any = av.CodecContext.create("libopus", "r")
        encoder: Any = av.CodecContext.create("aac", "w")
        encoder.sample_rate, encoder.format, encoder.layout = SOUND_RATE, "fltp", "stereo"
        encoder.bit_rate = BITRATE
        encoder.flags = int(encoder.flags) | int(Flags.global_header)
        encoder.open()
        self._encoder = encoder
        self.configuration = bytes(encoder.extradata)
        """The AudioSpecificConfig."""
        self._position: int | None = None
        """The sample at which the next one put in will lie."""
        self._waiting: list[Samples] = []
        self._count = 0
        self.corrections = 0
        """Times that sound was moved because its clock and the pictures' had drifted apart."""
        self.decode_errors = 0

    @property
    def position(self) -> int | None:
        return self._position

    def start(self, time: int) -> None:
        """Begin the line at the sample `time`."""
        self._position = time
        self._waiting.clear()
        self._count = 0

    def put(self, opus: bytes, time: int, *, begins: bool) -> list[SoundUnit]:
        """Add a packet whose first sample lies at `time`; the AAC that is ready.

        `begins` says that time may have jumped.
        """
        if self._position is None:
            self.start(time)
        try:
            frames = self._decoder.decode(av.Packet(opus))
        except FFmpegError:
            self.decode_errors += 1
            return []
        units: list[SoundUnit] = []
        for frame in frames:
            samples = _planar(frame)
            units += self._place(samples, time, begins)
            time += samples.shape[1]
            begins = False
        return units

    def fill(self, until: int) -> list[SoundUnit]:
        """Put in silence up to the sample `until`, where no sound has come."""
        if self._position is None:
            self.start(until)
            return []
        missing = until - self._position
        if missing <= 0:
            return []
        if missing > LONGEST_FILL:
            self.start(until)
            return []
        return self._append(numpy.zeros((CHANNELS, missing), numpy.float32))

    def _place(self, samples: Samples, time: int, begins: bool) -> list[SoundUnit]:
        assert self._position is not None
        units: list[SoundUnit] = []
        off = time - self._position
        if abs(off) > LONGEST_FILL:
            self.start(time)
        elif off > TOLERANCE:
            self.corrections += not begins
            units += self.fill(time)
        elif off < -TOLERANCE:
            self.corrections += not begins
            samples = samples[:, -off:]
        return units + self._append(samples)

    def _append(self, samples: Samples) -> list[SoundUnit]:
        assert self._position is not None
        self._position += samples.shape[1]
        self._waiting.append(samples)
        self._count += samples.shape[1]
        if self._count < SAMPLES:
            return []
        joined = numpy.concatenate(self._waiting, axis=1)
        begin = self._position - joined.shape[1]
        units: list[SoundUnit] = []
        used = 0
        while used + SAMPLES <= joined.shape[1]:
            frame: Any = av.AudioFrame.from_ndarray(
                numpy.ascontiguousarray(joined[:, used : used + SAMPLES]), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts = SOUND_RATE, begin + used
            units += [SoundUnit(bytes(packet), int(packet.pts)) for packet in self._encoder.encode(frame)]
            used += SAMPLES
        rest = joined[:, used:]
        self._waiting, self._count = [rest], rest.shape[1]
        return units


def _planar(frame: Any) -> Samples:
    """A decoded frame as float32 [2, samples]."""
    array = cast("NDArray[Any]", frame.to_ndarray())
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype == numpy.int16:
        array = array.astype(numpy.float32) / 32768
    array = array.astype(numpy.float32, copy=False)
    return numpy.repeat(array, CHANNELS, axis=0) if array.shape[0] == 1 else array[:CHANNELS]


__all__ = ["AacLine"]
