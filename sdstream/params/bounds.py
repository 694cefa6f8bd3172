"""Limits on any JSON before it is looked at: depth, number of values, length of texts, size of numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sdstream.params.problems import Problem, join
from sdstream.params.vocabulary import MAX_SAFE_INTEGER, MAX_TEXT, MAX_URL

MAX_DEPTH = 12
MAX_VALUES = 5_000
MAX_KEY = MAX_URL
"""Names of LoRAs are URLs, and signed ones are long."""
MAX_STRING = MAX_TEXT
"""What the longest text of the wire may have; whoever is refused is told the limit that counts."""
UNBOUNDED_STRINGS = frozenset({"ip_adapter_style_image_url"})
"""Members whose own check has a larger limit."""


def find_out_of_bounds(body: object) -> list[Problem]:
    """Why `body` is more than a request can sensibly hold; empty when it is not.

    Walks with a list, not by recursion, so depth itself cannot hurt. Stops at the first ten problems.
    """
    problems: list[Problem] = []
    pending: list[tuple[object, tuple[int | str, ...]]] = [(body, ())]
    seen = 0
    while pending and len(problems) < 10:
        value, location = pending.pop()
        seen += 1
        if len(location) > MAX_DEPTH:
            return [Problem("body", f"is nested more than {MAX_DEPTH} levels deep")]
        # Before anything of it is looked at: a list of millions held the event loop for half a minute.
        if seen + len(pending) + _count(value) > MAX_VALUES:
            return [Problem("body", f"holds more than {MAX_VALUES} values")]
        problem = _look_at(value, location)
        if problem is not None:
            problems.append(Problem(join("", location) or "body", problem))
        elif isinstance(value, Mapping):
            pending += [(member, (*location, name)) for name, member in cast("Mapping[str, Any]", value).items()]
        elif isinstance(value, list | tuple):
            pending += [(item, (*location, index)) for index, item in enumerate(cast("list[Any]", value))]
    return problems


def _count(value: object) -> int:
    return len(cast("Sequence[object]", value)) if isinstance(value, Mapping | list | tuple) else 0


def _look_at(value: object, location: tuple[int | str, ...]) -> str | None:
    match value:
        case None | bool():
            return None
        case int():
            return None if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else "must lie between -(2^53-1) and 2^53-1"
        case float():
            return None if math.isfinite(value) else "must be a finite number"
        case str():
            if len(value) > MAX_STRING and not UNBOUNDED_STRINGS.intersection(location):
                return f"has more than {MAX_STRING} characters"
            return None if _is_unicode(value) else "must be text that UTF-8 can hold: it has half of a surrogate pair"
        case Mapping():
            return _look_at_keys(cast("Mapping[Any, Any]", value))
        case list() | tuple():
            return None
        case _:
            return "is not a JSON value"


def _look_at_keys(value: Mapping[Any, Any]) -> str | None:
    for name in value:
        if not isinstance(name, str):
            return "has a name that is not a text"
        if len(name) > MAX_KEY:
            return f"has a name of more than {MAX_KEY} characters"
        if not _is_unicode(name):
            return "has a name with half of a surrogate pair"
    return None


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


__all__ = ["MAX_DEPTH", "MAX_STRING", "MAX_VALUES", "find_out_of_bounds"]
