"""What a frame does with latents before and after its UNet, in one step each, in Triton. Arithmetic is float32.

A block has some pixels of one slot of one stream. It writes nothing that another block reads, so memory that comes in
stays as it was.
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

PIXELS = 128
"""Of a block. Latents are small: larger blocks would leave most of a GPU idle."""
FROM_MEMORY, FROM_OPENING, FROM_NETWORK = 1, 2, 3
"""Where the unconditional prediction comes from; 0 is nowhere."""


@triton.jit
def _block(pixels, channels: tl.constexpr, padded: tl.constexpr, at_once: tl.constexpr):
    """The channels and pixels of a block, and which of them there are."""
    channel = tl.arange(0, padded)[:, None]
    pixel = tl.program_id(1) * at_once + tl.arange(0, at_once)[None, :]
    return channel, pixel, (channel < channels) & (pixel < pixels)


@triton.jit
def _calmed(value, share, finished, pictures, stream, at, kept):
    """With a share of what was finished last, where there is such; exactly itself where the share is 0."""
    before = tl.load(finished + at, mask=kept, other=0.0)
    mixed = value + share * (before - value)
    return tl.where((tl.load(pictures + stream) > 0) & (share > 0.0), mixed, value)


@triton.jit
def opened_values(
    latent,
    finished,
    pictures,
    calm,
    alpha,
    beta,
    noise,
    buffer,
    noisy,
    rows,
    factor,
    pixels,
    slots,
    against,
    sample_stride,
    channel_stride,
    pixel_stride,
    channels: tl.constexpr,
    padded: tl.constexpr,
    at_once: tl.constexpr,
):
    stream = tl.program_id(0) // slots
    slot = tl.program_id(0) % slots
    channel, pixel, kept = _block(pixels, channels, padded, at_once)
    plane = channels * pixels
    at = channel * pixels + pixel
    if slot == 0:
        place = stream * sample_stride + channel * channel_stride + pixel * pixel_stride
        value = tl.load(latent + place, mask=kept, other=0.0).to(tl.float32) * factor
        value = _calmed(value, tl.load(calm + 2 * stream), finished, pictures, stream, stream * plane + at, kept)
        drawn = tl.load(noise + stream * slots * plane + at, mask=kept, other=0.0)
        value = tl.load(alpha + stream * slots) * value + tl.load(beta + stream * slots) * drawn
    else:
        value = tl.load(buffer + (stream * (slots - 1) + slot - 1) * plane + at, mask=kept, other=0.0)
    tl.store(noisy + (stream * slots + slot) * plane + at, value, mask=kept)
    first = stream * (against + slots)
    last = pixel * channels + channel
    rounded = value.to(rows.dtype.element_ty)
    tl.store(rows + (first + against + slot) * plane + last, rounded, mask=kept)
    if slot < against:
        tl.store(rows + (first + slot) * plane + last, rounded, mask=kept)


@triton.jit
def _load_row(predicted, row, place, kept, sample_stride, noisy, alpha, beta, velocity: tl.constexpr):
    """The noise that the network saw in a row."""
    value = tl.load(predicted + row * sample_stride + place, mask=kept, other=0.0).to(tl.float32)
    if velocity:
        value = alpha * value + beta * noisy
    return value


@triton.jit
def _picture(predicted, noisy, alpha, beta, skip, out):
    return out * ((noisy - beta * predicted) / alpha) + skip * noisy


@triton.jit
def closed_values(
    predicted,
    noisy,
    memory,
    noise,
    alpha,
    beta,
    next_alpha,
    next_beta,
    skip,
    out,
    guidance,
    delta,
    renoise,
    calm,
    finished,
    pictures,
    new_buffer,
    new_residual,
    new_finished,
    new_pictures,
    latent,
    divisor,
    pixels,
    slots,
    against,
    sample_stride,
    channel_stride,
    pixel_stride,
    channels: tl.constexpr,
    padded: tl.constexpr,
    at_once: tl.constexpr,
    source: tl.constexpr,
    velocity: tl.constexpr,
    moves: tl.constexpr,
    bounded: tl.constexpr,
):
    stream = tl.program_id(0) // slots
    slot = tl.program_id(0) % slots
    channel, pixel, kept = _block(pixels, channels, padded, at_once)
    plane = channels * pixels
    at = channel * pixels + pixel
    here = stream * slots + slot
    x = tl.load(noisy + here * plane + at, mask=kept, other=0.0)
    a = tl.load(alpha + here)
    b = tl.load(beta + here)
    s = tl.load(skip + here)
    o = tl.load(out + here)
    place = channel * channel_stride + pixel * pixel_stride
    first = stream * (against + slots)
    seen = _load_row(predicted, first + against + slot, place, kept, sample_stride, x, a, b, velocity)
    if moves:
        # What was remembered goes along with its picture, and the first slot begins with its noise.
        before = tl.load(memory + (here - 1) * plane + at, mask=kept & (slot > 0), other=0.0)
        drawn = tl.load(noise + stream * slots * plane + at, mask=kept, other=0.0)
        residual = tl.where(slot > 0, before, drawn)
    else:
        residual = tl.load(memory + here * plane + at, mask=kept, other=0.0)
    if source == 2:
        begun = _load_row(predicted, first, place, kept & (slot == 0), sample_stride, x, a, b, velocity)
        residual = tl.where(slot == 0, begun, residual)
    if source > 0:
        if source == 3:
            unconditional = _load_row(predicted, first + slot, place, kept, sample_stride, x, a, b, velocity)
        else:
            unconditional = residual * tl.load(delta + stream)
        scale = tl.load(guidance + stream)
        # Chosen, not computed: with guidance off the residual may be anything, and infinity times nothing is not 0.
        seen = tl.where(scale > 1.0, unconditional + scale * (seen - unconditional), seen)
    picture = _picture(seen, x, a, b, s, o)
    if source == 1 or source == 2:
        change = _picture(seen, b * residual, a, b, s, o)
        change = change * tl.load(next_alpha + here) / tl.load(next_beta + here)
        following = stream * slots + (slot + 1) % slots
        residual = tl.load(noise + following * plane + at, mask=kept, other=0.0) + change
    tl.store(new_residual + here * plane + at, residual, mask=kept)
    if slot < slots - 1:
        drawn = tl.load(noise + (here + 1) * plane + at, mask=kept, other=0.0)
        drawn = tl.load(renoise + stream) * tl.load(beta + here + 1) * drawn
        moved = tl.load(alpha + here + 1) * picture + drawn
        tl.store(new_buffer + (stream * (slots - 1) + slot) * plane + at, moved, mask=kept)
    else:
        share = tl.load(calm + 2 * stream + 1)
        picture = _calmed(picture, share, finished, pictures, stream, stream * plane + at, kept)
        tl.store(new_finished + stream * plane + at, picture, mask=kept)
        picture = picture / divisor
        if bounded:
            picture = 3.0 * (2.0 * tl.sigmoid(picture * 0.6666666666666666) - 1.0)  # 3 tanh(picture / 3)
        last = stream * plane + pixel * channels + channel
        tl.store(latent + last, picture.to(latent.dtype.element_ty), mask=kept)
        if tl.program_id(1) == 0:
            tl.store(new_pictures + stream, tl.load(pictures + stream) + 1)


@triton_op("sdstream::opened", mutates_args=())
def opened(
    latent: torch.Tensor,
    finished: torch.Tensor,
    pictures: torch.Tensor,
    calm: torch.Tensor,
    alpha: torch.Tensor,
    beta: torch.Tensor,
    noise: torch.Tensor,
    buffer: torch.Tensor,
    factor: float,
    against: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sdstream.diffusion.latents.opened`."""
    given = (finished, pictures, calm, alpha, beta, noise, buffer)
    return launch_opened(latent, given, factor, against, dtype, wrap_triton)


