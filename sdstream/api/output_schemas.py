"""What answers say of the media plane and of outputs besides WHEP, and the base of all shapes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Every member is always present; members beyond these may come."""

    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)


class SoundStatus(Shape):
    """The sound on its way through, in packets."""

    packets: int
    gaps: int
    corrections: int
    dropped: dict[str, int]
    delay_ms: float


class MediaStatus(Shape):
    """The counters of the media plane since the stream was opened; sizes are such as `512x512`."""

    frames_decoded: int
    decode_errors: int
    frames_encoded: int
    keyframes: int
    input_size: str | None
    output_size: str | None
    encode_ms: float
    drops: dict[str, int]
    warnings: list[str]
    hls_active: bool
    sound: SoundStatus


class OutputStatus(Shape):
    """A push to an RTMP server, without its key."""

    target: str
    state: Literal["connecting", "live", "waiting"]
    last_error: str | None
    connections: int
    pictures: int
    bytes_sent: int
    dropped: int


class RecordingStatus(Shape):
    """The recording under way."""

    name: str
    seconds: float
    bytes_written: int


class Recording(Shape):
    """A file that was recorded."""

    name: str
    url: str
    started_at: str
    bytes: int
    finished: bool


class RecordingList(Shape):
    """The recordings of a stream, oldest first."""

    success: Literal[True]
    data: list[Recording]


class RecordingSwitch(Shape):
    """Whether the stream is recorded."""

    enabled: bool
    format: Literal["mp4"]


__all__ = ["MediaStatus", "OutputStatus", "Recording", "RecordingList", "RecordingStatus", "RecordingSwitch", "Shape"]
