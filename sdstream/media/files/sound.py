"""A track of sound on its way into another file: copied packet by packet, or encoded anew."""

import io
import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import av
import av.error

from sdstream.errors import CommandFailed

FALLBACK_SOUND: Mapping[str, str] = {"webm": "libopus", "ogg": "libopus"}
"""Sound codecs of containers that take few; elsewhere AAC."""
MOST_CHANNELS: Mapping[str, int] = {"flv": 2}
"""Of containers that take fewer than eight, which is what players read of AAC and Opus."""
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")
"""Which speakers channels are for when only their number is known: FFmpeg's own choice, too."""
SOUND_RATE = 48_000
"""Samples a second where a codec does not take those of the source."""
_NAME = re.compile(r"^#channel_layout_name 0: (.+)$", re.MULTILINE)
_NUMBER = re.compile(r"([0-9]+) channels")


class SoundTrack:
    """One track of sound: copied, or decoded and encoded anew in a `form` where there is one.

    The packets that it gives go forward in time: what lies over sound that was given already is left out.
    """

    def __init__(self, target: Any, form: "_Form | None" = None) -> None:
        self._target = target
        self._form = form
        self._resampler: Any = None
        self._decoded: tuple[str, str, int] | None = None
        """What the resampler was made for: layout, format and rate."""
        self._last: int | None = None

    @classmethod
    def open(cls, container: Any, source: Any, notes: list[str]) -> "SoundTrack":
        """A track of `container` for the stream `source`; `notes` hear what is no plain copy.

        Raises `CommandFailed` where the container's codec can make nothing of the channels.
        """
        name = source.codec_context.name
        codec = FALLBACK_SOUND.get(container.format.name, "aac")
        # libav's list of what a container takes is not whole: MPEG-TS takes AAC, too.
        if (name in container.supported_codecs or name == codec) and _begins_with(container.format.name, source):
            return cls(container.add_stream_from_template(source))
        layout = _settle_layout(source, notes)
        form = _choose_form(
            codec, source.codec_context.sample_rate, layout, MOST_CHANNELS.get(container.format.name, len(LAYOUTS))
        )
        if form is None:
            raise CommandFailed(f"{codec} can make nothing of sound with {layout}", hint="Write .mkv or .mov.")
        notes.append(f"sound was encoded anew as {codec}: this container does not take {name}")
        if form.layout != layout:
            notes.append(f"sound was mixed down from {layout} to {form.layout}, the most that fits")
        target = container.add_stream(codec, rate=form.rate)
        target.codec_context.layout = form.layout
        return cls(target, form)

    def convert(self, packet: Any) -> list[Any]:
        """The packets to write for one of the source's."""
        if self._form is None:
            if packet.dts is None:  # the empty packet at the end
                return []
            packet.stream = self._target
            return self._forward([packet])
        made: list[Any] = []
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # a moment of silence, as in any player
            return made
        for frame in frames:
            made += self._encode(self._resampled(frame, self._form))
        return self._forward(made)

    def flush(self) -> list[Any]:
        """The packets still in the encoder."""
        if self._form is None:
            return []
        left: list[Any] = self._resampler.resample(None) if self._resampler else []
        return self._forward([*self._encode(left), *self._target.encode(None)])

    def _resampled(self, frame: Any, form: "_Form") -> list[Any]:
        """The frame in the form to encode; a film that was joined to another may change its own."""
        decoded = (frame.layout.name, frame.format.name, frame.sample_rate)
        left: list[Any] = []
        if decoded != self._decoded:
            left = self._resampler.resample(None) if self._resampler else []
            self._decoded = decoded
            self._resampler = av.AudioResampler(
                format=self._target.codec_context.format or "fltp", layout=form.layout, rate=form.rate
            )
        return left + self._resampler.resample(frame)

    def _encode(self, frames: list[Any]) -> list[Any]:
        return [packet for frame in frames for packet in self._target.encode(frame)]

    def _forward(self, packets: list[Any]) -> list[Any]:
        """All but what would be heard together with other sound, where a film was joined to another."""
        kept: list[Any] = []
        for packet in packets:
            if self._last is not None and packet.dts is not None and packet.dts <= self._last:
                if 2 * (self._last - packet.dts) >= (packet.duration or 0):
                    continue
                packet.dts = self._last + 1
                packet.pts = max(packet.dts, packet.pts or 0)
            self._last = packet.dts
            kept.append(packet)
        return kept


class _Form(NamedTuple):
    """Samples a second, and the name of a layout of channels."""

    rate: int
    layout: str


def _settle_layout(source: Any, notes: list[str]) -> str:
    """The name of the layout in which the stream `source` will be decoded, a plain one where it has one of its own.

    PyAV 18.1 frees the list of channels of such a layout twice, for the context and for every frame of it, and the
    process ends. So nothing here asks for `source.codec_context.layout`, and the decoder is told a plain one.
    """
    header = io.BytesIO()
    trial: Any
    with av.open(header, "w", format="framecrc") as trial:  # which writes the name
        trial.add_stream_from_template(source)
        trial.start_encoding()
    named = _NAME.search(header.getvalue().decode(errors="replace"))
    name = named[1] if named else "mono"
    counted = _NUMBER.match(name)
    if counted is None or not 1 <= int(counted[1]) <= len(LAYOUTS):
        return name
    plain = LAYOUTS[int(counted[1]) - 1]
    source.codec_context.options = {"ch_layout": plain}
    if "(" in name:
        notes.append(f"its channels were taken as {plain}: they are {name}, an order of their own")
    return plain


def _choose_form(codec: str, rate: int, layout: str, most: int) -> _Form | None:
    """What the encoder `codec` takes, of `most` channels, that is nearest to this rate and layout; None for nothing."""
    try:
        channels = av.AudioLayout(layout).nb_channels
    except ValueError:
        return None
    rates = (SOUND_RATE,) if codec == "libopus" else tuple(dict.fromkeys((rate, SOUND_RATE)))
    layouts = (layout,) * (channels <= most) + LAYOUTS[: min(channels, most)][::-1]
    return next(
        (form for form in itertools.starmap(_Form, itertools.product(rates, layouts)) if _opens(codec, form)), None
    )


def _opens(codec: str, form: _Form) -> bool:
    context: Any = av.CodecContext.create(codec, "w")
    context.sample_rate, context.layout = form.rate, form.layout
    context.format = context.codec.audio_formats[0]
    try:
        context.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _begins_with(container_format: str, source: Any) -> bool:
    """Whether a file of this format can begin with a copy of the track, tried in memory.

    Lists of codecs do not say all: MOV takes no Opus, MP4 no MP3 of low rates and no PCM whose channels are for
    unknown speakers. MP4 writes what it knows of a track at its end unless it is told to begin with it.
    """
    trial: Any
    options = {"movflags": "empty_moov"} if container_format in ("mp4", "mov") else {}
    try:
        with av.open(io.BytesIO(), "w", format=container_format, options=options) as trial:
            trial.add_stream_from_template(source)
            trial.start_encoding()
    except (av.error.FFmpegError, OSError, ValueError):
        return False
    return True


__all__ = ["SoundTrack"]
