"""What is wrong with parameters, in words a caller can act on: where, what, and what to send instead."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypeIs

from sdstream.errors import InvalidParams

TEXT_FORM = "<text>"
NUMBER_FORM = "<number>"
PAIRS_FORM = "<pairs>"
UNION_FORMS = frozenset({TEXT_FORM, NUMBER_FORM, PAIRS_FORM})
"""Tags of the branches of a union; pydantic puts them into locations, where callers must not see them."""
KEY_FORM = "[key]"
"""What pydantic puts after a name of an object that is wrong itself; the name before it says enough."""

RULE_ERROR = "sdstream_rules"
MAX_NOTES = 50
MAX_PROBLEMS = 100
MAX_SHOWN = 80
_EMPTY = "must not be empty"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    `field` is the wire path, such as `params.controlnets[1].model_id`. `reads` names the top-level parameters that a
    rule between fields looked at, so that it is not reported on top of their own problems.
    """

    field: str
    problem: str
    suggestion: str | None = None
    reads: frozenset[str] = frozenset()

    def as_detail(self) -> dict[str, str | None]:
        return {"field": self.field, "problem": self.problem, "suggestion": self.suggestion}


class Notes:
    """Warnings for the caller, each once, in order, bounded."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._left_out = 0

    def add(self, line: str) -> None:
        if line in self._lines:
            return
        if len(self._lines) >= MAX_NOTES:
            self._left_out += 1
            return
        self._lines[line] = None

    def ignored(self, field: str, known: Collection[str] = ()) -> None:
        """Note a member that means nothing here, and which known one may have been meant."""
        name = field.rpartition(".")[2]
        near = did_you_mean(name, known)
        self.add(f"{printable(field)} is not known and was ignored{f'; {near}' if near else ''}")

    def as_tuple(self) -> tuple[str, ...]:
        rest = (f"{self._left_out} more warnings were left out",) if self._left_out else ()
        return (*self._lines, *rest)


def refuse(problems: Sequence[Problem]) -> InvalidParams:
    """The error that carries all of `problems` (at least one)."""
    unique = list(dict.fromkeys(problems))
    first = unique[0]
    more = f" (and {len(unique) - 1} more, see details)" if len(unique) > 1 else ""
    return InvalidParams(
        f"{first.field}: {first.problem}{more}",
        details=[problem.as_detail() for problem in unique[:MAX_PROBLEMS]],
    )


def broken_rules(problems: Iterable[Problem]) -> PydanticCustomError:
    """A pydantic error that carries `problems`, whose fields are relative to where it is raised."""
    return PydanticCustomError(RULE_ERROR, "breaks a rule between fields", {"problems": tuple(problems)})


def did_you_mean(value: object, choices: Collection[str]) -> str | None:
    """`did you mean 'x'?` when one of `choices` is near to `value`, ignoring case; else None."""
    if not isinstance(value, str):
        return None
    # Ids are owner/name, and people remember the name.
    folded = {choice.rpartition("/")[2].casefold(): choice for choice in choices}
    folded |= {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(value[:MAX_SHOWN].casefold(), folded, n=1, cutoff=0.55)
    return f"did you mean {folded[near[0]]!r}?" if near else None


def one_of(choices: Collection[str]) -> str:
    return "one of " + ", ".join(choices)


def printable(value: object) -> str:
    """`value` as short text that any encoder takes: lone surrogates are escaped, the rest is cut."""
    text = value if isinstance(value, str) else type(value).__name__
    text = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def join(path: str, location: Iterable[int | str]) -> str:
    """The wire path of a pydantic location: `params` and `("prompt", 0, 1)` give `params.prompt[0][1]`."""
    for part in location:
        if part in UNION_FORMS or part == KEY_FORM:
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        elif part == "":
            path += '[""]'
        else:
            path += f".{printable(part)}" if path else printable(part)
    return path


def describe(error: ValidationError, path: str) -> list[Problem]:
    """All that `error` found, with wire paths below `path`."""
    problems: list[Problem] = []
    for found in error.errors(include_url=False):
        field = join(path, found["loc"])
        if found["type"] == RULE_ERROR:
            inner: tuple[Problem, ...] = found.get("ctx", {})["problems"]
            problems += [
                Problem(f"{field}.{rule.field}" if rule.field else field, rule.problem, rule.suggestion, rule.reads)
                for rule in inner
            ]
        else:
            problems.append(Problem(field, *_put_in_words(found)))
    # An array whose every item is wrong looks empty to pydantic as well; its items say what is the matter.
    inside = tuple(problem.field for problem in problems)
    return [problem for problem in problems if problem.problem != _EMPTY or not _has_below(inside, problem.field)]


def _has_below(fields: Iterable[str], field: str) -> bool:
    return any(other.startswith((f"{field}[", f"{field}.")) for other in fields)


def _put_in_words(found: ErrorDetails) -> tuple[str, str | None]:
    kind, context, value = found["type"], found.get("ctx", {}), found["input"]
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"is not a value it can have: {_show(value)}", did_you_mean(value, choices) or f"use {one_of(choices)}"
    if kind in _BOUNDS:
        limit = _plain(context[_BOUNDS[kind][1]])
        return f"must be {_BOUNDS[kind][0]} {limit}, not {_show(value)}", None
    if kind in _FIXED:
        return _FIXED[kind], None
    if kind in {"string_too_long", "too_long"}:
        unit = "characters" if kind == "string_too_long" else "items"
        return f"has more than {context['max_length']} {unit}", None
    if kind in {"string_too_short", "too_short"}:
        return _EMPTY, None
    return found["msg"][:1].lower() + found["msg"][1:], None


_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_FIXED = {
    "missing": "is missing",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of fewer digits",
    "int_from_float": "must be an integer, without a fraction",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "string_unicode": "must be text that UTF-8 can hold: it has half of a surrogate pair",
    "tuple_type": "must be an array",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "mapping_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _plain(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a huge number"
    if isinstance(value, str):
        return f"'{printable(value)}'"
    return {"NoneType": "null", "dict": "an object", "list": "an array"}.get(type(value).__name__, "that")


def _plain(number: Any) -> str:
    return f"{number:.0f}" if isinstance(number, float) and number.is_integer() and abs(number) < 1e15 else str(number)


def is_object(value: object) -> TypeIs[Mapping[str, Any]]:
    """Whether `value` is a JSON object (`find_out_of_bounds` has made sure that its names are texts)."""
    return isinstance(value, Mapping)


__all__ = [
    "NUMBER_FORM",
    "PAIRS_FORM",
    "TEXT_FORM",
    "Notes",
    "Problem",
    "broken_rules",
    "describe",
    "did_you_mean",
    "is_object",
    "join",
    "one_of",
    "printable",
    "refuse",
]
