"""Every error that sdstream raises on purpose.

    SdstreamError
    ├── ConfigurationError            at start: a wrong setting, a port in use, a read-only data directory
    ├── CommandFailed                 a command of the command line could not do its work
    │   ├── DiskFull                  COMMAND/DISK_FULL
    │   └── InstallFailed             INSTALL/FAILED
    │       ├── PlatformUnsupported   INSTALL/PLATFORM_UNSUPPORTED
    │       ├── ReleaseNotFound       INSTALL/RELEASE_NOT_FOUND
    │       ├── ChecksumMissing       INSTALL/CHECKSUM_MISSING
    │       ├── ChecksumDiffers       INSTALL/CHECKSUM_DIFFERS
    │       ├── ArchiveUnusable       INSTALL/ARCHIVE_UNUSABLE
    │       ├── ProgramUnusable       INSTALL/PROGRAM_UNUSABLE
    │       └── InstallDiskFull       INSTALL/DISK_FULL
    ├── EngineError                   a compiled engine cannot be made, kept or used; no stream stops for it
    │   ├── EngineMissing             ENGINES/MISSING
    │   ├── EngineBroken              ENGINES/BROKEN
    │   ├── EngineMismatch            ENGINES/MISMATCH
    │   ├── EngineBuildFailed         ENGINES/BUILD_FAILED
    │   ├── EngineBackendUnavailable  ENGINES/BACKEND_UNAVAILABLE
    │   └── EngineStoreUnavailable    ENGINES/STORE_UNAVAILABLE
    ├── JobFailed                     a job ended without its result; `error_code` says why
    └── RequestError                  while serving; each has an HTTP status and a stable code
        ├── BadRequest          400   INVALID_REQUEST
        │   ├── InvalidParams   400   STREAMS/INVALID_PARAMS
        │   ├── NoFace          400   STREAMS/NO_FACE
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
        ├── RangeNotSatisfiable 416   RANGE_NOT_SATISFIABLE
        ├── SessionNotHere      421   SESSION_NOT_HERE
        ├── TooManyRequests     429
        │   ├── CapacityReached 429   STREAMS/CAPACITY
        │   └── RateLimited     429   RATE_LIMIT/EXCEEDED
        ├── InternalError       500   INTERNAL/ERROR
        ├── StorageFailed       502   JOBS/STORAGE_FAILED
        ├── EndpointFailed      502   ENDPOINT/FAILED
        ├── OwnerUnreachable    504   SESSION/OWNER_UNREACHABLE
        │   ├── OwnerAsleep     504   SESSION/OWNER_UNREACHABLE
        │   └── OwnerSilent     504   SESSION/OWNER_SILENT
        └── Unavailable         503   UNAVAILABLE
            ├── WorkerUnavailable 503 WORKER/UNAVAILABLE
            ├── WorkerEndedByStream 503 WORKER/ENDED_BY_STREAM
            ├── OutOfMemory     503   WORKER/OUT_OF_MEMORY
            ├── PictureNotFinite 503  STREAMS/PICTURE_NOT_FINITE
            ├── ModelUnavailable  503 MODELS/UNAVAILABLE
            │   ├── ModelAccessDenied 503 MODELS/ACCESS_DENIED
            │   ├── ModelDownloadFailed 503 MODELS/DOWNLOAD_FAILED
            │   ├── ModelDiskFull 503 MODELS/DISK_FULL
            │   ├── ModelNotAsPinned 503 MODELS/NOT_AS_PINNED
            │   └── LoraUnusable  503 MODELS/LORA_UNUSABLE
            ├── WebRtcOff         503 WEBRTC/OFF
            ├── TurnUnavailable   503 WEBRTC/TURN_UNAVAILABLE
            ├── RecordingsUnavailable 503 RECORDINGS/UNAVAILABLE
            ├── DirectoryUnavailable 503 SESSION/DIRECTORY_UNAVAILABLE
            ├── NoEndpointWorker  503 ENDPOINT/NO_WORKER
            ├── BakeFailed        503 JOBS/BAKE_FAILED
            └── ShuttingDown      503 SHUTTING_DOWN

The tree is drawn here alone. Those of compiled engines are in `engine_errors`, those of models and LoRAs in
`model_errors`, those of serverless jobs and gateways in `job_errors`, those of files that are written and given out in
`file_errors`, those of `sdstream install-mediamtx` in `install_errors`.
`message` is for the person who called, `hint` for the operator who can mend it. `retryable`: the same call can succeed
later. `part`: what of a stream's params is to blame (`params.attainable`). `details` is JSON-safe; for parameters a
list of `{"field": "params.width", "problem": "...", "suggestion": "..." or None}`.
"""

from typing import Any, ClassVar


class SdstreamError(Exception):
    """The root: catch this to catch all that sdstream raises on purpose."""

    code: ClassVar[str] = "ERROR"
    hint: ClassVar[str] = ""
    retryable: ClassVar[bool] = False
    part: str = ""

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


class NoFace(BadRequest):
    """`ip_adapter.type` is `faceid`, and the style image shows no face."""

    code = "STREAMS/NO_FACE"
    hint = "Send an image in which one face is seen well, or set ip_adapter.type to regular."


class InvalidSdp(BadRequest):
    """An SDP offer that cannot be read or answered."""

    code = "WEBRTC/INVALID_SDP"


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


class UnsupportedMedia(RequestError):
    """A wrong `Content-Type`."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415
    hint = "WHIP and WHEP offers are sent as `Content-Type: application/sdp`."


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


class OutOfMemory(Unavailable):
    """The worker's device has no memory left for a model, for a stream, or for a picture."""

    code = "WORKER/OUT_OF_MEMORY"
    hint = "End streams, take a smaller size or model, or lower SDSTREAM_MAX_STREAMS."


class PictureNotFinite(Unavailable):
    """What a stream's parameters make of its pictures is no finite number, so there is nothing to show."""

    code = "STREAMS/PICTURE_NOT_FINITE"
    hint = "Take smaller weights, a smaller guidance_scale or delta; then the stream begins anew."
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


class RecordingsUnavailable(Unavailable):
    """The bucket that holds the recordings refuses or does not answer."""

    code = "RECORDINGS/UNAVAILABLE"
    hint = "Try again; if it stays so, the operator finds the bucket's answer in the log."


class ShuttingDown(Unavailable):
    """The server is draining and takes no new work."""

    code = "SHUTTING_DOWN"


def first_line(error: BaseException) -> str:
    """What an error of a library says first; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
