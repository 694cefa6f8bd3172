"""Matrix products in eight bits (float8 e4m3): how numbers become such, the product, and a linear layer that uses it.

Weights have one scale for each output channel and are made so once for each change; activations have one for each row
(token), made anew in every frame. A row's scale is its own, so that what a picture becomes does not depend on the
pictures beside it. The half-precision weights stay what they are: LoRAs are added to them, exports read them, and the
8-bit copies follow (`follow`) in the same storages, so that captured graphs stay valid.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from sdstream.diffusion.fused.joining import OneProduct
from sdstream.diffusion.fused.pointwise import are_joined, gated, normed, plain_gated, plain_summed_norm, summed_norm
from sdstream.diffusion.fused.switch import are_blocks_fused

_kernels: Any = None
try:
    from sdstream.diffusion.eight_bit import kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made

LARGEST = 448.0
"""Of e4m3. Larger numbers would become NaN."""
ALIGNMENT = 16
"""Both sides of a weight must be multiples of it: torch multiplies nothing else in eight bits."""

Way = Literal["rows", "units", "plain"]
"""`rows`: torch's product takes a scale for each row and channel; `units`: one without scales, which are multiplied in
a step of this project's own, for GPUs where the first is not built; `plain`: the twin of both, on any device."""


class EightBitRows(NamedTuple):
    """Activations: `values` e4m3 [B, tokens, width], `scales` float32 [B * tokens, 1]."""

    values: torch.Tensor
    scales: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def is_cuda(self) -> bool:
        return self.values.is_cuda


@dataclass(frozen=True, slots=True)
class Terms:
    """How a layer multiplies in eight bits, and from how many tokens a picture on.

    Tokens of one picture count and not the rows of a call, so that company in a batch never changes a picture.
    """

    way: Way
    least_tokens: int = 1


class EightBitWeight:
    """The 8-bit copy of a weight. No buffer: it is neither saved nor exported, and shared by copies that share the
    weight."""

    def __init__(self, source: torch.Tensor, terms: Terms) -> None:
        """`source` [out, in], contiguous, stays where it is and is read again by `write`."""
        out, width = source.shape
        self.source = source
        self.terms = terms
        self.values = torch.empty((out, width), dtype=torch.float8_e4m3fn, device=source.device)
        self.scales = torch.empty((1, out), dtype=torch.float32, device=source.device)
        self.zeros = torch.zeros(out, dtype=source.dtype, device=source.device)
        """Where a layer has no bias. Torch 2.11's product by rows takes its answer for bfloat16 where it is given none
        on GPUs other than Hopper, whatever was asked for."""
        self.one = torch.ones((), dtype=torch.float32, device=source.device)
        self.write()

    def __deepcopy__(self, memo: Any) -> "EightBitWeight":
        return self

    @torch.no_grad()
    def write(self) -> None:
        """Make the copy anew of what the weight is now, in the same storages."""
        values, scales = plain_quantised(self.source.detach())
        self.values.copy_(values)
        self.scales.copy_(scales.T)

    def error(self) -> torch.Tensor:
        """How far the copy is from the weight, relative, in the middle one of its input channels: float32, without
        dimensions. Over all of them together a few large numbers would hide what the others lose."""
        exact = self.source.detach().float()
        lost = (self.values.float() * self.scales.T - exact).square().sum(0)
        return (lost / exact.square().sum(0).clamp(min=torch.finfo(torch.float32).tiny)).median().sqrt()

    def takes(self, x: "torch.Tensor | EightBitRows") -> bool:
        """Whether activations [B, tokens, width] are to be multiplied in eight bits."""
        return are_blocks_fused() and x.shape[-2] >= self.terms.least_tokens

    @property
    def bytes(self) -> int:
        """Memory of it, beside the weight."""
        return sum(part.numel() * part.element_size() for part in (self.values, self.scales, self.zeros))


class EightBitLinear(nn.Linear):
    """A linear layer that multiplies in eight bits once it has `eight_bit`. It becomes one by its class alone."""

    eight_bit: EightBitWeight | None = None

    def forward(self, input: torch.Tensor | EightBitRows) -> torch.Tensor:
        weight = self.eight_bit
        if weight is not None and (isinstance(input, EightBitRows) or weight.takes(input)):
            return product(input, weight, self.bias)
        assert isinstance(input, torch.Tensor)
        return functional.linear(input, self.weight, self.bias)


def weight_of(module: Any) -> EightBitWeight | None:
    """The 8-bit copy of a layer's weight, or of the joined ones of a self attention; None where there is none."""
    found: EightBitWeight | None = getattr(module, "eight_bit", None)
    return found


