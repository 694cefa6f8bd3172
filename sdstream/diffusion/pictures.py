"""Planes as the picture that a VAE takes, and the picture that it gives as planes, with all that a frame does between:
in one step each where `are_steps_joined`, and their plain twins."""

from typing import Any, NamedTuple

import torch

from sdstream.diffusion.planes import packed_from_rgb, rgb_from_packed

_kernels: Any = None
try:
    from sdstream.diffusion.fused import pictures_kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made


class Delivered(NamedTuple):
    """`image` float32 [S, 3, H, W], about 0 to 1, the same as packed I420, `planes` uint8 [S, 3H/2, W], and whether all
    of it are finite numbers, `finite` bool [S]."""

    image: torch.Tensor
    planes: torch.Tensor
    finite: torch.Tensor


def picture_of_planes(planes: torch.Tensor, dtype: torch.dtype, scale: float, offset: float) -> torch.Tensor:
    """The colours, 0 to 1, of packed I420, uint8 [S, 3H/2, W], times `scale` plus `offset`: [S, 3, H, W] of `dtype`,
    channels last, in one step."""
    made: torch.Tensor = _kernels.picture_of_planes(planes, dtype, scale, offset)
    return made


def plain_picture_of_planes(planes: torch.Tensor, dtype: torch.dtype, scale: float, offset: float) -> torch.Tensor:
    """The plain twin."""
    return ranged(rgb_from_packed(planes), dtype, scale, offset)


def ranged(image: torch.Tensor, dtype: torch.dtype, scale: float, offset: float) -> torch.Tensor:
    """`image` times `scale` plus `offset`, of `dtype`."""
    # In place, here and below: at the size of pictures, memory that is asked for anew costs more than the sum.
    return image.mul(scale).add_(offset).to(dtype)


def planes_of_picture(picture: torch.Tensor, scale: float, offset: float) -> Delivered:
    """What a frame gives of the `picture` [S, 3, H, W] of a VAE: that times `scale` plus `offset`, in two steps.

    Its planes are within one level of the plain twin's, `delivered`: products and sums may be rounded together.
    """
    image, planes, finite = _kernels.planes_of_picture(picture, scale, offset)
    return Delivered(image, planes, finite.all(1))


def delivered(image: torch.Tensor) -> Delivered:
    """The plain twin, of a float picture of about 0 to 1."""
    finite = image.flatten(1).sum(1).isfinite()
    return Delivered(image, packed_from_rgb(image.clamp(0, 1)), finite)


__all__ = [
    "Delivered",
    "delivered",
    "picture_of_planes",
    "plain_picture_of_planes",
    "planes_of_picture",
    "ranged",
]
