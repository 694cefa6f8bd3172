"""What answers say of the worker, of the media plane and of outputs besides WHEP, and the base of all shapes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sdstream.worker.ports import LanePhase


class Shape(BaseModel):
    """Every member is always present; members beyond these may come."""

    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)


class LoraStatus(Shape):
    """A LoRA that is in the stream's model."""

    name: str
    weight: float


class ProcessorStatus(Shape):
    """An image processor of the stream: `place` is where the params name it, such as `controlnets[1]`."""

    place: str
    name: str
    phase: Literal["working", "loading", "left_out"]
    interval: int
    seen: bool
    problem: str
    acceleration: str
    note: str


class MissingStatus(Shape):
    """What the newest params ask for and could not be had; the rest of them is in force."""

    place: str = Field(description="Where the params name it, such as `controlnets[1]`.")
    name: str
    code: str
    message: str
    tries: int
    tries_again: bool = Field(description="Whether it is tried again with nothing sent.")
    next_try_time: int | None = Field(
        description="When it is tried next, in the past while it is; null for only when a PATCH names it."
    )


class RemarkStatus(Shape):
    """What the person should know of params that are in force."""

    place: str = Field(description="Where they name it, such as `prompt`.")
    message: str


class LaneState(Shape):
    """What the worker says of the stream."""

    phase: LanePhase
    detail: str
    percent: float | None
    seconds_left: int | None = Field(description="Of what `percent` counts, by how it went lately; null: not known.")
    revision: int = Field(description="The revision of the params that are in force.")
    effective_frame: int | None = Field(description="The first picture that was made under it.")
    loras: list[LoraStatus]
    error_code: str | None
    error_message: str | None
    acceleration_in_force: str | None
    missing: list[MissingStatus]
    remarks: list[RemarkStatus]
    processors: list[ProcessorStatus]


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
    video_bitrate: int | None
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


class MediaAddress(Shape):
    """An address of another protocol than WebRTC. For RTMP, programs such as OBS want `server` and `key` apart."""

    protocol: Literal["rtmp", "rtsp", "srt"]
    url: str
    server: str | None
    key: str | None


class MediaAddresses(Shape):
    """Where to publish, and where to watch."""

    publish: list[MediaAddress]
    watch: list[MediaAddress]


class IngestAnswer(Shape):
    """The addresses of a stream."""

    success: Literal[True]
    data: MediaAddresses


class RecordingSwitch(Shape):
    """Whether the stream is recorded."""

    enabled: bool
    format: Literal["mp4"]


__all__ = [
    "IngestAnswer",
    "LaneState",
    "MediaAddress",
    "MediaAddresses",
    "MediaStatus",
    "OutputStatus",
    "Recording",
    "RecordingList",
    "RecordingStatus",
    "RecordingSwitch",
    "Shape",
]
