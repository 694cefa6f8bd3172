"""The OpenAPI document: every operation, what it takes and what is really sent."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from sdstream import __version__
from sdstream.api import schemas
from sdstream.api.bodies import FRAGMENT_TYPE, SDP_TYPE
from sdstream.api.examples import CREATE_EXAMPLE, ERROR_EXAMPLE, OFFER_EXAMPLE, STREAM_EXAMPLE, UPDATE_EXAMPLE

DESCRIPTION = (
    "Real-time video diffusion on your own machine, speaking Daydream's API: clients work by changing the base URL.\n\n"
    "Operations marked with x-sdstream-extension, and the members that are called extensions, are not Daydream's. "
    "Unknown members of a request are ignored; members that are null count as absent. "
    "Every error has the same seven members; every answer has X-Request-Id. OPTIONS answers 204 on every path."
)
JSON = "application/json"
REFERENCE = "#/components/schemas/{model}"
_VARIANTS = {variant.__name__ for variant in get_args(schemas.Params)}

TAGS = {
    "Streams": "Daydream's stream operations.",
    "WebRTC": "Publishing (WHIP) and watching (WHEP). These URLs are capabilities: they need no key.",
    "Extensions": "What sdstream offers beyond Daydream.",
    "Server": "For operators and load balancers; no key needed.",
}

ERROR_TEXTS = {
    400: "The request is malformed; `details` names the members that are wrong",
    401: "No bearer key, or a wrong one",
    403: "The stream was made with another key",
    404: "Nothing has this address",
    405: "The path does not take this method",
    409: "Refused while the stream is live; nothing changed",
    413: "The body is over the limit",
    415: "A wrong Content-Type",
    429: "A limit is reached; Retry-After says when to come back",
    500: "A defect of sdstream",
    503: "The server cannot do this just now",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: a JSON model, or a body of another media type."""

    text: str
    model: type[BaseModel] | None = None
    media_type: str = JSON
    schema: Mapping[str, Any] | None = None
    example: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, under its operation id in `OPERATIONS`."""

    method: str
    path: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    errors: tuple[int, ...]
    key: bool | None = True
    """True: a bearer key is needed; None: it is looked at only under some settings; False: never."""
    query: tuple[Mapping[str, Any], ...] = ()
    bodies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    extension: bool = False
    deprecated: bool = False


_STREAM = Answer("The stream", schemas.Stream, example=STREAM_EXAMPLE)
_UPDATED = {**STREAM_EXAMPLE, "revision": 2, "applied": "hot", "changed": ["prompt"], "dry_run": False}
_TEXT = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
_SESSION_HEADERS = {
    "Location": "The session: DELETE ends it, PATCH adds candidates.",
    "Livepeer-Playback-URL": "Where viewers of this stream post their offers.",
    "ETag": "The session id.",
}
_ANSWER = Answer("An SDP answer with all candidates", None, SDP_TYPE, _TEXT, headers=_SESSION_HEADERS)
_OFFER = {SDP_TYPE: {"schema": _TEXT, "example": OFFER_EXAMPLE}}
_FRAGMENT = {FRAGMENT_TYPE: {"schema": _TEXT, "example": "a=ice-ufrag:F7gI\r\na=ice-pwd:x9cmlYzichV2IlhPkg1y\r\n"}}

_WHIP = "/live/video-to-video/{stream_key}/whip"
_WHEP = "/playback/{playback_id}/whep"

OPERATIONS: dict[str, Operation] = {
    "create_stream": Operation(
        "POST",
        "/v1/streams",
        "Streams",
        "Create a stream",
        "Only `params.model_id` is needed, and even it has a default. The stream is ready for WHIP at once; the model "
        "loads behind it. Older bodies with `pipeline_id` and `pipeline_params` are understood.",
        {201: _STREAM},
        (400, 401, 413, 429, 503),
        bodies={JSON: {"schema": {"$ref": "#/components/schemas/CreateBody"}, "example": CREATE_EXAMPLE}},
    ),
    "list_streams": Operation(
        "GET",
        "/v1/streams",
        "Streams",
        "List streams",
        "The streams of the caller; an operator's key lists all.",
        {200: Answer("The streams", schemas.StreamList)},
        (401,),
        query=({"name": "user_id", "in": "query", "schema": _TEXT, "description": "Only streams of this author."},),
    ),
    "delete_stream": Operation(
        "DELETE",
        "/v1/streams",
        "Streams",
        "Delete a stream",
        "Ends its sessions too. The SDKs delete this way.",
        {200: Answer("Deleted", schemas.Deleted)},
        (400, 401, 403, 404),
        query=(
            {
                "name": "id",
                "in": "query",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
                "description": "The stream.",
            },
        ),
    ),
    "get_stream": Operation(
        "GET",
        "/v1/streams/{id}",
        "Streams",
        "Read a stream",
        "The record and the parameters in force.",
        {200: _STREAM},
        (401, 403, 404),
    ),
    "update_stream": Operation(
        "PATCH",
        "/v1/streams/{id}",
        "Streams",
        "Change parameters",
        "Send what changes: objects merge, arrays are replaced. The merged result is checked, stored and answered at "
        "once; the worker follows. A value that cannot change while live is refused with 409 and changes nothing.",
        {200: Answer("The stream", schemas.UpdatedStream, example=_UPDATED)},
        (400, 401, 403, 404, 409, 413, 429, 503),
        query=(
            {
                "name": "dry_run",
                "in": "query",
                "schema": {"type": "boolean", "default": False},
                "description": "Extension. Say what would happen; change nothing.",
            },
        ),
        bodies={JSON: {"schema": {"$ref": "#/components/schemas/UpdateBody"}, "example": UPDATE_EXAMPLE}},
    ),
    "delete_stream_by_path": Operation(
        "DELETE",
        "/v1/streams/{id}",
        "Streams",
        "Delete a stream (Unity's way)",
        "The same as the query form.",
        {200: Answer("Deleted", schemas.Deleted)},
        (401, 403, 404),
    ),
    "get_stream_status": Operation(
        "GET",
        "/v1/streams/{id}/status",
        "Streams",
        "State, rates, faults",
        "Needs no key unless SDSTREAM_ANONYMOUS_STATUS is false. Moments are integer milliseconds since 1970.",
        {200: Answer("The status", schemas.StatusEnvelope)},
        (401, 403, 404),
        key=None,
    ),
    "update_prompts": Operation(
        "POST",
        "/beta/streams/{id}/prompts",
        "Streams",
        "Change parameters (deprecated)",
        "The older form of the update, with the same merge.",
        {200: Answer("Accepted", schemas.PromptsAnswer)},
        (400, 401, 403, 404, 409, 413, 429, 503),
        bodies={
            JSON: {
                "schema": {"$ref": "#/components/schemas/PromptsBody"},
                "example": {"params": {"prompt": "neon rain"}},
            }
        },
        deprecated=True,
    ),
    "create_api_key": Operation(
        "POST",
        "/v1/api-key",
        "Streams",
        "Make a further key",
        "For the login of Daydream's plugins: a new key of the same author. 404 unless SDSTREAM_API_KEY_ENDPOINT is "
        "true.",
        {201: Answer("The key, shown this once", schemas.ApiKey, example={"apiKey": "sds_..."})},
        (400, 401, 404, 413, 429),
        bodies={
            JSON: {
                "schema": {"$ref": "#/components/schemas/KeyBody"},
                "example": {"name": "OBS Studio", "user_type": "obs"},
            }
        },
    ),
    "publish": Operation(
        "POST",
        _WHIP,
        "WebRTC",
        "Publish (WHIP)",
        "A second publisher takes over from the first. Viewers keep their sessions.",
        {201: _ANSWER},
        (400, 404, 413, 415, 429, 503),
        key=False,
        bodies=_OFFER,
    ),
    "watch": Operation(
        "POST",
        _WHEP,
        "WebRTC",
        "Watch (WHEP)",
        "404 until somebody publishes; the same offer may be posted again.",
        {201: _ANSWER},
        (400, 404, 413, 415, 429, 503),
        key=False,
        bodies=_OFFER,
    ),
    "end_publish_session": Operation(
        "DELETE",
        _WHIP + "/{session_id}",
        "WebRTC",
        "Stop publishing",
        "Ends the session.",
        {200: Answer("Ended", None, "")},
        (404,),
        key=False,
    ),
    "end_watch_session": Operation(
        "DELETE",
        _WHEP + "/{session_id}",
        "WebRTC",
        "Stop watching",
        "Ends the session.",
        {200: Answer("Ended", None, "")},
        (404,),
        key=False,
    ),
    "trickle_publish": Operation(
        "PATCH",
        _WHIP + "/{session_id}",
        "WebRTC",
        "Add candidates (trickle ICE)",
        "Not needed: offers without candidates connect.",
        {204: Answer("Taken", None, "")},
        (400, 404, 413, 415),
        key=False,
        bodies=_FRAGMENT,
    ),
    "trickle_watch": Operation(
        "PATCH",
        _WHEP + "/{session_id}",
        "WebRTC",
        "Add candidates (trickle ICE)",
        "Not needed: offers without candidates connect.",
        {204: Answer("Taken", None, "")},
        (400, 404, 413, 415),
        key=False,
        bodies=_FRAGMENT,
    ),
    "get_snapshot": Operation(
        "GET",
        "/v1/streams/{id}/snapshot.jpg",
        "Extensions",
        "The newest output picture",
        "As a JPEG; 404 before the first.",
        {200: Answer("A picture", None, "image/jpeg", _BINARY)},
        (401, 403, 404, 503),
        extension=True,
    ),
    "follow_events": Operation(
        "GET",
        "/v1/streams/{id}/events",
        "Extensions",
        "Follow what happens",
        "Server-sent events: state, publisher, viewers, updated, effective, loading, error, worker, deleted. A comment "
        "comes every ten seconds; a Last-Event-ID header resumes after that event as far as it is kept.",
        {200: Answer("An endless stream of events", None, "text/event-stream", _TEXT)},
        (401, 403, 404),
        query=(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "schema": _TEXT,
                "description": "The `id` of the last event seen.",
            },
        ),
        extension=True,
    ),
    "list_models": Operation(
        "GET",
        "/v1/models",
        "Extensions",
        "Models that streams may ask for",
        "Ids, families and which is the default.",
        {200: Answer("The models", schemas.ModelList)},
        (401,),
        extension=True,
    ),
    "list_parameters": Operation(
        "GET",
        "/v1/parameters",
        "Extensions",
        "The catalogue of parameters",
        "Type, limits, default, choices, families, and what a change does. The playground's controls are made from it.",
        {200: Answer("The catalogue", schemas.Catalogue)},
        (),
        key=False,
        extension=True,
    ),
    "get_capacity": Operation(
        "GET",
        "/v1/capacity",
        "Extensions",
        "How much more this server takes",
        "Streams, viewers, memory.",
        {200: Answer("The capacity", schemas.CapacityAnswer)},
        (401,),
        extension=True,
    ),
    "get_version": Operation(
        "GET",
        "/v1/version",
        "Server",
        "The version",
        "Of sdstream and of Python.",
        {200: Answer("The version", schemas.Version)},
        (),
        key=False,
        extension=True,
    ),
    "get_health": Operation(
        "GET",
        "/health",
        "Server",
        "Is this process alive",
        "200 as long as it answers; tells the worker's phase.",
        {200: Answer("Alive", schemas.Health)},
        (),
        key=False,
        extension=True,
    ),
    "get_readiness": Operation(
        "GET",
        "/ready",
        "Server",
        "Would a stream get pictures",
        "503 while the worker starts or is down.",
        {200: Answer("Ready", schemas.Readiness)},
        (503,),
        key=False,
        extension=True,
    ),
    "ping": Operation(
        "GET",
        "/ping",
        "Server",
        "For RunPod's load balancer",
        "204 while the worker starts.",
        {200: Answer("Ready", schemas.Readiness), 204: Answer("Still starting", None, "")},
        (503,),
        key=False,
        extension=True,
    ),
    "get_metrics": Operation(
        "GET",
        "/metrics",
        "Server",
        "Numbers for Prometheus",
        "Text format 0.0.4.",
        {200: Answer("Metrics", None, "text/plain", _TEXT)},
        (),
        key=False,
        extension=True,
    ),
}
"""Every operation by its operation id."""

_PATH_PARAMETERS = {
    "id": "The stream's id.",
    "stream_key": "The stream's secret, as `whip_url` has it.",
    "playback_id": "The stream's `output_playback_id`.",
    "session_id": "From the `Location` header.",
}


@functools.cache
def build_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document; the same object at each call, so nobody may change it."""
    models = {
        answer.model for operation in OPERATIONS.values() for answer in operation.answers.values() if answer.model
    }
    models.add(schemas.ErrorEnvelope)
    wanted = [*_in_mode(models, "serialization"), *_in_mode(schemas.BODIES, "validation")]
    _, definitions = models_json_schema(
        sorted(wanted, key=lambda pair: pair[0].__name__), ref_template=REFERENCE, schema_generator=_Generator
    )
    _loosen(definitions["$defs"])
    paths: dict[str, dict[str, Any]] = {}
    for operation_id, operation in OPERATIONS.items():
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation_id, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdstream", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "./"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _in_mode(models: Iterable[type[BaseModel]], mode: JsonSchemaMode) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    return [(model, mode) for model in models]


