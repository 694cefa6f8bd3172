"""What is set right in sent parameters before they are checked, because clients are known to send it.

Each step takes the sent members of one request and gives them back changed; nothing here refuses anything.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

from sdstream.params.controlnets import CONTROLNETS, ControlNetFacts
from sdstream.params.problems import Notes, is_object
from sdstream.settings import Family

SizePolicy = Literal["reject", "clamp"]
DERIVED = {
    "safety_checker_threshold": "is not one of Daydream's public parameters and was ignored",
    "show_reloading_frame": "is not one of Daydream's public parameters and was ignored; a placard is always shown",
}
ADAPTER_MEMBERS = ("ip_adapter", "ip_adapter_style_image_url", "cached_attention")
"""What the sd-turbo family does not have."""


def prepare(
    sent: Mapping[str, Any],
    family: Family,
    size_policy: SizePolicy,
    notes: Notes,
    controlnets: Mapping[str, ControlNetFacts] = CONTROLNETS,
) -> dict[str, Any]:
    """The members of `sent` that count for a stream of `family`: nothing the family lacks, no null but `lora_dict`."""
    values = {name: value for name, value in sent.items() if value is not None or name == "lora_dict"}
    for name, reason in DERIVED.items():
        if values.pop(name, None) is not None:
            notes.add(f"params.{name} {reason}")
    if family == "sd-turbo":
        _drop_adapters(values, notes)
    if family == "sd15":
        _make_adapter_regular(values, notes)
    _drop_unset_seed(values, notes)
    _drop_channels(values)
    if size_policy == "clamp":
        for side in ("width", "height"):
            _clamp_side(values, side, notes)
    _note_rare_controlnets(values, notes, controlnets)
    return values


def _drop_adapters(values: dict[str, Any], notes: Notes) -> None:
    # The OBS plugin sends an enabled ip_adapter for every model, so this must not fail.
    for name in ADAPTER_MEMBERS:
        value = values.pop(name, None)
        if value is None or value == "" or (is_object(value) and value.get("enabled") is False):
            continue
        notes.add(f"params.{name} has no effect on sd-turbo models and was ignored")


def _make_adapter_regular(values: dict[str, Any], notes: Notes) -> None:
    adapter = values.get("ip_adapter")
    if is_object(adapter) and adapter.get("type") == "faceid":
        values["ip_adapter"] = {**adapter, "type": "regular"}
        notes.add("params.ip_adapter.type faceid is not offered for SD 1.5 models; regular is used")


def _drop_unset_seed(values: dict[str, Any], notes: Notes) -> None:
    seed = values.get("seed")
    if isinstance(seed, int | float) and not isinstance(seed, bool) and seed == -1:
        del values["seed"]
        notes.add("params.seed -1 means no choice and was ignored")


def _drop_channels(values: dict[str, Any]) -> None:
    # Derived from the ControlNet; some clients copy it from an old answer, which is no reason for a warning.
    controlnets = values.get("controlnets")
    if isinstance(controlnets, list):
        values["controlnets"] = [
            {name: value for name, value in entry.items() if name != "conditioning_channels"}
            if is_object(entry)
            else entry
            for entry in cast("list[Any]", controlnets)
        ]


def _clamp_side(values: dict[str, Any], side: str, notes: Notes) -> None:
    value = values.get(side)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return
    good = nearest_side(value)
    if good != value:
        notes.add(f"params.{side} {value:g} was changed to {good}, the nearest that this server makes")
        values[side] = good


def whole_number(value: object) -> int | None:
    """`value` as the checks read it: 10, 10.0 and "10" are the same. None for what is no whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def nearest_side(value: float) -> int:
    """The width or height nearest to `value`: a multiple of 64 from 384 to 1024."""
    return int(min(max(math.floor(value / 64 + 0.5) * 64, 384), 1024))


def _note_rare_controlnets(values: Mapping[str, Any], notes: Notes, known: Mapping[str, ControlNetFacts]) -> None:
    controlnets = values.get("controlnets")
    if not isinstance(controlnets, list):
        return
    for entry in cast("list[Any]", controlnets):
        name = entry.get("model_id") if is_object(entry) else None
        facts = known.get(name) if isinstance(name, str) else None
        if facts is not None and not facts.in_sdks:
            notes.add(f"{name} is unknown to Daydream's SDKs; the Python SDK cannot read this stream back")


__all__ = ["ADAPTER_MEMBERS", "SizePolicy", "nearest_side", "prepare", "whole_number"]
