"""Whether fused blocks work on a device: each kind is tried once against its plain twin before any network gets it."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from sdstream.diffusion.convolving.layers import (
    FusedConvolution,
    FusedDownsampler,
    FusedSmallDecoder,
    FusedUpsampler,
)
from sdstream.diffusion.fused.attention import (
    FusedCrossAttention,
    FusedGate,
    FusedSelfAttention,
    FusedTransformer,
    FusedTransformerBlock,
)
from sdstream.diffusion.fused.blocks import FusedGroupNorm, FusedResidualBlock, FusedSmallBlock, fuse
from sdstream.diffusion.fused.pointwise import normed, plain_normed, plain_summed_norm, summed_norm
from sdstream.diffusion.fused.switch import are_blocks_fused, plain_blocks
from sdstream.diffusion.fused.up import FusedCrossUpBlock, FusedUpBlock
from sdstream.diffusion.libraries import (
    activations,
    autoencoder_parts,
    residual_blocks,
    transformer_blocks,
    unet_blocks,
)
from sdstream.diffusion.trials.failures import FAILURES
from sdstream.diffusion.trials.session import without_trials
from sdstream.errors import first_line

TOLERANCE = 0.02
"""Of the largest value, in float16."""
CHANNELS, EMBEDDING = 320, 64


class _Trial(nn.Module):
    """A module, and how it is called with a picture."""

    def __init__(self, module: nn.Module, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self._call = call

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self._call(self.module, image)


def _with_time(block: nn.Module, image: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = block(image, image.flatten(1)[:, :EMBEDDING])
    return made


def _with_skipped(block: nn.Module, image: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = block(image, (image.flip(1),), image.flatten(1)[:, :EMBEDDING])
    return made


def _with_tokens(gate: nn.Module, image: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = gate(image.permute(0, 2, 3, 1).flatten(1, 2))
    return made


def _with_text(transformer: nn.Module, image: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = transformer(image, image.flatten(2)[:, :7, :EMBEDDING], return_dict=False)[0]
    return made


def _normed(norm: nn.Module, image: torch.Tensor) -> torch.Tensor:
    assert isinstance(norm, nn.LayerNorm)
    tokens = image.permute(0, 2, 3, 1).flatten(1, 2)
    alone, summed = (normed, summed_norm) if are_blocks_fused() else (plain_normed, plain_summed_norm)
    return torch.stack((alone(tokens, norm), *summed(tokens, tokens.flip(1), tokens[0, 0], norm, tokens[0, 1])))


@cache
def kinds_that_work(device: torch.device) -> frozenset[type]:
    """The kinds of fused blocks that do as their plain twins on `device`. Warns of those that do not, and says why."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, CHANNELS, 16, 16, generator=generator).to(device, dtype)
    small: nn.Module = unet_blocks.AutoencoderTinyBlock(CHANNELS, CHANNELS, "relu")
    residual: nn.Module = residual_blocks.ResnetBlock2D(
        in_channels=CHANNELS, out_channels=2 * CHANNELS, temb_channels=EMBEDDING
    )
    decoder: nn.Module = autoencoder_parts.DecoderTiny(CHANNELS, 3, (1, 1), (32, 32), 2, "relu", "nearest")
    up: nn.Module = unet_blocks.UpBlock2D(
        in_channels=CHANNELS, prev_output_channel=CHANNELS, out_channels=64, temb_channels=EMBEDDING, add_upsample=False
    )
    gate: nn.Module = activations.GEGLU(CHANNELS, CHANNELS)
    # Of torch's own operations only, and convolutions, each shape of which has a trial of its own.
    working: set[type] = {FusedCrossAttention, FusedSelfAttention}
    working |= {FusedConvolution, FusedDownsampler, FusedUpsampler}
    transformer: nn.Module = transformer_blocks.Transformer2DModel(
        num_attention_heads=5, attention_head_dim=64, in_channels=CHANNELS, cross_attention_dim=EMBEDDING
    )
    trials: tuple[tuple[nn.Module, set[type]], ...] = (
        (nn.GroupNorm(32, CHANNELS), {FusedGroupNorm}),
        (_Trial(residual, _with_time), {FusedResidualBlock}),
        (_Trial(up, _with_skipped), {FusedUpBlock, FusedCrossUpBlock}),
        (_Trial(gate, _with_tokens), {FusedGate}),
        (_Trial(nn.LayerNorm(CHANNELS), _normed), {FusedTransformerBlock}),
        (_Trial(transformer, _with_text), {FusedTransformer}),
        (small, {FusedSmallBlock}),
        (decoder, {FusedSmallDecoder}),
    )
    for module, kinds in trials:
        fuse(module)
        module.requires_grad_(False).eval().to(device, dtype)
        problem = why_not(module, image.contiguous(memory_format=torch.channels_last))
        if problem:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            warnings.warn(f"{names} stay plain on {device}: {problem}", RuntimeWarning, stacklevel=2)
        else:
            working |= kinds
    return frozenset(working)


def why_not(module: nn.Module, image: torch.Tensor) -> str:
    """Why a fused block does not do as its plain twin with this picture; empty when it does."""
    with plain_blocks():
        wanted: torch.Tensor = module(image)
    try:
        with without_trials():
            made: torch.Tensor = module(image)
        distance = float((made - wanted).abs().max() / wanted.abs().max())
    except FAILURES as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return "" if distance <= TOLERANCE else f"its answer is {distance:.2g} from the plain one"


__all__ = ["kinds_that_work", "why_not"]
