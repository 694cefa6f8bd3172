"""The request around the parameters, in today's shape and in every older one that clients still send."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from sdstream.params.bounds import find_out_of_bounds
from sdstream.params.delivery import MEMBERS as DELIVERY_MEMBERS
from sdstream.params.problems import Notes, Problem, did_you_mean, printable, refuse
from sdstream.params.variants import VARIANTS
from sdstream.params.vocabulary import MAX_NAME

PIPELINE = "streamdiffusion"
LEGACY_PIPELINES = {
    "pip_sd-turbo": "stabilityai/sd-turbo",
    "pip_sdxl-turbo": "stabilityai/sdxl-turbo",
    "pip_sdxl-turbo-faceid": "stabilityai/sdxl-turbo",
    "pip_sd15": "Lykon/dreamshaper-8",
}
"""Older pipeline ids, in lower case, and the model each one stood for."""
FACEID_PIPELINE = "pip_sdxl-turbo-faceid"
PARAMETER_NAMES = frozenset(name for variant in VARIANTS.values() for name in variant.model_fields)
_MEMBERS = frozenset({"pipeline", "params", "name", *DELIVERY_MEMBERS, "pipeline_id", "pipeline_params"})
_ANSWER_MEMBERS = frozenset(
    {
        "id",
        "stream_key",
        "created_at",
        "author",
        "from_playground",
        "gateway_host",
        "is_smoke_test",
        "output_playback_id",
        "output_stream_url",
        "whip_url",
        "whep_url",
        "hls_url",
        "status",
        "revision",
        "warnings",
        "applied",
        "changed",
        "dry_run",
    }
)
"""Members of the stream object and of the answer to an update: a client may send back what it got. They change nothing
and need no warning."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request taken apart. `params` are as sent, without nulls' and aliases' meaning resolved."""

    params: dict[str, Any]
    name: str | None
    delivery: Mapping[str, Any]
    """Members about where the output goes, as sent, without null ones."""
    pipeline_id: str | None


def open_envelope(
    body: object,
    notes: Notes,
    problems: list[Problem],
    *,
    creating: bool,
    fixed: Mapping[str, object] = MappingProxyType({}),
) -> Envelope:
    """Take a create or update body apart; what is wrong with the envelope itself goes to `problems`.

    `fixed` are the members that an update cannot change, as they are: sending the same again is worth no warning.
    Takes `{pipeline, params}`, `{pipeline_id, pipeline_params}`, loose parameters beside either, and `{}`.
    Raises `InvalidParams` at once when `body` is no object or breaks the bounds of any JSON.
    """
    if not isinstance(body, Mapping):
        raise refuse([Problem("body", "must be a JSON object", 'send {"params": {"model_id": "..."}}')])
    beyond = find_out_of_bounds(cast("object", body))
    if beyond:
        raise refuse(beyond)
    sent = {name: value for name, value in cast("Mapping[str, Any]", body).items() if value is not None}
    _check_pipeline(sent.get("pipeline"), problems)
    params = _collect_params(sent, problems)
    pipeline_id = _read_pipeline_id(params.pop("pipeline_id", None) or sent.get("pipeline_id"), notes, creating)
    if not creating and "name" in sent and sent["name"] != fixed.get("name"):
        notes.add("name is fixed when a stream is created and was ignored")
    for member in sent:
        if member not in _MEMBERS and member not in PARAMETER_NAMES and member not in _ANSWER_MEMBERS:
            notes.ignored(member, _MEMBERS)
    return Envelope(
        params,
        _read_name(sent.get("name"), problems) if creating else None,
        {name: sent[name] for name in DELIVERY_MEMBERS if name in sent},
        pipeline_id,
    )


def _collect_params(sent: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    # Later ones win: `params` is today's name, and what lies loose beside it is the oldest shape.
    collected = {name: value for name, value in sent.items() if name in PARAMETER_NAMES}
    for member in ("pipeline_params", "params"):
        value = sent.get(member)
        if isinstance(value, Mapping):
            collected |= cast("Mapping[str, Any]", value)
        elif value is not None:
            problems.append(Problem(member, "must be an object"))
    return collected


def _check_pipeline(value: object, problems: list[Problem]) -> None:
    if value is None:
        return
    folded = value.casefold().replace("_", "-") if isinstance(value, str) else ""
    # Replacement servers and old samples append the model to the name; all of them mean the one pipeline.
    if not folded.startswith((PIPELINE, "stream-diffusion", "pip-")):
        suggestion = did_you_mean(value, [PIPELINE]) or f"use {PIPELINE}"
        known = f"is not one this server has: '{printable(value)}'" if isinstance(value, str) else "must be a text"
        problems.append(Problem("pipeline", known, suggestion))


def _read_pipeline_id(value: object, notes: Notes, creating: bool) -> str | None:
    if value is None or not creating:
        return None
    if isinstance(value, str) and value.casefold() in LEGACY_PIPELINES:
        return value.casefold()
    notes.add(f"pipeline_id '{printable(value)}' is not known; the model is chosen by params.model_id or the server")
    return None


def _read_name(value: object, problems: list[Problem]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        problems.append(Problem("name", "must be a text"))
        return None
    if len(value) > MAX_NAME:
        problems.append(Problem("name", f"has more than {MAX_NAME} characters"))
        return None
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        problems.append(Problem("name", "must not hold control characters"))
        return None
    return value.strip() or None


__all__ = ["FACEID_PIPELINE", "LEGACY_PIPELINES", "PARAMETER_NAMES", "PIPELINE", "Envelope", "open_envelope"]
