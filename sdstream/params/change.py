"""What a change of parameters means for a running stream: nothing, at once, a reload, or not now.

Clone and compare: the old parameters with only the hot fields of the new ones put onto them are compared with the new
ones. If they are equal, everything that changed is hot. A field that nobody declared is therefore cold, never wrongly
hot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from sdstream.params.adapters import AdapterSettings, CachedAttention
from sdstream.params.controlnets import ControlNet
from sdstream.params.variants import StreamParams, output_sides

HOT_FIELDS = frozenset(
    {
        "prompt",
        "prompt_interpolation_method",
        "normalize_prompt_weights",
        "negative_prompt",
        "guidance_scale",
        "delta",
        "num_inference_steps",
        "t_index_list",
        "seed",
        "seed_interpolation_method",
        "normalize_seed_weights",
        "use_safety_checker",
        "do_add_noise",
        "enable_similar_image_filter",
        "similar_image_filter_threshold",
        "similar_image_filter_max_skip_frame",
        "lcm_lora_id",
        "ip_adapter_style_image_url",
        "image_preprocessing",
        "image_postprocessing",
        "latent_preprocessing",
        "latent_postprocessing",
    }
)
"""Top-level parameters that are hot as a whole."""
HOT_MEMBERS: Mapping[str, frozenset[str]] = {
    "controlnets": frozenset({"conditioning_scale"}),
    "ip_adapter": frozenset({"enabled", "scale", "weight_type"}),
    "cached_attention": frozenset({"max_frames", "interval"}),
}
"""Members that are hot inside a parameter that is otherwise cold."""
SIZE_FIELDS = frozenset({"width", "height"})
"""Refused while the stream is live, as is anything else that changes the size of the output."""


class ChangeKind(StrEnum):
    """What a change does to a running stream."""

    UNCHANGED = "unchanged"
    HOT = "hot"
    RELOAD = "reload"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Change:
    """`fields` are the top-level parameters that differ, in the order of the wire; `reason` is for a person."""

    kind: ChangeKind
    fields: tuple[str, ...] = ()
    reason: str = ""


def classify(old: StreamParams, new: StreamParams, *, live: bool) -> Change:
    """What going from `old` to `new` means. `live` says that a publisher is connected, so viewers see the output.

    A change of the output's size is refused while live, and a reload otherwise.
    """
    fields = changed_fields(old, new)
    if not fields:
        return Change(ChangeKind.UNCHANGED)
    before, after = output_sides(old), output_sides(new)
    if (before, old.width, old.height) != (after, new.width, new.height):
        sizes = f"from {before[0]}x{before[1]} to {after[0]}x{after[1]}"
        if live:
            return Change(
                ChangeKind.REFUSED,
                fields,
                f"the size of the picture cannot change {sizes} while the stream is live; "
                "stop the publisher first, or create a new stream",
            )
        return Change(ChangeKind.RELOAD, fields, f"the size of the picture changes {sizes}")
    if type(old) is type(new) and _with_hot_fields(old, new) == new:
        return Change(ChangeKind.HOT, fields, f"{', '.join(fields)} can change while running")
    cold = [name for name in fields if name not in HOT_FIELDS and not _is_hot_inside(old, new, name)]
    return Change(ChangeKind.RELOAD, fields, f"{', '.join(cold)} cannot change without loading again")


def changed_fields(old: StreamParams, new: StreamParams) -> tuple[str, ...]:
    """The top-level parameters that differ or that only one of the two has."""
    before, after = dict(old), dict(new)
    return tuple(name for name in {**before, **after} if _differ(before.get(name, _ABSENT), after.get(name, _ABSENT)))


_ABSENT = object()


def _differ(old: Any, new: Any) -> bool:
    if isinstance(old, AdapterSettings) and isinstance(new, AdapterSettings):
        return dict(old) != dict(new)  # each family has a class of its own for what is the same on the wire
    return bool(old != new)


def _with_hot_fields(old: StreamParams, new: StreamParams) -> StreamParams:
    """`old` with everything hot taken from `new`."""
    taken: dict[str, Any] = {name: value for name, value in new if name in HOT_FIELDS}
    for name in HOT_MEMBERS:
        if name in type(old).model_fields:
            taken[name] = _with_hot_members(getattr(old, name), getattr(new, name), HOT_MEMBERS[name])
    return old.model_copy(update=taken)


def _with_hot_members(old: Any, new: Any, hot: frozenset[str]) -> Any:
    if isinstance(old, tuple):
        return _with_hot_entries(cast("tuple[ControlNet, ...]", old), cast("tuple[ControlNet, ...]", new), hot)
    settings: ControlNet | AdapterSettings | CachedAttention = old
    return settings.model_copy(update={member: getattr(new, member) for member in hot})


def _with_hot_entries(
    old: tuple[ControlNet, ...], new: tuple[ControlNet, ...], hot: frozenset[str]
) -> tuple[ControlNet, ...]:
    """`old` with the hot members of the same entries of `new`; those without effect come and go with `new`."""
    before = {entry.model_id: entry for entry in old}
    after = {entry.model_id for entry in new}
    stay = [entry.model_id for entry in old if entry.model_id in after or entry.has_effect]
    if stay != [entry.model_id for entry in new if entry.model_id in before or entry.has_effect]:
        return old
    return tuple(_with_hot_members(before.get(entry.model_id, entry), entry, hot) for entry in new)


def _is_hot_inside(old: StreamParams, new: StreamParams, name: str) -> bool:
    if name not in HOT_MEMBERS or type(old) is not type(new):
        return False
    after = getattr(new, name)
    return bool(_with_hot_members(getattr(old, name), after, HOT_MEMBERS[name]) == after)


__all__ = ["HOT_FIELDS", "HOT_MEMBERS", "SIZE_FIELDS", "Change", "ChangeKind", "changed_fields", "classify"]
