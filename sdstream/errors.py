"""Every error that sdstream raises on purpose.

    SdstreamError
    ├── ConfigurationError            at start: a wrong setting, a port in use, a read-only data directory
    ├── CommandFailed                 a command of the command line could not do its work
    ├── JobFailed                     a serverless job ended without its result; `error_code` says why
    └── RequestError                  while serving; each has an HTTP status and a stable code
        ├── BadRequest          400   INVALID_REQUEST
        │   ├── InvalidParams   400   STREAMS/INVALID_PARAMS
        │   ├── InvalidSdp      400   WEBRTC/INVALID_SDP
        │   ├── InvalidJob      400   JOBS/INVALID_INPUT
        │   │   └── UnknownAction 400 JOBS/UNKNOWN_ACTION
        │   ├── SourceRefused   400   JOBS/SOURCE_REFUSED
        │   └── NotMedia        400   JOBS/NOT_MEDIA
        ├── Unauthorized        401   AUTH/UNAUTHORIZED
        ├── Forbidden           403   AUTH/FORBIDDEN
        ├── NotFound            404   NOT_FOUND
        │   ├── StreamNotFound  404   STREAMS/NOT_FOUND
        │   ├── SessionNotFound 404   WEBRTC/SESSION_NOT_FOUND
        │   └── NoPictureYet    404   STREAMS/NO_PICTURE_YET
        ├── MethodNotAllowed    405   METHOD_NOT_ALLOWED
        ├── Conflict            409   STREAMS/CONFLICT
        ├── BodyTooLarge        413   BODY_TOO_LARGE
        │   └── ResultTooLarge  413   JOBS/RESULT_TOO_LARGE
        ├── UnsupportedMedia    415   UNSUPPORTED_MEDIA_TYPE
        ├── SessionNotHere      421   SESSION_NOT_HERE
        ├── TooManyRequests     429
        │   ├── CapacityReached 429   STREAMS/CAPACITY
        │   └── RateLimited     429   RATE_LIMIT/EXCEEDED
        ├── InternalError       500   INTERNAL/ERROR
        ├── StorageFailed       502   JOBS/STORAGE_FAILED
        ├── EndpointFailed      502   ENDPOINT/FAILED
        ├── OwnerUnreachable    504   SESSION/OWNER_UNREACHABLE
        └── Unavailable         503   UNAVAILABLE
            ├── DirectoryUnavailable 503 SESSION/DIRECTORY_UNAVAILABLE
            ├── NoEndpointWorker  503 ENDPOINT/NO_WORKER
            ├── BakeFailed        503 JOBS/BAKE_FAILED
            ├── WorkerUnavailable 503 WORKER/UNAVAILABLE
            ├── WorkerEndedByStream 503 WORKER/ENDED_BY_STREAM
            ├── ModelUnavailable  503 MODELS/UNAVAILABLE
            ├── WebRtcOff         503 WEBRTC/OFF
            ├── TurnUnavailable   503 WEBRTC/TURN_UNAVAILABLE
            └── ShuttingDown      503 SHUTTING_DOWN

`message` is for the person who called, `hint` for the operator who can mend it. `retryable` says whether the same
call can succeed later with nothing changed. `details` is JSON-safe; for parameters it is a list of
`{"field": "params.width", "problem": "...", "suggestion": "..." or None}`.
"""

from typing import Any, ClassVar


class SdstreamError(Exception):
    """The root: catch this to catch all that sdstream raises on purpose."""

    code: ClassVar[str] = "ERROR"
    hint: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, details: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        if hint is not None:
            self.hint = hint  # pyright: ignore[reportAttributeAccessIssue]


class ConfigurationError(SdstreamError):
    """The program cannot start as it was asked to."""

    code = "CONFIGURATION/INVALID"
    hint = "Correct the setting that the message names; `sdstream doctor` checks them all."


class CommandFailed(SdstreamError):
    """A command of the command line could not do its work: a file that is no video, a server that refuses."""

    code = "COMMAND/FAILED"


