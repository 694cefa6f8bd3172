"""What of wanted params can be in force while something that they ask for cannot be had. Pure functions of params.

A stream that runs keeps what it has, and of new params takes all that does not hang on the missing part.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sdstream.params.adapters import AdapterSettings, CachedAttention
from sdstream.params.addresses import StyleImage
from sdstream.params.change import HOT_FIELDS, changed_fields
from sdstream.params.controlnets import ControlNet
from sdstream.params.rules import find_broken_rules
from sdstream.params.variants import StreamParams, output_sides

ADAPTER = "ip_adapter"
LCM = "use_lcm_lora"
"""The part that is the LCM LoRA of the model: without it a model starts as little as without its weights."""
STEPS = ("t_index_list", "num_inference_steps")
STYLE = "ip_adapter_style_image_url"


def controlnet_part(source: str) -> str:
    """The part that is a ControlNet, by where its files are."""
    return f"controlnets/{source}"


def lora_part(name: str) -> str:
    """The part that is a LoRA, by its name on the wire."""
    return f"lora_dict/{name}"


def active_controlnets(params: StreamParams) -> tuple[ControlNet, ...]:
    """Those that have an effect: on, and of a scale above 0."""
    return tuple(net for net in params.controlnets if net.has_effect)


def style_of(params: StreamParams) -> StyleImage | None:
    """The style image that has an effect, when its picture is here."""
    adapter: Any = getattr(params, ADAPTER, None)
    image: StyleImage | None = getattr(params, STYLE, None)
    if adapter is None or not adapter.enabled or adapter.scale <= 0 or image is None or not image.is_data:
        return None
    return image


@dataclass(frozen=True, slots=True)
class Failed:
    """`params` that could not be brought into force, because of `part`: a name that the functions above make,
    `ip_adapter`, `use_lcm_lora`, or empty where that is not known."""

    params: StreamParams
    part: str = ""

    @classmethod
    def of(cls, params: StreamParams, part: str) -> "Failed":
        """What failed; `part` counts only where `params` ask for it, else nothing would be asked for by anybody."""
        named = cls(params, part)
        return named if named.is_asked_by(params) else cls(params)

    def is_asked_by(self, params: StreamParams) -> bool:
        """Whether `params` ask for what failed, so that they would fail as well."""
        if not self.part:
            return type(params) is type(self.params) and with_hot(self.params, params) == params
        asked = _asked(params, self.part)
        return asked is not None and asked == _asked(self.params, self.part)


def attainable(wanted: StreamParams, in_force: StreamParams, failed: Iterable[Failed]) -> StreamParams:
    """What is to be brought into force now, of `wanted`, on a stream that runs under `in_force`.

    All of it where nothing failed that it asks for. Without the parts that failed, if those are known; of those that
    run, the same model keeps what it has. Else what runs, with all that can change while it does; and `in_force` itself
    if even that has failed.
    """
    known = tuple(failed)
    asked = [each for each in known if each.is_asked_by(wanted)]
    if not asked:
        return wanted
    same = _is_same_model(wanted, in_force)
    if all(each.part and (same or each.part != LCM) for each in asked):
        running = in_force if same else None
        reduced = wanted
        for each in asked:
            reduced = _without(reduced, running, each.part)
        if not any(each.is_asked_by(reduced) for each in known):
            return reduced
    hot = with_hot(in_force, wanted)
    return in_force if any(each.params == hot for each in known) else hot


def startable(wanted: StreamParams, failed: Iterable[Failed]) -> StreamParams | None:
    """What a stream that runs nothing yet can start with: `wanted` without the parts that failed. None when something
    failed that it asks for and cannot do without, such as its model."""
    asked = [each for each in failed if each.is_asked_by(wanted)]
    if not all(each.part and each.part != LCM for each in asked):
        return None
    for each in asked:
        wanted = _without(wanted, None, each.part)
    return wanted


def with_hot(running: StreamParams, wanted: StreamParams) -> StreamParams:
    """`running` with all of `wanted` that needs nothing to be loaded: neither files nor other shapes of tensors."""
    fields = type(running).model_fields
    taken: dict[str, Any] = {
        name: value for name, value in wanted if name in HOT_FIELDS and name in fields and name not in (*STEPS, STYLE)
    }
    if len(running.t_index_list) == len(wanted.t_index_list):
        taken |= {name: getattr(wanted, name) for name in STEPS}
    if output_sides(running) != output_sides(running.model_copy(update=taken)):
        del taken["image_postprocessing"]
    runs = {net.model_id for net in active_controlnets(running)}
    entries = {net.model_id: net for net in wanted.controlnets if net.model_id in runs and net.enabled}
    taken["controlnets"] = tuple(entries.get(net.model_id, net) for net in running.controlnets)
    taken |= _hot_style(running, wanted) | _hot_attention(running, wanted)
    made = running.model_copy(update=taken)
    return running if find_broken_rules(made) else made


def place_of(failed: Failed, wanted: StreamParams, target: StreamParams) -> tuple[str, str]:
    """Where `wanted` name what failed, such as `controlnets[1]`, and its name there if it has one. `target` is what is
    in force or shall be."""
    for index, net in enumerate(wanted.controlnets):
        if failed.part == controlnet_part(net.source):
            return f"controlnets[{index}]", net.model_id
    if failed.part:
        return failed.part.partition("/")[0], ""
    return next(iter(changed_fields(target, wanted)), "params"), ""


def _is_same_model(one: StreamParams, other: StreamParams) -> bool:
    same = (one.model_id, one.skip_diffusion) == (other.model_id, other.skip_diffusion)
    return same and type(one) is type(other)


def _asked(params: StreamParams, part: str) -> tuple[object, ...] | None:
    """What is asked of a part: equal where the same is; None where nothing."""
    if params.skip_diffusion:
        return None
    model = (type(params), params.model_id)
    if part == LCM:
        return model if params.use_lcm_lora else None
    if part == ADAPTER:
        image, adapter = style_of(params), getattr(params, ADAPTER, None)
        return None if image is None else (*model, getattr(adapter, "type", ""), image)
    if any(part == controlnet_part(net.source) for net in active_controlnets(params)):
        return model
    if any(part == lora_part(name) and weight for name, weight in (params.lora_dict or {}).items()):
        return model
    return None


def _without(params: StreamParams, in_force: StreamParams | None, part: str) -> StreamParams:
    """`params` with `part` as it is in force, if anything is."""
    if part == LCM:
        return params.model_copy(update={LCM: in_force is not None and in_force.use_lcm_lora})
    if part == ADAPTER:
        return params.model_copy(update=_old_style(params, in_force))
    nets = tuple(net for net in params.controlnets if controlnet_part(net.source) != part)
    loras = {name: weight for name, weight in (params.lora_dict or {}).items() if lora_part(name) != part}
    # A LoRA that runs with another weight can be had, whatever failed.
    running = {} if in_force is None else in_force.lora_dict or {}
    loras |= {name: weight for name, weight in running.items() if lora_part(name) == part}
    return params.model_copy(update={"controlnets": nets, "lora_dict": loras or None})


def _old_style(params: StreamParams, in_force: StreamParams | None) -> dict[str, Any]:
    adapter: AdapterSettings = getattr(params, ADAPTER)
    if in_force is None or style_of(in_force) is None:
        return {ADAPTER: adapter.model_copy(update={"enabled": False})}
    running: AdapterSettings = getattr(in_force, ADAPTER)
    members = {name: getattr(adapter, name) for name in ("enabled", "scale", "weight_type")}
    return {ADAPTER: running.model_copy(update=members), STYLE: getattr(in_force, STYLE)}


def _hot_style(running: StreamParams, wanted: StreamParams) -> dict[str, Any]:
    adapter: Any = getattr(running, ADAPTER, None)
    other: Any = getattr(wanted, ADAPTER, None)
    if other is None or adapter is None:
        return {}
    if style_of(running) is None:
        unused = style_of(wanted) is None and type(adapter) is type(other)
        return {ADAPTER: other, STYLE: getattr(wanted, STYLE)} if unused else {}
    members = {name: getattr(other, name) for name in ("enabled", "scale", "weight_type")}
    image = style_of(wanted) if adapter.type == other.type else None
    return {ADAPTER: adapter.model_copy(update=members), STYLE: image or getattr(running, STYLE)}


def _hot_attention(running: StreamParams, wanted: StreamParams) -> dict[str, Any]:
    here: CachedAttention | None = getattr(running, "cached_attention", None)
    other: CachedAttention | None = getattr(wanted, "cached_attention", None)
    if here is None or other is None or here.enabled != other.enabled:
        return {}
    if not here.enabled:
        return {"cached_attention": other}
    return {"cached_attention": here.model_copy(update={"interval": other.interval})}


__all__ = [
    "ADAPTER",
    "LCM",
    "Failed",
    "active_controlnets",
    "attainable",
    "controlnet_part",
    "lora_part",
    "place_of",
    "startable",
    "style_of",
    "with_hot",
]
