"""LoRAs fused into weights: base + sum of weight * up @ down, computed from the untouched base each time.

A fused model has storages of its own for what its LoRAs change and shares everything else with the base, so streams
with different LoRAs do not disturb each other and pay for what differs only. Other weights of the same LoRAs, or other
LoRAs that change no more than the first did, go into the same storages: captured graphs stay valid.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.eight_bit.copies import follow, memory_of
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.loading.models import Model, ModelOrigin
from sdstream.diffusion.lora import PARTS, Lora
from sdstream.diffusion.prompts import PromptEncoder, TextEncoder
from sdstream.engines.weights import digest_of_tensors
from sdstream.model_errors import LoraUnusable

WeightedLoras = Sequence[tuple[Lora, float]]


def networks_of(model: Model) -> dict[str, nn.Module]:
    """The networks that LoRAs can change, by the names that LoRAs have for them."""
    encoders = (encoder.model for encoder in model.prompts.encoders)
    return dict(zip(PARTS, (model.unet, *encoders), strict=False))


def fused(base: Model, loras: WeightedLoras) -> Model:
    """A model like `base` with `loras` in it; `base` is not changed.

    Raises `LoraUnusable` when a weight would not be finite in the model's precision.
    """
    touched = _touched(loras)
    model = replace(
        base,
        unet=_sharing_copy(base.unet, touched["unet"]),
        prompts=_sharing_prompts(base, touched),
        loras=_names(loras),
        lora_digests=_digests(loras),
        base=base,
        origin=_origin(base, loras),
    )
    _write(model, base, loras)
    return model


def can_refit(model: Model, loras: WeightedLoras) -> bool:
    """Whether `refit` can write `loras` into the storages that `model` has of its own."""
    if model.base is None:
        return False
    own, shared = networks_of(model), networks_of(model.base)
    for part, names in _touched(loras).items():
        if any(own[part].get_parameter(name) is shared[part].get_parameter(name) for name in names):
            return False
    return True


def check_loras(base: Model, loras: WeightedLoras) -> None:
    """Compute what `refit` would write, and write nothing. Raises `LoraUnusable` as `fused` does."""
    touched = _touched(loras)
    checks: dict[str, torch.Tensor] = {}
    for part, network in networks_of(base).items():
        for name in touched[part]:
            value = _sum(network.get_parameter(name), loras, part, name).to(base.dtype)
            checks[f"{part}.{name}"] = value.isfinite().all()
    _refuse_what_is_not_finite(checks, loras)


def refitted_prompts(model: Model, loras: WeightedLoras) -> PromptEncoder:
    """The prompts of `model` with `loras` in place of its own, in memory besides it: to encode with before `refit`.

    Text encoders that no LoRA changes are those of the base. Raises `LoraUnusable` as `fused` does.
    """
    assert model.base is not None, "a base model is not written to"
    prompts = _sharing_prompts(model.base, _touched(loras))
    _write(replace(model.base, prompts=prompts), model.base, loras)
    return prompts


def refit(model: Model, loras: WeightedLoras, prompts: PromptEncoder) -> Model:
    """The model with `loras` in place of those in `model`, in the same storages; `model` must not be used any more.

    To be called between two pictures, for a model that one stream alone uses, after `can_refit`, `check_loras` and
    `refitted_prompts`, which gave `prompts`.
    """
    assert model.base is not None, "a base model is not written to"
    changed = replace(
        model,
        prompts=prompts.moved_to(model.prompts.encoders),
        loras=_names(loras),
        lora_digests=_digests(loras),
        origin=_origin(model.base, loras),
    )
    _write(changed, model.base, loras)
    return changed


def _origin(base: Model, loras: WeightedLoras) -> ModelOrigin | None:
    """None when a file of it is not known: without one of them nobody could load the same."""
    files = [lora.file for lora, _ in loras if lora.file is not None]
    if base.origin is None or len(files) != len(loras):
        return None
    return replace(base.origin, loras=tuple(files))


def _names(loras: WeightedLoras) -> tuple[tuple[str, float], ...]:
    return tuple((lora.name, weight) for lora, weight in loras)


def _digests(loras: WeightedLoras) -> tuple[str, ...]:
    return tuple(
        digest_of_tensors(
            {
                f"{name}.{half}": tensor
                for name, change in lora.changes.get("unet", {}).items()
                for half, tensor in (("down", change.down), ("up", change.up))
            }
        )
        for lora, _ in loras
    )


def _touched(loras: WeightedLoras) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {part: set() for part in PARTS}
    for lora, _ in loras:
        for part, changes in lora.changes.items():
            names[part] |= set(changes)
    return names


def _sharing_prompts(base: Model, touched: Mapping[str, set[str]]) -> PromptEncoder:
    encoders = [
        TextEncoder(encoder.tokenizer, _sharing_copy(encoder.model, touched[part]))
        for part, encoder in zip(PARTS[1:], base.prompts.encoders, strict=False)
    ]
    return PromptEncoder(encoders, empty_is_zero=base.prompts.empty_is_zero)


def _sharing_copy(network: nn.Module, own: set[str]) -> nn.Module:
    """The network again, with tensors of its own under the names `own` and the same tensors otherwise."""
    if not own:
        return network
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    made = copy.deepcopy(network, memo)
    for name in own:
        module, _, last = name.rpartition(".")
        parameter = nn.Parameter(network.get_parameter(name).detach().clone(), requires_grad=False)
        setattr(made.get_submodule(module), last, parameter)
    join(made)
    follow(made)
    return made


@torch.no_grad()
def _write(model: Model, base: Model, loras: WeightedLoras) -> None:
    """Write base + changes into all storages that `model` has of its own."""
    pristine = networks_of(base)
    checks: dict[str, torch.Tensor] = {}
    for part, network in networks_of(model).items():
        originals = dict(pristine[part].named_parameters())
        written: list[torch.Tensor] = []
        for name, parameter in network.named_parameters():
            original = originals[name]
            if parameter is original:
                continue
            parameter.copy_(_sum(original, loras, part, name))
            checks[f"{part}.{name}"] = parameter.isfinite().all()
            written.append(parameter)
        follow(network, memory_of(written))
    _refuse_what_is_not_finite(checks, loras)


@torch.no_grad()
def _sum(original: torch.Tensor, loras: WeightedLoras, part: str, name: str) -> torch.Tensor:
    """The weight with what all LoRAs add to it, float32."""
    sums = original.to(torch.float32, copy=True)
    for lora, weight in loras:
        change = lora.changes.get(part, {}).get(name)
        if change is not None:
            sums += change.change(sums) * weight
    return sums


def _refuse_what_is_not_finite(checks: Mapping[str, torch.Tensor], loras: WeightedLoras) -> None:
    if not checks:
        return
    looked: Any = torch.stack(list(checks.values()))
    finite: list[bool] = looked.tolist()
    bad = [name for name, good in zip(checks, finite, strict=True) if not good]
    if bad:
        named = ", ".join(f"{lora.name} at {weight:g}" for lora, weight in loras)
        raise LoraUnusable(f"the LoRAs {named} make {bad[0]} overflow; smaller weights may not")


__all__ = ["WeightedLoras", "can_refit", "check_loras", "fused", "networks_of", "refit", "refitted_prompts"]
