"""What a job may ask for, as pydantic models; the first thing that happens to a job is that it is checked here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sdstream.job_errors import InvalidJob, UnknownAction
from sdstream.jobs.side_by_side import MOST_LANES
from sdstream.params.problems import did_you_mean, printable
from sdstream.streams.names import new_stream_id

SESSION_ID = r"^[A-Za-z0-9_-]{8,80}$"
LONGEST_SESSION_SECONDS = 7 * 24 * 3600
"""What RunPod's executionTimeout and ttl allow."""
DEFAULT_AUTHOR = "runpod"

SessionId = Annotated[str, Field(pattern=SESSION_ID)]


class Input(BaseModel):
    """The members of every input."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BucketConfig(BaseModel):
    """A job's `s3Config`, by RunPod's names."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    accessId: str = Field(min_length=1)  # noqa: N815
    accessSecret: str = Field(min_length=1, repr=False)  # noqa: N815
    bucketName: str | None = None  # noqa: N815
    endpointUrl: str = Field(pattern=r"^https?://")  # noqa: N815


class Target(Input):
    """Where a result goes: into the answer, into the bucket, or wherever it fits (`auto`)."""

    type: Literal["auto", "base64", "s3"] = "auto"
    key: str | None = Field(default=None, min_length=1, max_length=512, pattern=r"^[^/\x00-\x1f][^\x00-\x1f]*$")


class Source(Input):
    """What is read: exactly one of a URL, base64 (a data URI too), or a key of the bucket."""

    url: str | None = Field(default=None, max_length=4096)
    base64: str | None = None
    s3: str | None = Field(default=None, min_length=1, max_length=1024)

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        if sum(value is not None for value in (self.url, self.base64, self.s3)) != 1:
            raise ValueError("give exactly one of url, base64 and s3")
        return self


class StartInput(Input):
    """`start`: the session itself. The members up to `output_rtmp_url` are those of `POST /v1/streams`."""

    action: Literal["start"]
    pipeline: Any = None
    params: Any = None
    name: Any = None
    output_rtmp_url: Any = None
    outputs: Any = None
    recording: Any = None
    session_id: SessionId | None = Field(
        default=None, description="Makes a repeated start harmless. Unset: from the job's id."
    )
    max_seconds: float | None = Field(default=None, gt=0, le=LONGEST_SESSION_SECONDS)
    idle_seconds: float | None = Field(default=None, gt=0, le=LONGEST_SESSION_SECONDS)
    status_seconds: float | None = Field(default=None, ge=0.1, le=3600)
    author: str = Field(default=DEFAULT_AUTHOR, pattern=r"^[A-Za-z0-9_.:-]{1,80}$", description="Who owns the stream.")
    from_playground: bool = False

    def body(self) -> dict[str, Any]:
        """The create body."""
        members = ("pipeline", "params", "name", "output_rtmp_url", "outputs", "recording")
        return {name: getattr(self, name) for name in members if getattr(self, name) is not None}


class UpdateInput(Input):
    """`update`: the members between `session_id` and `dry_run` are those of `PATCH /v1/streams/ID`."""

    action: Literal["update"]
    session_id: SessionId
    params: Any = None
    pipeline: Any = None
    output_rtmp_url: Any = None
    outputs: Any = None
    recording: Any = None
    dry_run: bool = False

    def body(self) -> dict[str, Any]:
        """The body of the PATCH."""
        members = ("pipeline", "params", "output_rtmp_url", "outputs", "recording")
        return {name: getattr(self, name) for name in members if getattr(self, name) is not None}


class SnapshotInput(Input):
    """`snapshot`: the newest output picture."""

    action: Literal["snapshot"]
    session_id: SessionId
    target: Target = Target()


class StopInput(Input):
    """`stop`: end a session."""

    action: Literal["stop"]
    session_id: SessionId


class StatusInput(Input):
    """`status`: what the REST API tells of a session."""

    action: Literal["status"]
    session_id: SessionId


class ListInput(Input):
    """`list`: the sessions that are known here."""

    action: Literal["list"]


class RenderInput(Input):
    """`render`: a whole video, or one picture, through the pipeline."""

    action: Literal["render"]
    source: Source
    params: Any = None
    target: Target = Target()
    format: Literal["mp4", "mkv", "mov", "webm", "png", "jpg", "webp"] | None = None
    quality: int = Field(default=18, ge=0, le=51, description="x264's CRF.")
    at_once: int = Field(default=1, ge=1, le=MOST_LANES, description="Pictures of a video that are made in one call.")


