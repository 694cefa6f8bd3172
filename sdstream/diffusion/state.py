"""What the frame is given for each stream besides its picture: its knobs and its memory, as blocks of tensors.

Every tensor of a block has the streams as its first axis, so the blocks of several streams are stacked along it. A knob
that is turned is copied into the tensor that holds it: storages stay, so whatever was captured over them stays true.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch

from sdstream.diffusion.schedule import StepTables


class Knobs(NamedTuple):
    """All that a person can turn, for S streams of N slots. Latent arithmetic is float32, whatever the networks are.

    `timesteps` int64 [S, N]; the six tables float32 [S, N, 1, 1, 1]; `guidance`, `delta` and `renoise` float32
    [S, 1, 1, 1, 1], `renoise` 1 or 0; `noise` float32 [S, N, C, h, w]; `prompt` and `negative` [S, tokens, width];
    `pooled_prompt` and `pooled_negative` [S, width]; `time_ids` [S, 6]. The last three have no columns but for SDXL.
    No name begins with another: the guards that `torch.export` writes would mix them up.
    """

    timesteps: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor
    next_alpha: torch.Tensor
    next_beta: torch.Tensor
    skip: torch.Tensor
    out: torch.Tensor
    guidance: torch.Tensor
    delta: torch.Tensor
    renoise: torch.Tensor
    noise: torch.Tensor
    prompt: torch.Tensor
    negative: torch.Tensor
    pooled_prompt: torch.Tensor
    pooled_negative: torch.Tensor
    time_ids: torch.Tensor


class Memory(NamedTuple):
    """What the frame remembers of earlier pictures.

    `buffer` float32 [S, N - 1, C, h, w] are the half denoised latents of the pictures before, newest first; `residual`
    float32 [S, N, C, h, w] is the noise that stands for the unconditional prediction.
    """

    buffer: torch.Tensor
    residual: torch.Tensor


class Conditioning(NamedTuple):
    """A prompt as the network takes it: `tokens` [tokens, width], `pooled` [width] (no columns but for SDXL)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


Block = TypeVar("Block", Knobs, Memory)


def make_knobs(
    tables: StepTables,
    noise: torch.Tensor,
    prompt: Conditioning,
    negative: Conditioning,
    *,
    guidance: float = 1.0,
    delta: float = 1.0,
    renoise: bool = True,
    time_ids: torch.Tensor | None = None,
) -> Knobs:
    """The knobs of one stream, S = 1, on the device of `noise`, float32 [N, C, h, w].

    `guidance` up to 1 is off. `time_ids` [6] are SDXL's sizes.
    """
    device = noise.device

    def table(values: torch.Tensor) -> torch.Tensor:
        return values.to(device, torch.float32).view(1, -1, 1, 1, 1)

    def number(value: float) -> torch.Tensor:
        return torch.full((1, 1, 1, 1, 1), float(value), device=device)

    sizes = torch.zeros(0) if time_ids is None else time_ids
    return Knobs(
        timesteps=tables.timesteps.to(device)[None],
        alpha=table(tables.alpha),
        beta=table(tables.beta),
        next_alpha=table(tables.next_alpha),
        next_beta=table(tables.next_beta),
        skip=table(tables.skip),
        out=table(tables.out),
        guidance=number(guidance),
        delta=number(delta),
        renoise=number(renoise),
        noise=noise.float()[None],
        prompt=prompt.tokens.to(device)[None],
        negative=negative.tokens.to(device)[None],
        pooled_prompt=prompt.pooled.to(device)[None],
        pooled_negative=negative.pooled.to(device)[None],
        time_ids=sizes.to(device, prompt.tokens.dtype)[None],
    )


def make_memory(knobs: Knobs) -> Memory:
    """The memory of streams that have had no picture yet."""
    return Memory(torch.zeros_like(knobs.noise[:, 1:]), torch.zeros_like(knobs.noise))


def count(block: Block) -> int:
    """How many streams a block holds."""
    return block[0].shape[0]


def fits(one: Block, other: Block) -> bool:
    """Whether streams of both blocks can ride together: all but their number is of the same shape and kind."""
    return all(
        a.shape[1:] == b.shape[1:] and a.dtype == b.dtype and a.device == b.device
        for a, b in zip(one, other, strict=True)
    )


def stack(blocks: Sequence[Block]) -> Block:
    """One block of the streams of all, in order, in new storage."""
    return type(blocks[0])(*(torch.cat(tensors) for tensors in zip(*blocks, strict=True)))


def empty(like: Block, streams: int) -> Block:
    """A block of `streams` streams of zeros that fits `like`."""
    return type(like)(*(tensor.new_zeros((streams, *tensor.shape[1:])) for tensor in like))


def clone(block: Block) -> Block:
    """The same block in storage of its own."""
    return type(block)(*(tensor.clone() for tensor in block))


def row(block: Block, index: int) -> Block:
    """One stream of a block, S = 1, in the storage of the block."""
    return type(block)(*(tensor[index : index + 1] for tensor in block))


def gather(block: Block, rows: torch.Tensor) -> Block:
    """The streams at `rows`, int64 [K], in new storage."""
    return type(block)(*(tensor.index_select(0, rows) for tensor in block))


def scatter(target: Block, rows: torch.Tensor, source: Block) -> None:
    """Write the K streams of `source` over those at `rows`, int64 [K], in place. The others are not touched."""
    for old, new in zip(target, source, strict=True):
        old.index_copy_(0, rows, new)


def copy_into(target: Block, source: Block) -> None:
    """Write `source` over `target`, in place. Raises `ValueError` when they do not fit; nothing is written then."""
    if count(target) != count(source) or not fits(target, source):
        raise ValueError("a block can be copied only into one of the same shapes")
    for old, new in zip(target, source, strict=True):
        old.copy_(new)


__all__ = [
    "Conditioning",
    "Knobs",
    "Memory",
    "clone",
    "copy_into",
    "count",
    "empty",
    "fits",
    "gather",
    "make_knobs",
    "make_memory",
    "row",
    "scatter",
    "stack",
]