@triton_op("sdstream::closed", mutates_args=())
def closed(
    predicted: torch.Tensor,
    noisy: torch.Tensor,
    residual: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    beta: torch.Tensor,
    next_alpha: torch.Tensor,
    next_beta: torch.Tensor,
    skip: torch.Tensor,
    out: torch.Tensor,
    guidance: torch.Tensor,
    delta: torch.Tensor,
    renoise: torch.Tensor,
    calm: torch.Tensor,
    finished: torch.Tensor,
    pictures: torch.Tensor,
    source: int,
    velocity: bool,
    moves: bool,
    bounded: bool,
    divisor: float,
    against: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `sdstream.diffusion.latents.closed`."""
    tables = (noise, alpha, beta, next_alpha, next_beta, skip, out, guidance, delta, renoise, calm)
    given = (noisy, residual, *tables, finished, pictures)
    kind = (source, velocity, moves, bounded)
    return launch_closed(predicted, given, kind, divisor, against, dtype, wrap_triton)


def launch_opened(
    latent: torch.Tensor,
    given: Sequence[torch.Tensor],
    factor: float,
    against: int,
    dtype: torch.dtype,
    wrap: Callable[[Any], Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `opened`, of its tensors in their order; `wrap` makes a kernel ready to be launched."""
    latent = _even(latent)
    finished, pictures, calm, alpha, beta, noise, buffer = (tensor.contiguous() for tensor in given)
    streams, slots, channels, height, width = noise.shape
    noisy = torch.empty_like(noise)
    shape = (streams * (against + slots), channels, height, width)
    rows = torch.empty(shape, dtype=dtype, device=noise.device, memory_format=torch.channels_last)
    wrap(opened_values)[_grid(noise)](
        latent,
        finished,
        pictures,
        calm,
        alpha,
        beta,
        noise,
        buffer,
        noisy,
        rows,
        factor,
        height * width,
        slots,
        against,
        *_strides(latent),
        *_sizes(channels),
    )
    return noisy, rows


def launch_closed(
    predicted: torch.Tensor,
    given: Sequence[torch.Tensor],
    kind: tuple[int, bool, bool, bool],
    divisor: float,
    against: int,
    dtype: torch.dtype,
    wrap: Callable[[Any], Any],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `closed`, of its tensors in their order; `kind` are its `source`, `velocity`, `moves` and `bounded`."""
    predicted = _even(predicted)
    given = [tensor.contiguous() for tensor in given]
    noise, finished, pictures = given[2], given[-2], given[-1]
    streams, slots, channels, height, width = noise.shape
    new = (
        noise.new_empty((streams, slots - 1, channels, height, width)),
        torch.empty_like(noise),
        torch.empty_like(finished),
        torch.empty_like(pictures),
        torch.empty_like(finished, dtype=dtype, memory_format=torch.channels_last),
    )
    wrap(closed_values)[_grid(noise)](
        predicted,
        *given,
        *new,
        divisor,
        height * width,
        slots,
        against,
        *_strides(predicted),
        *_sizes(channels),
        *kind,
    )
    return new


def _even(x: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] whose pixels are equally far apart, as they are in both usual layouts."""
    return x if x.stride(2) == x.shape[3] * x.stride(3) else x.contiguous()


def _strides(x: torch.Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(1), x.stride(3)


def _sizes(channels: int) -> tuple[int, int, int]:
    return channels, 1 << (channels - 1).bit_length(), PIXELS


def _grid(noise: torch.Tensor) -> tuple[int, int]:
    streams, slots, _, height, width = noise.shape
    return streams * slots, -(-height * width // PIXELS)


__all__ = [
    "FROM_MEMORY",
    "FROM_NETWORK",
    "FROM_OPENING",
    "closed",
    "launch_closed",
    "launch_opened",
    "opened",
]
