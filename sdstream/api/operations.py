"""Every operation of the API: its path, what it takes, what it answers. The router and the OpenAPI document use it."""

from sdstream.api import schemas
from sdstream.api.bodies import FRAGMENT_TYPE, SDP_TYPE
from sdstream.api.examples import CREATE_EXAMPLE, OFFER_EXAMPLE, STREAM_EXAMPLE, UPDATE_EXAMPLE
from sdstream.api.model_schemas import ModelList
from sdstream.api.operation import JSON, Answer, Operation
from sdstream.api.output_operations import OUTPUT_OPERATIONS
from sdstream.api.rendering import NAMES_OF_ITS_OWN

TAGS = {
    "Streams": "Daydream's stream operations.",
    "WebRTC": "Publishing (WHIP) and watching (WHEP). These URLs are capabilities: they need no key.",
    "Extensions": "What sdstream offers beyond Daydream.",
    "Server": "For operators and load balancers; no key needed.",
}


_STREAM = Answer("The stream", schemas.Stream, example=STREAM_EXAMPLE)
_UPDATED = {**STREAM_EXAMPLE, "revision": 2, "applied": "hot", "changed": ["prompt"], "dry_run": False}
_PLANNED = {**STREAM_EXAMPLE, **dict.fromkeys(NAMES_OF_ITS_OWN), "dry_run": True}
DRY_RUN = {
    "name": "dry_run",
    "in": "query",
    "schema": {"type": "boolean", "default": False},
    "description": "Extension. Say what would happen; change nothing.",
}
TEXT = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
_SESSION_HEADERS = {
    "Location": "The session: DELETE ends it, PATCH adds candidates.",
    "Livepeer-Playback-URL": "Where viewers of this stream post their offers.",
    "ETag": "The session id.",
}
_ANSWER = Answer("An SDP answer with all candidates", None, SDP_TYPE, TEXT, headers=_SESSION_HEADERS)
_OFFER = {SDP_TYPE: {"schema": TEXT, "example": OFFER_EXAMPLE}}
_FRAGMENT = {FRAGMENT_TYPE: {"schema": TEXT, "example": "a=ice-ufrag:F7gI\r\na=ice-pwd:x9cmlYzichV2IlhPkg1y\r\n"}}

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
        {201: _STREAM, 200: Answer("A dry run: nothing was created", schemas.PlannedStream, example=_PLANNED)},
        (400, 401, 403, 413, 429, 503),
        query=(DRY_RUN,),
        bodies={JSON: {"schema": {"$ref": "#/components/schemas/CreateBody"}, "example": CREATE_EXAMPLE}},
    ),
    "list_streams": Operation(
        "GET",
        "/v1/streams",
        "Streams",
        "List streams",
        "The streams of the caller; an operator's key lists all.",
        {200: Answer("The streams", schemas.StreamList)},
        (401, 403),
        query=({"name": "user_id", "in": "query", "schema": TEXT, "description": "Only streams of this author."},),
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
        query=(DRY_RUN,),
        bodies={JSON: {"schema": {"$ref": "#/components/schemas/UpdateBody"}, "example": UPDATE_EXAMPLE}},
    ),
    "delete_stream_by_path": Operation(
        "DELETE",
        "/v1/streams/{id}",
        "Streams",
        "Delete a stream (Unity's way)",
        "The same as the query form.",
        {200: Answer("Deleted", schemas.Deleted)},
        (400, 401, 403, 404),
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
        query=(DRY_RUN,),
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
        (400, 401, 403, 404, 413, 429),
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
        "A second publisher takes over from the first. Viewers keep their sessions. `Link` headers name STUN and TURN "
        "servers, as they do in the answer to OPTIONS (RFC 9725).",
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
        "404 until somebody publishes; the same offer may be posted again. `Link` headers as for publishers.",
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
    "get_tap": Operation(
        "GET",
        "/v1/streams/{id}/tap/{processor}.jpg",
        "Extensions",
        "What an image processor made last",
        "As a JPEG of at most 320 pixels: the control picture of a ControlNet, by the name of its preprocessor, or "
        "what a processor of a block made. 404 when the stream has no such processor, or before its first picture.",
        {200: Answer("A picture", None, "image/jpeg", _BINARY)},
        (401, 403, 404, 503),
        extension=True,
    ),
    "follow_events": Operation(
        "GET",
        "/v1/streams/{id}/events",
        "Extensions",
        "Follow what happens",
        "Server-sent events: state, publisher, viewers, updated, effective, loading, late, error, output, recording, "
        "worker, deleted. A comment comes every ten seconds; a Last-Event-ID header resumes after that event while it "
        "is kept.",
        {200: Answer("An endless stream of events", None, "text/event-stream", TEXT)},
        (401, 403, 404, 429),
        query=(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "schema": TEXT,
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
        "Models, ControlNets, IP-Adapters and the networks of image processors: what is on this machine, and what not.",
        {200: Answer("The models", ModelList)},
        (401, 403),
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
        (401, 403),
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
        {200: Answer("Metrics", None, "text/plain", TEXT)},
        (),
        key=False,
        extension=True,
    ),
    **OUTPUT_OPERATIONS,
}
"""Every operation by its operation id."""

__all__ = ["JSON", "OPERATIONS", "TAGS", "TEXT", "Answer", "Operation"]