def product(x: torch.Tensor | EightBitRows, weight: EightBitWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x` [B, tokens, in] times the weight, and `bias` [out]: [B, tokens, out] of the weight's dtype."""
    rows = x if isinstance(x, EightBitRows) else quantised(x)
    flat, like = rows.values.flatten(0, -2), weight.source.dtype
    library: Any = torch
    if weight.terms.way == "plain":
        made = plain_product(flat, rows.scales, weight, bias)
    elif weight.terms.way == "rows":
        scales = {"scale_a": rows.scales, "scale_b": weight.scales}
        bias = weight.zeros if bias is None else bias
        made = library._scaled_mm(flat, weight.values.t(), **scales, bias=bias, out_dtype=like, use_fast_accum=True)
    else:
        whole = library._scaled_mm(
            flat, weight.values.t(), weight.one, weight.one, out_dtype=torch.float32, use_fast_accum=True
        )
        made = scaled(whole, rows.scales, weight.scales, weight.zeros if bias is None else bias)
    return made.view(*rows.shape[:-1], -1)


def plain_product(
    values: torch.Tensor, scales: torch.Tensor, weight: EightBitWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """The plain twin: of e4m3 [rows, in] and float32 [rows, 1].

    In float64, where sums of such products are exact in any order: a row's answer is the same in any company.
    """
    whole = (values.double() @ weight.values.double().T).float()
    return plain_scaled(whole, scales, weight.scales, weight.zeros if bias is None else bias)


def quantised(x: torch.Tensor) -> EightBitRows:
    """Activations [B, tokens, width] in eight bits."""
    if are_joined(x):
        return EightBitRows(*_kernels.quantised(x))
    values, scales = plain_quantised(x)
    return EightBitRows(values, scales.flatten(0, -2))


def plain_quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain twin: e4m3 of the shape of `x`, and float32 [..., 1]. A row of zeros has the scale of 1."""
    exact = x.float()
    top = exact.abs().amax(-1, keepdim=True)
    top = torch.where(top == 0, LARGEST, top)
    values = (exact * (LARGEST / top)).clamp(-LARGEST, LARGEST)
    return values.to(torch.float8_e4m3fn), top / LARGEST


def scaled(whole: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`whole` float32 [rows, out] times scales float32 [rows, 1] and [1, out], and `bias` [out], of whose dtype the
    answer is."""
    if are_joined(whole):
        made: torch.Tensor = _kernels.scaled(whole, rows, columns, bias)
        return made
    return plain_scaled(whole, rows, columns, bias)


def plain_scaled(whole: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The plain twin."""
    return (whole * rows * columns + bias.float()).to(bias.dtype)


def apart(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Root of the mean square of the difference, relative to `wanted`: float32, without dimensions."""
    exact = wanted.float()
    return ((made.float() - exact).square().mean() / exact.square().mean()).sqrt()


def gated_for(weight: EightBitWeight | None, x: torch.Tensor) -> torch.Tensor | EightBitRows:
    """What `gated` answers, as a layer with `weight` takes it."""
    if weight is None or not weight.takes(x):
        return gated(x)
    if are_joined(x):
        return EightBitRows(*_kernels.gated_quantised(x))
    return quantised(plain_gated(x))


def normed_for(weight: EightBitWeight | None, norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor | EightBitRows:
    """The norm of [B, tokens, width], as a layer with `weight` takes it."""
    if weight is None or not weight.takes(x):
        return normed(x, norm)
    if are_joined(x):
        return EightBitRows(*_kernels.normed_quantised(x, norm.weight, norm.bias, norm.eps))
    return quantised(norm(x))


def summed_norm_for(
    weight: EightBitWeight | None,
    one: torch.Tensor,
    other: torch.Tensor,
    bias: torch.Tensor,
    norm: nn.LayerNorm,
    after: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | EightBitRows]:
    """What `summed_norm` answers, its second as a layer with `weight` takes it."""
    if weight is None or not weight.takes(one):
        return summed_norm(one, other, bias, norm, after)
    if are_joined(one):
        told = (one, other, bias, norm.weight, norm.bias, norm.eps, after)
        sums, values, scales = _kernels.summed_norm_quantised(*told)
        return sums, EightBitRows(values, scales)
    sums, made = plain_summed_norm(one, other, bias, norm, after)
    return sums, quantised(made)


def follow(network: nn.Module, written: Container[int] | None = None) -> None:
    """Have the 8-bit copies in `network` be those of its weights: new ones where a layer has another weight now, and
    made anew in their storages where the weight's memory is among `written` (`memory_of`)."""
    for module in network.modules():
        weight = weight_of(module)
        if weight is None:
            continue
        source = source_of(module)
        if source.data_ptr() != weight.source.data_ptr():
            owner: Any = module
            owner.eight_bit = EightBitWeight(source, weight.terms)
        elif written is not None and source.untyped_storage().data_ptr() in written:
            weight.write()


def source_of(module: Any) -> torch.Tensor:
    """The weight [out, in] of a linear layer, of a convolution of single pixels, or the joined one of an attention."""
    if isinstance(module, OneProduct):
        assert module.joined is not None
        return module.joined.weight
    weight: torch.Tensor = module.weight.detach().flatten(1)
    return weight


def memory_of(tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    """Where these lie, for `follow`."""
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)


def eight_bit_layers(network: nn.Module) -> int:
    """How many layers of `network` multiply in eight bits."""
    return sum(weight_of(module) is not None for module in network.modules())


def eight_bit_bytes(network: nn.Module) -> int:
    """Memory of their 8-bit copies, beside the weights themselves."""
    found = [weight_of(module) for module in network.modules()]
    return sum(weight.bytes for weight in found if weight is not None)


def note_of(network: nn.Module) -> str:
    """Why `network` does not multiply in eight bits though that was asked for; empty where it does, or was not."""
    note: str = getattr(network, "eight_bit_note", "")
    return note


__all__ = [
    "ALIGNMENT",
    "LARGEST",
    "EightBitLinear",
    "EightBitRows",
    "EightBitWeight",
    "Terms",
    "Way",
    "apart",
    "eight_bit_bytes",
    "eight_bit_layers",
    "follow",
    "gated_for",
    "memory_of",
    "normed_for",
    "note_of",
    "plain_product",
    "plain_quantised",
    "plain_scaled",
    "product",
    "quantised",
    "scaled",
    "source_of",
    "summed_norm_for",
    "weight_of",
]
