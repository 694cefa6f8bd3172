"""What answers look like, as pydantic models. They describe and test; no answer is built through them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sdstream.api.output_schemas import LaneState, MediaStatus, OutputStatus, RecordingStatus, RecordingSwitch, Shape
from sdstream.params import Sd15Params, SdTurboParams, SdxlTurboParams
from sdstream.streams.views import Applied, StreamState

Params = SdTurboParams | SdxlTurboParams | Sd15Params


class ErrorDetail(Shape):
    """One thing that is wrong with a request."""

    field: str = Field(description="Where, such as `params.width`.")
    problem: str
    suggestion: str | None = Field(None, description="What was probably meant.")


class ErrorEnvelope(Shape):
    """The body of every error."""

    success: Literal[False]
    error: str = Field(description="What happened, for people.")
    code: str = Field(description="Stable; docs/errors.md lists all.")
    status: int = Field(description="The HTTP status.", ge=400, le=599)
    details: list[ErrorDetail] | dict[str, Any] | str | None = Field(None, description="For parameters: one per field.")
    requestId: str = Field(description="Also in the X-Request-Id header and in the log.")  # noqa: N815
    traceId: str | None = Field(None, description="From the caller's `traceparent` header.")  # noqa: N815


class Stream(Shape):
    """A stream. The members from `whep_url` on are extensions."""

    id: str = Field(pattern="^[A-Za-z0-9_-]+$")
    stream_key: str
    created_at: str = Field(description="ISO 8601, UTC, milliseconds.")
    pipeline: Literal["streamdiffusion"]
    params: Params = Field(description="The parameters in force, every member.")
    name: str
    author: str = Field(description="The user behind the key that made it.")
    from_playground: bool
    gateway_host: str
    is_smoke_test: bool
    output_playback_id: str
    output_stream_url: str | None
    whip_url: str = Field(description="Publishers post their SDP offer here.")
    whep_url: str = Field(description="Extension. Viewers post their SDP offer here; stable.")
    hls_url: str = Field(description="Extension. For HLS players; stable.")
    outputs: list[str] = Field(description="Extension. Further servers that are pushed to, without their keys.")
    recording: RecordingSwitch = Field(description="Extension. Whether the stream is recorded.")
    status: StreamState = Field(description="Extension. The state of this moment.")
    revision: int = Field(ge=1, description="Extension. Grows by one with each accepted update.")
    warnings: list[str] = Field(description="Extension. What was ignored or is not as the caller may think.")


class UpdatedStream(Stream):
    """The answer to an update."""

    applied: Applied = Field(description="Extension. `hot` within a frame or two, `reload` with a pause.")
    changed: list[str] = Field(description="Extension. The parameters that differ.")
    dry_run: bool = Field(description="Extension. True: nothing was stored.")


class PlannedStream(Shape):
    """What a create request would make. Null are the names that a stream has from the moment on in which it is made."""

    id: None
    stream_key: None
    created_at: None
    pipeline: Literal["streamdiffusion"]
    params: Params = Field(description="Every member, as it would be in force.")
    name: str
    author: str
    from_playground: bool
    gateway_host: str
    is_smoke_test: bool
    output_playback_id: None
    output_stream_url: None
    whip_url: None
    whep_url: None
    hls_url: None
    outputs: list[str]
    recording: RecordingSwitch
    status: Literal["OFFLINE"]
    revision: Literal[1]
    warnings: list[str] = Field(description="What would be ignored or cannot come into force now.")
    dry_run: Literal[True] = Field(description="Nothing was created.")


class StreamList(Shape):
    """All streams that the caller may see; long data URIs are shortened."""

    success: Literal[True]
    data: list[Stream]


class Empty(Shape):
    """An object without promised members."""


class Deleted(Shape):
    """The stream is gone."""

    success: Literal[True]
    data: Empty


class OrchestratorInfo(Shape):
    """Who runs the stream: this server."""

    address: str
    url: str


class InputStatus(Shape):
    """What comes from the publisher."""

    fps: float
    last_input_time: int | None


class InferenceStatus(Shape):
    """What the worker makes of it; all moments are epoch milliseconds."""

    fps: float
    input_fps: float
    output_fps: float
    stream_id: str
    pipeline: str
    start_time: int
    last_input_time: int | None
    last_output_time: int | None
    last_params_update_time: int | None
    last_params: dict[str, Any] | None
    last_params_hash: str | None
    last_error: str | None
    last_error_time: int | None
    last_restart_time: int | None
    last_restart_logs: list[str] | None
    restart_count: int


class GatewayError(Shape):
    """The newest fault."""

    error_message: str
    error_time: int | None


class PeerConnectionStatistics(Shape):
    """Bytes since the stream was opened."""

    ID: str
    BytesReceived: int
    BytesSent: int


class TrackStatus(Shape):
    """One received track; times in milliseconds. `codec` is an extension."""

    type: str
    codec: str
    jitter: float
    packets_lost: int
    packets_received: int
    packet_loss_pct: float
    rtt: float | None
    warnings: list[str]


class IngestStatistics(Shape):
    """The publisher's connection."""

    conn_quality: Literal["good", "bad"]
    peer_conn_stats: PeerConnectionStatistics
    track_stats: list[TrackStatus]


