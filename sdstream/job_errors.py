"""The errors of serverless jobs, of the way to their sessions, and of gateways. `sdstream.errors` draws the tree."""

from typing import Any, ClassVar

from sdstream.errors import BadRequest, BodyTooLarge, RequestError, SdstreamError, Unavailable


class JobFailed(SdstreamError):
    """A serverless job ended without its result. `error_code` is the code that the worker gave, or the job's state."""

    code = "JOBS/FAILED"

    def __init__(self, message: str, *, job_id: str, error_code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.job_id = job_id
        self.error_code = error_code


class InvalidJob(BadRequest):
    """The input of a serverless job breaks its schema; `details` names each field."""

    code = "JOBS/INVALID_INPUT"
    hint = "docs/serverless.md has every action and its input."


class UnknownAction(InvalidJob):
    """A serverless job asks for what no worker does."""

    code = "JOBS/UNKNOWN_ACTION"


class SourceRefused(BadRequest):
    """What a job is to read cannot be had: a private address, too large, not there, not base64."""

    code = "JOBS/SOURCE_REFUSED"
    hint = "SDSTREAM_MAX_DOWNLOAD_BYTES, SDSTREAM_DOWNLOAD_TIMEOUT and SDSTREAM_PRIVATE_DOWNLOADS set the limits."


class NotMedia(BadRequest):
    """What a job is to render is neither a video nor a picture."""

    code = "JOBS/NOT_MEDIA"
    hint = "The source must be a file that FFmpeg reads, with a video stream."


class ResultTooLarge(BodyTooLarge):
    """A result does not fit into the answer of a serverless job, and there is no bucket to put it into."""

    code = "JOBS/RESULT_TOO_LARGE"
    hint = "Give the job an s3Config, or the endpoint BUCKET_ENDPOINT_URL and its keys."


class SessionNotHere(RequestError):
    """Another worker has this session, and this one cannot pass the call on."""

    code = "SESSION_NOT_HERE"
    status = 421
    hint = "Call the control URL of the session's `ready` event, or give all workers the same SDSTREAM_REDIS_URL."


class StorageFailed(RequestError):
    """The bucket did not take or give an object: wrong or expired keys, no such bucket, no answer."""

    code = "JOBS/STORAGE_FAILED"
    status = 502
    hint = "Check s3Config, or the BUCKET_* variables of the endpoint."


class EndpointFailed(RequestError):
    """RunPod's API refused a request or gave no answer. `answered` is its HTTP status, None without an answer."""

    code = "ENDPOINT/FAILED"
    status = 502
    hint = "Check SDSTREAM_ENDPOINT and SDSTREAM_RUNPOD_API_KEY."
    retryable = True
    answered: int | None = None

    @property
    def knows_no_job(self) -> bool:
        """Whether the job is not known any more: RunPod forgets those that ended half an hour ago."""
        return self.answered == 404


class OwnerUnreachable(RequestError):
    """The worker that has this session cannot be asked, and nothing was done; its lease ends soon if it is gone."""

    code = "SESSION/OWNER_UNREACHABLE"
    status = 504
    hint = "Try again within seconds; a worker that is gone is forgotten after SDSTREAM_SESSION_LEASE."
    retryable = True
    headers: ClassVar[dict[str, str]] = {"Retry-After": "2"}


class OwnerAsleep(OwnerUnreachable):
    """Its process listens and begins with nothing that it is asked: it is stopped, or overloaded. Nothing was done."""


class OwnerSilent(OwnerUnreachable):
    """It was asked and gave no answer in time; what was asked for may be done all the same.

    `repeatable`: it does no harm when it is done twice.
    """

    code = "SESSION/OWNER_SILENT"
    hint = "What was asked for may have been done: look at the stream before you ask for it again."

    def __init__(self, message: str, *, repeatable: bool = False, hint: str | None = None, details: Any = None) -> None:
        super().__init__(message, hint=hint, details=details)
        if not repeatable:
            self.retryable = False  # pyright: ignore[reportAttributeAccessIssue]
            self.headers = {}  # pyright: ignore[reportAttributeAccessIssue]


class DirectoryUnavailable(Unavailable):
    """Redis, which knows who has which session, does not answer. Sessions go on."""

    code = "SESSION/DIRECTORY_UNAVAILABLE"
    hint = "Check SDSTREAM_REDIS_URL and that server."


class NoEndpointWorker(Unavailable):
    """No worker of the endpoint started the session in time; the job was taken back."""

    code = "ENDPOINT/NO_WORKER"
    hint = "Raise the endpoint's maximum of workers, or SDSTREAM_ENDPOINT_START_TIMEOUT for slow cold starts."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "10"}


class BakeFailed(Unavailable):
    """Engines of a `bake` job could not be made; the message is the builder's own."""

    code = "JOBS/BAKE_FAILED"
    hint = "The worker's log has what the builder said."
    retryable = False
    headers: ClassVar[dict[str, str]] = {}


__all__ = [
    "BakeFailed",
    "DirectoryUnavailable",
    "EndpointFailed",
    "InvalidJob",
    "JobFailed",
    "NoEndpointWorker",
    "NotMedia",
    "OwnerAsleep",
    "OwnerSilent",
    "OwnerUnreachable",
    "ResultTooLarge",
    "SessionNotHere",
    "SourceRefused",
    "StorageFailed",
    "UnknownAction",
]
