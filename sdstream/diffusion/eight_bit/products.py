"""Matrix products in eight bits (float8 e4m3): how numbers become such, the product, and a linear layer that uses it.

Weights are `sdstream.diffusion.eight_bit.copies`. Activations have one scale for each row (token), made anew in every
frame. A row's scale is its own, so that what a picture becomes does not depend on the pictures beside it.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from sdstream.diffusion.eight_bit.copies import EightBitCopy, copy_of, plain_quantised
from sdstream.diffusion.fused.pointwise import are_joined, gated, normed, plain_gated, plain_summed_norm, summed_norm
from sdstream.diffusion.fused.switch import are_blocks_fused

_kernels: Any = None
try:
    from sdstream.diffusion.eight_bit import kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made

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


class EightBitWeight(EightBitCopy):
    """The 8-bit copy of a weight of products."""

    def __init__(self, source: torch.Tensor, terms: Terms) -> None:
        """As `EightBitCopy`."""
        super().__init__(source)
        self.terms = terms
        self.one = torch.ones((), dtype=torch.float32, device=source.device)

    def of(self, source: torch.Tensor) -> "EightBitWeight":
        return EightBitWeight(source, self.terms)

    def takes(self, x: "torch.Tensor | EightBitRows") -> bool:
        """Whether activations [B, tokens, width] are to be multiplied in eight bits."""
        return are_blocks_fused() and x.shape[-2] >= self.terms.least_tokens


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
    found = copy_of(module)
    return found if isinstance(found, EightBitWeight) else None


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


__all__ = [
    "ALIGNMENT",
    "EightBitLinear",
    "EightBitRows",
    "EightBitWeight",
    "Terms",
    "Way",
    "apart",
    "gated_for",
    "normed_for",
    "plain_product",
    "plain_scaled",
    "product",
    "quantised",
    "scaled",
    "summed_norm_for",
    "weight_of",
]
