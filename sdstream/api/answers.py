"""Answers: JSON bytes from plain values, and the seven-key envelope of every error."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from sdstream.errors import BadRequest, InternalError, MethodNotAllowed, NotFound, RequestError, SdstreamError

REQUEST_ID = "sdstream.request_id"
"""The scope member that holds the id of a request."""
HEAD = "sdstream.head"
"""The scope member that says: only the headers of this answer are wanted."""

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

# Members keep their order and slashes stay unescaped, as OBS's text search needs.
encode_json = msgspec.json.Encoder(enc_hook=str).encode


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of plain dictionaries, lists and scalars; nothing is validated, so this is cheap."""
    return Response(encode_json(value), status, headers, "application/json")


def envelope(error: RequestError, scope: Scope) -> dict[str, Any]:
    """The seven members of an error body; all of them, always (contract 1.8)."""
    return {
        "success": False,
        "error": error.message,
        "code": error.code,
        "status": error.status,
        "details": error.details,
        "requestId": scope.get(REQUEST_ID),
        "traceId": trace_id(scope),
    }


def error_answer(error: RequestError, scope: Scope) -> Response:
    """The answer to a request that failed."""
    return json_answer(envelope(error, scope), error.status, error.headers)


def as_request_error(error: Exception) -> RequestError:
    """What the caller is told of `error`; the text of an unforeseen one stays in the log."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):
        return _from_framework(error)
    if isinstance(error, SdstreamError):
        return InternalError(error.message)
    return InternalError("the server made a mistake; its log has the details under this request id")


def trace_id(scope: Scope) -> str | None:
    """The trace id of the caller's `traceparent` header, None without one."""
    for name, value in scope["headers"]:
        if name == b"traceparent":
            match = _TRACE_PARENT.fullmatch(value.decode("latin-1"))
            return match.group(1) if match else None
    return None


def _from_framework(error: HTTPException) -> RequestError:
    if error.status_code == 404:
        return NotFound("nothing is at this path")
    if error.status_code == 405:
        return MethodNotAllowed("this path does not take this method")
    if error.status_code < 500:
        return BadRequest(str(error.detail))
    return InternalError(str(error.detail))


__all__ = [
    "HEAD",
    "REQUEST_ID",
    "as_request_error",
    "encode_json",
    "envelope",
    "error_answer",
    "json_answer",
    "trace_id",
]
