"""Merges the body of `PATCH /v1/streams/{id}` into the parameters in force."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from sdstream.params.adapters import AdapterSettings
from sdstream.params.addresses import StyleImage
from sdstream.params.controlnets import ControlNet, ControlNetFacts, counterpart
from sdstream.params.delivery import Delivery, read_delivery
from sdstream.params.envelope import open_envelope
from sdstream.params.models import ModelEntry, ModelTable
from sdstream.params.preparation import ADAPTER_MEMBERS, SizePolicy, prepare, whole_number
from sdstream.params.problems import Notes, Problem, is_object, refuse
from sdstream.params.strength import take_strength
from sdstream.params.validation import check
from sdstream.params.variants import VARIANTS, StreamParams
from sdstream.params.wire import STYLE_IMAGE
from sdstream.settings import Family

MERGED_OBJECTS = (
    "ip_adapter",
    "cached_attention",
    "image_preprocessing",
    "image_postprocessing",
    "latent_preprocessing",
    "latent_postprocessing",
)
"""Objects that merge member by member; arrays, those inside them too, are replaced whole."""


@dataclass(frozen=True, slots=True)
class Update:
    """The whole parameters after an update, and what the caller should know about it."""

    params: StreamParams
    delivery: Delivery = field(default_factory=Delivery)
    warnings: tuple[str, ...] = ()
    sent: frozenset[str] = frozenset()
    """The top-level params that the caller named, whether they change anything or not; `model_id` only if it came
    alone."""
    names_recording: bool = False


def apply_update(
    current: StreamParams,
    body: object,
    models: ModelTable,
    size_policy: SizePolicy = "reject",
    fixed: Mapping[str, object] = MappingProxyType({}),
    delivery: Delivery = Delivery(),
    *,
    allow_private: bool = False,
) -> Update:
    """Merge an update body, as decoded from JSON, over `current`, which stays as it is.

    Absent and null members keep their value (`lora_dict: null` clears). `{pipeline, params}`, bare `{params}` and loose
    parameters are taken. `fixed` is the stream's `name`, which an update that differs is warned about. `delivery` is
    merged over as `read_delivery` says. A new `model_id` of another family carries over what that family has too.
    Raises `InvalidParams`, whose `details` list everything that is wrong with the merged parameters.
    """
    notes, problems = Notes(), list[Problem]()
    envelope = open_envelope(body, notes, problems, creating=False, fixed=fixed)
    changed = read_delivery(envelope.delivery, delivery, notes, problems, allow_private=allow_private)
    sent = dict(envelope.params)
    wanted = sent.pop("model_id", None)
    family, model_id, doubtful = current.family, current.model_id, frozenset[str]()
    if wanted is not None and wanted != current.model_id:
        found = models.find(wanted)
        if isinstance(found, ModelEntry):
            family, model_id = found.family, found.id
        else:
            problems.append(found)
            doubtful = frozenset({"model_id"})
    values = prepare(sent, family, size_policy, notes, models.controlnets)
    base = dict(current)
    if family != current.family:
        base = _carry_over(current, family, values, notes, models.controlnets)
    _keep_shortened_image(base, values)
    _note_face_flip(base, values, notes)
    take_strength(values, {**base, **values}, notes, problems)
    merged = _merge(base, values)
    if "num_inference_steps" in values and "t_index_list" not in values:
        _clamp_steps(merged, notes)
    params, more = check({**merged, "model_id": model_id}, family, notes, doubtful, models.controlnets)
    problems += more
    if params is None or problems:
        raise refuse(problems)
    # Clients name the model with everything that they send.
    named = frozenset(envelope.params) - {"model_id"} or frozenset(envelope.params)
    return Update(params, changed, notes.as_tuple(), named, "recording" in envelope.delivery)


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **values}
    for name in MERGED_OBJECTS:
        old, new = base.get(name), values.get(name)
        if old is not None and isinstance(new, Mapping):
            given = {member: value for member, value in cast("Mapping[str, Any]", new).items() if value is not None}
            merged[name] = {**dict(old), **given}
    return merged


def _clamp_steps(merged: dict[str, Any], notes: Notes) -> None:
    # Daydream's engine does the same when the schedule shrinks under a list that was not sent along.
    length, steps = whole_number(merged["num_inference_steps"]), merged["t_index_list"]
    if length is None or not 1 <= length <= 100:
        return
    clamped = tuple(min(step, length) for step in steps)
    if clamped != steps:
        merged["t_index_list"] = clamped
        notes.add(f"params.t_index_list was cut to {list(clamped)} to fit num_inference_steps {length}")


def _keep_shortened_image(base: Mapping[str, Any], values: dict[str, Any]) -> None:
    # Lists, and answers to updates of something else, show a data URI without its data; clients send back what they
    # were given.
    stored = base.get(STYLE_IMAGE)
    if isinstance(stored, StyleImage) and stored.is_data and values.get(STYLE_IMAGE) == stored.short:
        del values[STYLE_IMAGE]


def _note_face_flip(base: Mapping[str, Any], values: Mapping[str, Any], notes: Notes) -> None:
    adapter = values.get("ip_adapter")
    stored = base.get("ip_adapter")
    if is_object(adapter) and adapter.get("type") == "regular" and getattr(stored, "type", "") == "faceid":
        notes.add(
            "params.ip_adapter.type changes from faceid to regular; Daydream's SDKs send regular by themselves, so "
            "repeat type: faceid to keep it"
        )


def _carry_over(
    current: StreamParams,
    family: Family,
    values: Mapping[str, Any],
    notes: Notes,
    controlnets: Mapping[str, ControlNetFacts],
) -> dict[str, Any]:
    """What a stream keeps when its model changes to one of another family, where the caller does not say."""
    target = VARIANTS[family]
    kept = {name: value for name, value in current if name in target.model_fields}
    if current.lcm_lora_id == type(current).model_fields["lcm_lora_id"].default:
        kept["lcm_lora_id"] = target.model_fields["lcm_lora_id"].default
    adapter = kept.pop("ip_adapter", None)
    if isinstance(adapter, AdapterSettings) and "ip_adapter" in target.model_fields:
        members = dict(adapter)
        if members.get("type") == "faceid" and family == "sd15":
            members["type"] = "regular"
            notes.add("params.ip_adapter.type faceid is not offered for SD 1.5 models; regular is used")
        kept["ip_adapter"] = target.model_validate({"model_id": "-", "ip_adapter": members}).__dict__["ip_adapter"]
    for name in ADAPTER_MEMBERS:
        lost = getattr(current, name, None)
        if name not in target.model_fields and lost is not None and getattr(lost, "enabled", True):
            notes.add(f"params.{name} is dropped: {family} models have none")
    if "controlnets" not in values:
        kept["controlnets"] = _translate_controlnets(current.controlnets, family, notes, controlnets)
    return kept


def _translate_controlnets(
    controlnets: tuple[ControlNet, ...], family: Family, notes: Notes, known: Mapping[str, ControlNetFacts]
) -> tuple[ControlNet, ...]:
    translated: list[ControlNet] = []
    for controlnet in controlnets:
        same = counterpart(controlnet.facts, family)
        if same is None:
            notes.add(f"{controlnet.model_id} is dropped: {family} models have none of its kind")
        else:
            members = {**dict(controlnet), "model_id": same}
            # By this server's table: one that knew another source would count as changed when it is sent again.
            translated.append(ControlNet.model_validate(members, context={"controlnets": known}))
    return tuple(translated)


__all__ = ["MERGED_OBJECTS", "Update", "apply_update"]
