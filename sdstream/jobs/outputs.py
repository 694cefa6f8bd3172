"""What jobs say: events of one shape, JSON-safe and small enough, and errors as one string with a code.

RunPod's SDK drops a result that `json.dumps` or UTF-8 refuses without a word, writes NaN as no JSON has it, and turns
an error that is no string into Python's text of it. So every event passes `make_event`.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from sdstream import errors, job_errors, model_errors
from sdstream.errors import BadRequest, InternalError, RequestError, SdstreamError
from sdstream.job_errors import JobFailed, ResultTooLarge

MAX_EVENT_BYTES = 950_000
"""A chunk of the stream may have 1 MB, with what the platform wraps around it."""
MAX_OUTPUT_BYTES = 9_000_000
"""All events of a job together, which are its output: `/run` keeps 10 MB."""
MAX_BASE64_BYTES = 900_000
"""The longest base64 text in an event; larger results go to the bucket or are refused."""

Event = dict[str, Any]


def make_event(name: str, /, **members: Any) -> Event:
    """An event: `event` first, then `members`, all of it fit for strict JSON. Raises `ResultTooLarge`."""
    event = cast("Event", json_safe({"event": name} | members))
    size = len(json.dumps(event, ensure_ascii=False).encode())
    if size > MAX_EVENT_BYTES:
        raise ResultTooLarge(f"the event {name} has {size} bytes; RunPod takes {MAX_EVENT_BYTES}")
    return event


def error_event(error: Exception) -> Event:
    """The last event of a job that failed; the SDK makes the job FAILED with the string `error`."""
    known = error if isinstance(error, SdstreamError) else InternalError("the worker made a mistake; its log has it")
    retryable = known.retryable
    return cast("Event", json_safe({"error": error_text(known), "code": known.code, "retryable": retryable}))


def error_text(error: SdstreamError) -> str:
    """`CODE: message`, with further fields that are wrong, and the hint: the platform keeps nothing but this text."""
    code = error.code
    text = f"{code}: {error.message}"
    details = cast("object", error.details)
    if isinstance(details, list):
        entries = cast("list[object]", details)[1:6]
        rest = [f"{entry['field']}: {entry['problem']}" for entry in map(_as_object, entries) if "field" in entry]
        text = "; ".join([text, *rest])
    elif isinstance(details, dict):
        text += f" {json.dumps(json_safe(_as_object(cast('object', details))))}"
    advice = error.hint if error.hint != BadRequest.hint else ""  # that one is for requests by HTTP
    return f"{text[:4000]} (hint: {advice})" if advice else text[:4000]


def error_of(failed: JobFailed) -> SdstreamError:
    """The error that a worker meant, of its own class again; `failed` itself where its code is not known here."""
    for kind in _request_errors():
        if kind.code == failed.error_code:
            return kind(failed.message, hint=failed.hint or None)
    return failed


def json_safe(value: Any) -> Any:
    """A copy of plain data in which JSON and UTF-8 find nothing to refuse: NaN and infinities become null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        text = str(value)
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {json_safe(str(key)): json_safe(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(item) for item in cast("Iterable[Any]", value)]
    return json_safe(str(value))


class OutputBudget:
    """Counts what a job has said: the SDK keeps every event in memory and posts all of them at the end."""

    def __init__(self, limit: int = MAX_OUTPUT_BYTES) -> None:
        self._left = limit

    def allows(self, event: Event) -> bool:
        """Whether the event fits; if it does, it is counted."""
        size = len(json.dumps(event, ensure_ascii=False).encode()) + 2
        if size > self._left:
            return False
        self._left -= size
        return True


def stretched_interval(wanted: float, elapsed: float) -> float:
    """Seconds to the next status event: as `wanted`, but no more than some 200 in the first stretch of time and then
    a two-hundredth of the age, so that a session of a week has about 1500 of them and its output stays small."""
    return max(wanted, elapsed / 200)


def _as_object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _request_errors() -> list[type[RequestError]]:
    return [
        member
        for module in (errors, model_errors, job_errors)
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, RequestError) and member is not RequestError
    ]


__all__ = [
    "MAX_BASE64_BYTES",
    "MAX_EVENT_BYTES",
    "Event",
    "OutputBudget",
    "error_event",
    "error_of",
    "error_text",
    "json_safe",
    "make_event",
    "stretched_interval",
]