class WarmInput(Input):
    """`warm`: load the model of these params, so that the first session finds it ready."""

    action: Literal["warm"]
    params: Any = None


class BakeInput(Input):
    """`bake`: build what the cache lacks of a profile's engines, on this machine."""

    action: Literal["bake"]
    profile: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}$", description="One that the builder ships.")
    model: str | None = Field(default=None, min_length=1, max_length=512, pattern=r"^[^-\x00-\x1f][^\x00-\x1f]*$")
    backend: Literal["tensorrt-rtx", "tensorrt", "compiled"] | None = None
    sm: tuple[Annotated[int, Field(ge=50, le=999)], ...] = Field(default=(), max_length=16)
    push: bool = Field(default=False, description="Copy what is there afterwards into the mirror of engines.")
    force: bool = False


JobInput = (
    StartInput | UpdateInput | SnapshotInput | StopInput | StatusInput | ListInput | RenderInput | WarmInput | BakeInput
)

ACTIONS: dict[str, type[Input]] = {
    "start": StartInput,
    "update": UpdateInput,
    "snapshot": SnapshotInput,
    "stop": StopInput,
    "status": StatusInput,
    "list": ListInput,
    "render": RenderInput,
    "warm": WarmInput,
    "bake": BakeInput,
}


@dataclass(frozen=True, slots=True)
class Job:
    """A job that may be worked on. `bucket` is its own `s3Config`, None for the endpoint's."""

    id: str
    input: JobInput
    bucket: BucketConfig | None = None


def parse_job(job: Mapping[str, Any]) -> Job:
    """Read a job as the SDK hands it over. Raises `InvalidJob` or `UnknownAction`."""
    given = job.get("input")
    if not isinstance(given, dict):
        raise InvalidJob("input must be an object with an `action`")
    members = cast("dict[str, Any]", given)
    action = members.get("action")
    if action is None:
        raise InvalidJob(f"input.action is missing; it is one of {', '.join(ACTIONS)}")
    model = ACTIONS.get(action) if isinstance(action, str) else None
    if model is None:
        near = did_you_mean(action, ACTIONS)
        raise UnknownAction(f"there is no action {printable(action)!r}; {near or 'it is one of ' + ', '.join(ACTIONS)}")
    bucket = job.get("s3Config")
    try:
        return Job(
            id=str(job.get("id") or "") or new_stream_id(),
            input=cast("JobInput", model.model_validate(members)),
            bucket=BucketConfig.model_validate(bucket) if bucket else None,
        )
    except ValidationError as error:
        where = "s3Config" if error.title == BucketConfig.__name__ else "input"
        raise _refuse(error, where, model) from None


def session_id_of(job: Job) -> str:
    """The session that a `start` job means: the one it names, else one that follows from the job's id."""
    if isinstance(job.input, StartInput) and job.input.session_id:
        return job.input.session_id
    return ("str_" + re.sub(r"[^A-Za-z0-9_-]", "-", job.id))[:80].ljust(8, "_")


def _refuse(error: ValidationError, where: str, model: type[BaseModel]) -> InvalidJob:
    details: list[dict[str, Any]] = []
    for problem in error.errors(include_input=False, include_url=False):
        field = printable(".".join([where, *map(str, problem["loc"])]))
        suggestion: str | None = None
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "is not known"
            suggestion = did_you_mean(problem["loc"][-1], model.model_fields)
        details.append({"field": field, "problem": text, "suggestion": suggestion})
    first = details[0]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    meant = f"; {first['suggestion']}" if first["suggestion"] else ""
    return InvalidJob(f"{first['field']}: {first['problem']}{meant}{more}", details=details)


__all__ = [
    "ACTIONS",
    "DEFAULT_AUTHOR",
    "BakeInput",
    "BucketConfig",
    "Job",
    "JobInput",
    "ListInput",
    "RenderInput",
    "SnapshotInput",
    "Source",
    "StartInput",
    "StatusInput",
    "StopInput",
    "Target",
    "UpdateInput",
    "WarmInput",
    "parse_job",
    "session_id_of",
]