class _Generator(GenerateJsonSchema):
    """Answers have every member."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return self.mode == "serialization" or super().field_is_required(field, total)


def _loosen(definitions: dict[str, Any]) -> None:
    """Say in the schemas of requests what is true of them: null counts as absent, and no parameter is needed."""
    for name, schema in definitions.items():
        if not name.endswith("-Input"):
            continue
        if name.removesuffix("-Input") in _VARIANTS:
            schema.pop("required", None)
        needed = schema.get("required", [])
        for member, described in schema.get("properties", {}).items():
            if member not in needed:
                schema["properties"][member] = {"anyOf": [described, {"type": "null"}]}


def _describe(operation_id: str, operation: Operation) -> dict[str, Any]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT, "description": _PATH_PARAMETERS[name]}
        for name in names
    ]
    described: dict[str, Any] = {
        "operationId": operation_id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*parameters, *operation.query],
        "responses": {str(status): _answer(answer) for status, answer in operation.answers.items()}
        | {str(status): _error(status) for status in sorted({*operation.errors, 400, 405, 500})},
        "security": {True: [{"bearer": []}], None: [{"bearer": []}, {}], False: []}[operation.key],
    }
    if operation.bodies:
        described["requestBody"] = {"required": True, "content": dict(operation.bodies)}
    if operation.extension:
        described["x-sdstream-extension"] = True
    if operation.deprecated:
        described["deprecated"] = True
    return described


def _answer(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.text, "headers": _headers(answer.headers)}
    if answer.media_type:
        schema = _reference(answer.model) if answer.model else dict(answer.schema or {})
        body: dict[str, Any] = {"schema": schema}
        if answer.example is not None:
            body["example"] = answer.example
        described["content"] = {answer.media_type: body}
    return described


def _error(status: int) -> dict[str, Any]:
    headers: dict[str, str] = {}
    if status == 429:
        headers = {"Retry-After": "Seconds."}
    elif status == 401:
        headers = {"WWW-Authenticate": "Bearer."}
    elif status == 405:
        headers = {"Allow": "The methods of this path."}
    example = {**ERROR_EXAMPLE, "error": ERROR_TEXTS[status], "status": status}
    return {
        "description": ERROR_TEXTS[status],
        "headers": _headers(headers),
        "content": {JSON: {"schema": _reference(schemas.ErrorEnvelope), "example": example}},
    }


def _headers(texts: Mapping[str, str]) -> dict[str, Any]:
    every = {"X-Request-Id": "The id of this request, as in the log.", **texts}
    return {name: {"description": text, "schema": _TEXT} for name, text in every.items()}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


__all__ = ["DESCRIPTION", "OPERATIONS", "Answer", "Operation", "build_document"]
