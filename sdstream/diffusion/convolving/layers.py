"""diffusers' layers around convolutions, with as few steps as there can be; see `sdstream.diffusion.fused.blocks`."""

# What diffusers' classes give has no types, and torch 2.11's compiler knows super() only where it is called at once.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.convolving.operation import are_convolved, can_convolve, convolve
from sdstream.diffusion.convolving.shapes import NOTHING, RELU
from sdstream.diffusion.fused.switch import are_blocks_fused
from sdstream.diffusion.libraries import autoencoder_parts, downsampling, upsampling

_Downsampler: Any = downsampling.Downsample2D
_SmallDecoder: Any = autoencoder_parts.DecoderTiny
_Upsampler: Any = upsampling.Upsample2D


class FusedConvolution(nn.Conv2d):
    """A convolution that is computed the way that is the fastest for its shape."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not are_blocks_fused() or not are_convolved(input) or input.dim() != 4:
            return super().forward(input)
        return convolve(self, input)


class FusedUpsampler(_Upsampler):
    """Doubles a picture while its convolution reads it."""

    def forward(self, hidden_states: torch.Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not are_blocks_fused() or not are_convolved(hidden_states) or output_size is not None:
            return super().forward(hidden_states, output_size, *args, **kwargs)
        return convolve(self.conv, hidden_states, doubled=True)


class FusedDownsampler(_Downsampler):
    """Reads the row and the column of zeros that some have at the end where they would be."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not are_blocks_fused() or not are_convolved(hidden_states):
            return super().forward(hidden_states, *args, **kwargs)
        return convolve(self.conv, hidden_states, beyond=self.padding == 0)


class FusedSmallDecoder(_SmallDecoder):
    """The small VAE's way back: doubled pictures and ReLUs go along with the convolutions beside them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not are_blocks_fused() or not are_convolved(x):
            return super().forward(x)
        return self.between(torch.tanh(x / 3) * 3).mul(2).sub(1)

    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        """What its layers answer, without what is done with values before and after them."""
        if not are_blocks_fused() or not are_convolved(hidden):
            plain: torch.Tensor = self.layers(hidden)
            return plain
        doubled = False
        layers = list(self.layers)
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Upsample):
                doubled = True
            elif isinstance(layer, nn.Conv2d):
                relu = index + 1 < len(layers) and isinstance(layers[index + 1], nn.ReLU)
                hidden = convolve(layer, hidden, doubled=doubled, activation=RELU if relu else NOTHING)
                doubled = False
            elif not isinstance(layer, nn.ReLU):
                hidden = layer(hidden)
        return hidden


def _is_doubling(upsampler: Any) -> bool:
    """Whether it is a picture of twice the size and a convolution, and nothing more."""
    return (
        upsampler.norm is None
        and not upsampler.use_conv_transpose
        and upsampler.interpolate
        and upsampler.use_conv
        and upsampler.name == "conv"
        and can_convolve(upsampler.conv)
    )


def _is_halving(downsampler: Any) -> bool:
    return downsampler.norm is None and downsampler.use_conv and can_convolve(downsampler.conv)


def _is_known_decoder(decoder: Any) -> bool:
    """Whether a ReLU stands behind a convolution only, and a convolution behind each doubling."""
    before: nn.Module = nn.Identity()
    for layer in decoder.layers:
        if isinstance(layer, nn.Conv2d) and not can_convolve(layer):
            return False
        if isinstance(layer, nn.Upsample) and (layer.scale_factor not in (2, (2.0, 2.0)) or layer.mode != "nearest"):
            return False
        if isinstance(before, nn.Upsample) and not isinstance(layer, nn.Conv2d):
            return False
        known = isinstance(layer, nn.Conv2d | nn.Upsample) or hasattr(layer, "fuse")
        if not known and not (isinstance(layer, nn.ReLU) and isinstance(before, nn.Conv2d)):
            return False
        before = layer
    return not isinstance(before, nn.Upsample)


CONVOLUTION_KINDS: Mapping[type, tuple[tuple[type, Callable[[Any], bool]], ...]] = {
    nn.Conv2d: ((FusedConvolution, can_convolve),),
    _Downsampler: ((FusedDownsampler, _is_halving),),
    _SmallDecoder: ((FusedSmallDecoder, _is_known_decoder),),
    _Upsampler: ((FusedUpsampler, _is_doubling),),
}
"""What a layer of diffusers' can become, and which ones can."""

__all__ = [
    "CONVOLUTION_KINDS",
    "FusedConvolution",
    "FusedDownsampler",
    "FusedSmallDecoder",
    "FusedUpsampler",
]
