"""Reads the body of `POST /v1/streams`, in any of its shapes."""

from dataclasses import dataclass, field
from typing import Any

from sdstream.params.delivery import Delivery, read_delivery
from sdstream.params.envelope import FACEID_PIPELINE, LEGACY_PIPELINES, open_envelope
from sdstream.params.models import ModelTable
from sdstream.params.preparation import SizePolicy, prepare, whole_number
from sdstream.params.problems import Notes, Problem, is_object, refuse
from sdstream.params.strength import take_strength
from sdstream.params.validation import check
from sdstream.params.variants import DEFAULT_STEPS, VARIANTS, StreamParams


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A valid create request. `warnings` tell the caller what was ignored or set right."""

    params: StreamParams
    name: str | None
    delivery: Delivery = field(default_factory=Delivery)
    warnings: tuple[str, ...] = ()


def parse_create(
    body: object, models: ModelTable, size_policy: SizePolicy = "reject", *, allow_private: bool = False
) -> CreateRequest:
    """Read a create body, as decoded from JSON.

    Absent and null members take their defaults; unknown ones are ignored with a warning. `size_policy` says whether a
    width or height off the grid is refused or moved to the nearest good value. `allow_private` lets RTMP targets lie in
    private networks.
    Raises `InvalidParams`, whose `details` list everything that is wrong.
    """
    notes, problems = Notes(), list[Problem]()
    envelope = open_envelope(body, notes, problems, creating=True)
    delivery = read_delivery(envelope.delivery, Delivery(), notes, problems, allow_private=allow_private)
    sent = dict(envelope.params)
    doubtful: frozenset[str] = frozenset()
    entry = models.default
    wanted = sent.pop("model_id", None)
    if wanted is None and envelope.pipeline_id is not None:
        wanted = LEGACY_PIPELINES[envelope.pipeline_id]
        if envelope.pipeline_id == FACEID_PIPELINE:
            sent["ip_adapter"] = _with_faceid(sent.get("ip_adapter"))
    if wanted is not None:
        found = models.find(wanted)
        if isinstance(found, Problem):
            problems.append(found)
            doubtful = frozenset({"model_id"})
        else:
            entry = found
    values = prepare(sent, entry.family, size_policy, notes, models.controlnets)
    steps = VARIANTS[entry.family].model_fields["t_index_list"].default
    take_strength(values, {"num_inference_steps": DEFAULT_STEPS, "t_index_list": steps, **values}, notes, problems)
    _fit_default_steps(values, entry.family)
    params, more = check({**values, "model_id": entry.id}, entry.family, notes, doubtful, models.controlnets)
    problems += more
    if params is None or problems:
        raise refuse(problems)
    return CreateRequest(params, envelope.name, delivery, notes.as_tuple())


def _with_faceid(adapter: object) -> Any:
    if adapter is None:
        return {"type": "faceid", "enabled": False}
    return {"type": "faceid", **adapter} if is_object(adapter) else adapter


def _fit_default_steps(values: dict[str, Any], family: Any) -> None:
    # The default steps are meant for a schedule of fifty; a shorter or longer one gets them in proportion.
    length = whole_number(values.get("num_inference_steps"))
    if "t_index_list" in values or length is None or not 1 <= length <= 100:
        return
    default: tuple[int, ...] = VARIANTS[family].model_fields["t_index_list"].default
    values["t_index_list"] = [round(step * length / DEFAULT_STEPS) for step in default]


__all__ = ["CreateRequest", "parse_create"]
