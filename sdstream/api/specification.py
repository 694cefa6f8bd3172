"""The OpenAPI document: what every operation takes and what is really sent."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from sdstream import __version__
from sdstream.api import schemas
from sdstream.api.examples import ERROR_EXAMPLE
from sdstream.api.operations import JSON, OPERATIONS, TAGS, TEXT, Answer, Operation
from sdstream.params.strength import STRENGTH_SCHEMA

DESCRIPTION = (
    "Real-time video diffusion on your own machine, speaking Daydream's API: clients work by changing the base URL.\n\n"
    "Operations marked with x-sdstream-extension, and the members that are called extensions, are not Daydream's. "
    "Unknown members of a request are ignored; members that are null count as absent. "
    "Every error has the same seven members; every answer has X-Request-Id. OPTIONS answers 204 on every path."
)
REFERENCE = "#/components/schemas/{model}"
_VARIANTS = {variant.__name__ for variant in get_args(schemas.Params)}

ERROR_TEXTS = {
    400: "The request is malformed; `details` names the members that are wrong",
    401: "No bearer key, or a wrong one",
    403: "The stream was made with another key",
    404: "Nothing has this address",
    405: "The path does not take this method",
    409: "Refused while the stream is live; nothing changed",
    413: "The body is over the limit",
    415: "A wrong Content-Type",
    416: "The file has nothing of this range",
    429: "A limit is reached; Retry-After says when to come back",
    500: "A defect of sdstream",
    503: "The server cannot do this just now",
}

_PATH_PARAMETERS = {
    "name": "The name of a file.",
    "id": "The stream's id.",
    "stream_key": "The stream's secret, as `whip_url` has it.",
    "playback_id": "The stream's `output_playback_id`.",
    "session_id": "From the `Location` header.",
    "processor": "An image processor, such as `canny`.",
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
            schema["properties"]["strength"] = dict(STRENGTH_SCHEMA)
        needed = schema.get("required", [])
        for member, described in schema.get("properties", {}).items():
            if member not in needed:
                schema["properties"][member] = {"anyOf": [described, {"type": "null"}]}


def _describe(operation_id: str, operation: Operation) -> dict[str, Any]:
    names = [part[1:].partition("}")[0] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": TEXT, "description": _PATH_PARAMETERS[name]}
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
    elif status == 416:
        headers = {"Content-Range": "`bytes */LENGTH`, the length of the file."}
    example = {**ERROR_EXAMPLE, "error": ERROR_TEXTS[status], "status": status}
    return {
        "description": ERROR_TEXTS[status],
        "headers": _headers(headers),
        "content": {JSON: {"schema": _reference(schemas.ErrorEnvelope), "example": example}},
    }


def _headers(texts: Mapping[str, str]) -> dict[str, Any]:
    every = {"X-Request-Id": "The id of this request, as in the log.", **texts}
    return {name: {"description": text, "schema": TEXT} for name, text in every.items()}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


__all__ = ["DESCRIPTION", "build_document"]