class JobFailed(SdstreamError):
    """A serverless job ended without its result. `error_code` is the code that the worker gave, or the job's state."""

    code = "JOBS/FAILED"

    def __init__(self, message: str, *, job_id: str, error_code: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.error_code = error_code


class RequestError(SdstreamError):
    """A request that is answered with an error; `status` is its HTTP status."""

    code = "INTERNAL/ERROR"
    status: ClassVar[int] = 500
    headers: ClassVar[dict[str, str]] = {}


class BadRequest(RequestError):
    """The request is malformed: not JSON, not an object, a wrong query."""

    code = "INVALID_REQUEST"
    status = 400
    hint = "The caller must change the request; docs/api.md has the shapes."


class InvalidParams(BadRequest):
    """A stream's parameters break the schema or a rule between fields; `details` names each field."""

    code = "STREAMS/INVALID_PARAMS"


class InvalidSdp(BadRequest):
    """An SDP offer that cannot be read or answered."""

    code = "WEBRTC/INVALID_SDP"


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


class Unauthorized(RequestError):
    """No bearer key, or a wrong one."""

    code = "AUTH/UNAUTHORIZED"
    status = 401
    hint = "Send `Authorization: Bearer KEY`; `sdstream key` makes a key."
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(RequestError):
    """A good key that may not touch this stream."""

    code = "AUTH/FORBIDDEN"
    status = 403
    hint = "The stream belongs to another key."


class NotFound(RequestError):
    """Nothing has this address."""

    code = "NOT_FOUND"
    status = 404
    hint = "docs/api.md lists every path."


class StreamNotFound(NotFound):
    """No stream has this id, key or playback id."""

    code = "STREAMS/NOT_FOUND"
    hint = "It was deleted or collected, or this is another server's id."


class SessionNotFound(NotFound):
    """No WebRTC session has this address; it has probably ended already."""

    code = "WEBRTC/SESSION_NOT_FOUND"
    hint = "Nothing to do: the session is gone."


class NoPictureYet(NotFound):
    """The stream exists but nobody publishes to it, so there is nothing to watch."""

    code = "STREAMS/NO_PICTURE_YET"
    hint = "Start the publisher; viewers may retry every half second."
    retryable = True


class MethodNotAllowed(RequestError):
    """The path exists, the method does not."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    hint = "The `Allow` header lists the methods of this path."


class Conflict(RequestError):
    """The change is refused while the stream is live."""

    code = "STREAMS/CONFLICT"
    status = 409
    hint = "Stop the publisher, or create a new stream with the wanted value."


class BodyTooLarge(RequestError):
    """The body is over the limit."""

    code = "BODY_TOO_LARGE"
    status = 413
    hint = "SDSTREAM_MAX_BODY_BYTES sets the limit."


class ResultTooLarge(BodyTooLarge):
    """A result does not fit into the answer of a serverless job, and there is no bucket to put it into."""

    code = "JOBS/RESULT_TOO_LARGE"
    hint = "Give the job an s3Config, or the endpoint BUCKET_ENDPOINT_URL and its keys."


class UnsupportedMedia(RequestError):
    """A wrong `Content-Type`."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415
    hint = "WHIP and WHEP offers are sent as `Content-Type: application/sdp`."


class SessionNotHere(RequestError):
    """Another worker has this session, and this one cannot pass the call on."""

    code = "SESSION_NOT_HERE"
    status = 421
    hint = "Call the control URL of the session's `ready` event, or give all workers the same SDSTREAM_REDIS_URL."


class TooManyRequests(RequestError):
    """A limit is reached; `Retry-After` says when to come back."""

    code = "RATE_LIMIT/EXCEEDED"
    status = 429
    retryable = True
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class CapacityReached(TooManyRequests):
    """No room for one more stream or viewer; the message says which limit and its value."""

    code = "STREAMS/CAPACITY"
    hint = "Delete idle streams, or raise SDSTREAM_MAX_STREAMS or SDSTREAM_MAX_VIEWERS if the machine can carry more."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "5"}


class RateLimited(TooManyRequests):
    """Too many requests in a short time from one key or on one stream; `retry_after` is whole seconds."""

    code = "RATE_LIMIT/EXCEEDED"

    def __init__(self, message: str, *, retry_after: int = 1, details: Any = None) -> None:
        super().__init__(message, details=details)
        self.headers = {"Retry-After": str(retry_after)}  # pyright: ignore[reportAttributeAccessIssue]


class InternalError(RequestError):
    """A defect of sdstream; the log has the traceback under the same request id."""

    code = "INTERNAL/ERROR"
    status = 500
    hint = "Please report it with the log lines of this request id."
    retryable = True


class StorageFailed(RequestError):
    """The bucket did not take or give an object: wrong or expired keys, no such bucket, no answer."""

    code = "JOBS/STORAGE_FAILED"
    status = 502
    hint = "Check s3Config, or the BUCKET_* variables of the endpoint."


class EndpointFailed(RequestError):
    """RunPod's API refused a request or gave no answer."""

    code = "ENDPOINT/FAILED"
    status = 502
    hint = "Check SDSTREAM_ENDPOINT and SDSTREAM_RUNPOD_API_KEY."
    retryable = True


class OwnerUnreachable(RequestError):
    """The worker that has this session does not answer; its lease ends soon if it is gone."""

    code = "SESSION/OWNER_UNREACHABLE"
    status = 504
    hint = "Try again within seconds; a worker that is gone is forgotten after SDSTREAM_SESSION_LEASE."
    retryable = True
    headers: ClassVar[dict[str, str]] = {"Retry-After": "2"}


class Unavailable(RequestError):
    """The server cannot do this just now."""

    code = "UNAVAILABLE"
    status = 503
    retryable = True
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class WorkerUnavailable(Unavailable):
    """The worker process is not running; it is being started again."""

    code = "WORKER/UNAVAILABLE"
    hint = "Wait for the restart; the log says why the worker ended."


class WorkerEndedByStream(Unavailable):
    """The worker process ended again and again while it was at work for this stream, which it gets no more."""

    code = "WORKER/ENDED_BY_STREAM"
    hint = "Change the stream's parameters; the log says how the worker ended."
    retryable = False
    headers: ClassVar[dict[str, str]] = {}


class ModelUnavailable(Unavailable):
    """The model that a stream asks for cannot be loaded here."""

    code = "MODELS/UNAVAILABLE"
    hint = "`sdstream doctor` lists what is present; `skip_diffusion: true` runs image processors only."
    retryable = False
    headers: ClassVar[dict[str, str]] = {}


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


class WebRtcOff(Unavailable):
    """This server takes no WebRTC sessions: it is switched off, or there is no way in for them."""

    code = "WEBRTC/OFF"
    hint = "SDSTREAM_WEBRTC_MODE decides; `sdstream doctor` says what was chosen and why."
    retryable = False
    headers: ClassVar[dict[str, str]] = {}


class TurnUnavailable(Unavailable):
    """The TURN service of the settings gave no credentials."""

    code = "WEBRTC/TURN_UNAVAILABLE"
    hint = "Check the TURN settings and that this machine reaches the service; the message has its answer."


class ShuttingDown(Unavailable):
    """The server is draining and takes no new work."""

    code = "SHUTTING_DOWN"