class IngestMetrics(Shape):
    """Wraps `stats`, as Livepeer's gateway does."""

    stats: IngestStatistics


def _with_whep_url(schema: dict[str, Any]) -> None:
    schema["properties"]["whep_url"] = {"type": "string"}  # the one member of all answers that may be absent


class GatewayStatus(Shape):
    """Sessions. `whep_url` is here from the first accepted WHIP offer on."""

    model_config = ConfigDict(json_schema_extra=_with_whep_url)

    error: GatewayError | None
    ingest_metrics: IngestMetrics


class Status(Shape):
    """A stream at this moment. The members from `reason` on are extensions."""

    state: StreamState
    type: Literal["status"]
    stream_id: str
    request_id: str
    pipeline: str
    pipeline_id: str
    start_time: int
    last_state_update_time: int | None
    orchestrator_info: OrchestratorInfo
    input_status: InputStatus
    inference_status: InferenceStatus
    gateway_status: GatewayStatus
    reason: str = Field(description="Why the state is what it is; empty when ONLINE.")
    revision: int
    lane: LaneState | None = Field(description="Null while the worker does not have the stream.")
    viewers: int
    publisher: Literal["absent", "connecting", "connected"]
    pictures_late: int = Field(description="How many pictures later than it came a picture leaves: its steps less one.")
    latency_ms: dict[str, dict[str, float]] = Field(description="p50 and p95 by hop.")
    drops: dict[str, int] = Field(description="Dropped pictures by reason.")
    replaced: dict[str, int] = Field(
        description="Pictures in whose place another was shown: the last one if `similar`, a placard if `unsafe`."
    )
    media: MediaStatus
    outputs: list[OutputStatus] = Field(description="The pushes to RTMP servers.")
    recording: RecordingStatus | None = Field(description="The recording under way.")


class StatusEnvelope(Shape):
    """The answer to a status request."""

    success: Literal[True]
    error: None
    data: Status


class PromptsAnswer(Shape):
    """The answer of the deprecated endpoint."""

    success: Literal[True]
    message: str
    was_censored: bool
    warnings: list[str]


class Catalogue(Shape):
    """Every parameter: type, limits, default, what a change of it does; and every processor with its parameters."""

    success: Literal[True]
    data: Any
    processors: Any


class KindCapacityData(Shape):
    """Streams of one kind, as far as they were measured."""

    model_id: str
    width: int
    height: int
    steps: int
    processors: list[str]
    publishing: int
    frame_seconds: dict[str, float]
    room: int | None


class CapacityData(Shape):
    """How much more this server takes."""

    streams: int
    max_streams: int
    publishing: int
    viewers: int
    max_viewers: int
    accepting: bool
    reason: str
    worker_phase: str
    device: str
    memory_used: int | None
    memory_total: int | None
    frame_rate: float
    load: float
    kinds: list[KindCapacityData]


class CapacityAnswer(Shape):
    """Wraps the capacity."""

    success: Literal[True]
    data: CapacityData


class ApiKey(Shape):
    """A new key, shown this once."""

    apiKey: str  # noqa: N815


class Version(Shape):
    """The running program."""

    name: Literal["sdstream"]
    version: str
    python: str


class WorkerState(Shape):
    """The worker process."""

    phase: str
    restarts: int
    device: str
    processor: str
    memory_used: int | None
    memory_total: int | None


class Health(Shape):
    """This process answers."""

    status: Literal["ok"]
    version: str
    worker: WorkerState
    faults: int = Field(description="Defects that were caught since the start, and that the server went on after.")


class Readiness(Shape):
    """A stream that starts now gets pictures."""

    status: Literal["ready"]


class Body(BaseModel):
    """A request; further members are ignored."""

    model_config = ConfigDict(extra="allow")


Pipeline = Annotated[str, Field(pattern="^(streamdiffusion|stream-diffusion|pip_)")] | None


class RecordingBody(Body):
    """Whether the stream is recorded while it is live."""

    enabled: bool | None = None


class CreateBody(Body):
    """A new stream."""

    pipeline: Pipeline = Field(None, description="`streamdiffusion`; older names are understood as it.")
    params: Params | None = Field(None, description="Without `model_id` the server's default model is taken.")
    name: str | None = Field(None, description="A label.")
    output_rtmp_url: str | None = Field(None, description="An rtmp(s) server to push to.")
    outputs: list[str] | None = Field(None, description="Extension. Further rtmp(s) servers to push to.")
    recording: RecordingBody | None = Field(None, description="Extension. Whether to record.")


class UpdateBody(Body):
    """What changes."""

    pipeline: Pipeline = Field(None, description="May be left out.")
    params: Params | None = Field(None, description="Only the members that change.")
    output_rtmp_url: str | None = Field(None, description="Extension here. Another server to push to; empty for none.")
    outputs: list[str] | None = Field(None, description="Extension. All further servers to push to.")
    recording: RecordingBody | None = Field(None, description="Extension. Whether to record.")


class PromptsBody(Body):
    """The older form of an update."""

    pipeline: Pipeline = None
    model_id: str | None = None
    params: Params | None = None


class KeyBody(Body):
    """For whom a key is."""

    name: str | None = None
    user_type: Any = None


BODIES: tuple[type[Body], ...] = (CreateBody, UpdateBody, PromptsBody, KeyBody)
