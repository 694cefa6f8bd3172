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
    [S, 1, 1, 1, 1], `renoise` 1 or 0; `calm` float32 [S, 2, 1, 1, 1], how much of the latent that was finished last is
    mixed into the one that comes in and into the one that goes out; `noise` float32 [S, N, C, h, w]; `prompt` and
    `negative` [S, tokens, width]; `pooled_prompt` and `pooled_negative` [S, width]; `time_ids` [S, 6]. The last three
    have no columns but for SDXL.

    `steering` float32 [S, N, nets] are the scales of ControlNets, 0 in the steps where they are off; `style` and
    `unstyled` [S, tokens, width] are what an IP-Adapter makes of a style image and of none, `strengths` float32
    [S, layers]; `every` float32 [S, 1] is after how many pictures one is kept to be attended to. `frame_control`
    [S, 0, channels, H, W] and `frame_bank` [S, 0, N, pictures, length] hold nothing: their shapes are those of what is
    remembered. Where a stream has no such thing there are 0 nets, tokens, layers, channels or pictures.

    `context` [S, texts, length] and `shifts` [S, rows, columns] nobody turns: they are what the networks make of the
    others, see `Frame.complete`. They hold nothing where the frame makes that anew each time.

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
    calm: torch.Tensor
    noise: torch.Tensor
    prompt: torch.Tensor
    negative: torch.Tensor
    pooled_prompt: torch.Tensor
    pooled_negative: torch.Tensor
    time_ids: torch.Tensor
    steering: torch.Tensor
    style: torch.Tensor
    unstyled: torch.Tensor
    strengths: torch.Tensor
    every: torch.Tensor
    frame_control: torch.Tensor
    frame_bank: torch.Tensor
    context: torch.Tensor
    shifts: torch.Tensor


class Memory(NamedTuple):
    """What the frame remembers of earlier pictures.

    `buffer` float32 [S, N - 1, C, h, w] are the half denoised latents of the pictures before, newest first; `residual`
    float32 [S, N, C, h, w] is the noise that stands for the unconditional prediction; `finished` float32 [S, C, h, w]
    is the latent that left last; `pictures` int64 [S] is how many came in. `control` [S, N - 1, channels, H, W] are the
    control pictures of `buffer`, -1 throughout where there was none; `recalled` int64 [S] is how many pictures came in
    since there is a bank; `bank` [S, N, pictures, length] the keys and values of earlier pictures, newest first;
    `age` float32 [S, 1] is how many pictures ago one was kept.
    """

    buffer: torch.Tensor
    residual: torch.Tensor
    finished: torch.Tensor
    pictures: torch.Tensor
    recalled: torch.Tensor
    control: torch.Tensor
    bank: torch.Tensor
    age: torch.Tensor


class Steering(NamedTuple):
    """ControlNets of one stream: `scales` float32 [N, nets], and the shape of their control pictures side by side."""

    scales: torch.Tensor
    channels: int
    height: int
    width: int


class Style(NamedTuple):
    """A style image as the network takes it: `tokens` and those of no image, [tokens, width], and its strength in each
    cross attention, float32 [layers]."""

    tokens: torch.Tensor
    without: torch.Tensor
    strengths: torch.Tensor


class Recall(NamedTuple):
    """Attention to earlier pictures: how many, of how many numbers each, and after how many one is kept."""

    pictures: int
    length: int
    every: int


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
    calm: tuple[float, float] = (0.0, 0.0),
    steering: Steering | None = None,
    style: Style | None = None,
    recall: Recall | None = None,
) -> Knobs:
    """The knobs of one stream, S = 1, on the device of `noise`, float32 [N, C, h, w].

    `guidance` up to 1 is off. `time_ids` [6] are SDXL's sizes. `calm` are the shares of the finished latent before and
    after denoising.
    """
    device, dtype, slots = noise.device, prompt.tokens.dtype, len(noise)
    steers = Steering(torch.zeros(slots, 0), 0, 0, 0) if steering is None else steering
    nothing = torch.zeros(0, prompt.tokens.shape[-1], dtype=dtype)
    styled = Style(nothing, nothing, torch.zeros(0)) if style is None else style
    recalls = Recall(0, 0, 1) if recall is None else recall

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
        calm=torch.tensor(calm, device=device, dtype=torch.float32).view(1, 2, 1, 1, 1),
        noise=noise.float()[None],
        prompt=prompt.tokens.to(device)[None],
        negative=negative.tokens.to(device)[None],
        pooled_prompt=prompt.pooled.to(device)[None],
        pooled_negative=negative.pooled.to(device)[None],
        time_ids=sizes.to(device, dtype)[None],
        steering=steers.scales.to(device, torch.float32)[None],
        style=styled.tokens.to(device, dtype)[None],
        unstyled=styled.without.to(device, dtype)[None],
        strengths=styled.strengths.to(device, torch.float32)[None],
        every=torch.full((1, 1), float(recalls.every), device=device),
        frame_control=torch.zeros(1, 0, steers.channels, steers.height, steers.width, dtype=dtype, device=device),
        frame_bank=torch.zeros(1, 0, slots, recalls.pictures, recalls.length, dtype=dtype, device=device),
        context=torch.zeros(1, 0, 0, dtype=dtype, device=device),
        shifts=torch.zeros(1, 0, 0, dtype=dtype, device=device),
    )


def unprepared(knobs: Knobs) -> Knobs:
    """`knobs` without what networks made of them."""
    nothing = (count(knobs), 0, 0)
    return knobs._replace(context=knobs.context.new_zeros(nothing), shifts=knobs.shifts.new_zeros(nothing))


def make_memory(knobs: Knobs) -> Memory:
    """The memory of streams that have had no picture yet."""
    streams, slots = knobs.noise.shape[:2]
    control, bank = knobs.frame_control, knobs.frame_bank
    return Memory(
        buffer=torch.zeros_like(knobs.noise[:, 1:]),
        residual=torch.zeros_like(knobs.noise),
        finished=torch.zeros_like(knobs.noise[:, 0]),
        pictures=torch.zeros(streams, dtype=torch.int64, device=knobs.noise.device),
        control=control.new_full((streams, slots - 1, *control.shape[2:]), -1.0),
        recalled=torch.zeros(streams, dtype=torch.int64, device=knobs.noise.device),
        bank=bank.new_zeros((streams, *bank.shape[2:])),
        age=torch.zeros_like(knobs.every),
    )


def carry_over(memory: Memory, knobs: Knobs, *, same_model: bool = True) -> Memory:
    """`memory` for a stream of these knobs: what no longer fits, or was not there, begins anew.

    Pictures that are under way stay under way; those that came without a control picture end without one. Without
    `same_model` the bank begins anew too: keys and values mean nothing to other weights than those that made them.
    """
    fresh = make_memory(knobs)
    old = memory._asdict()
    kept = {name: old[name] if old[name].shape == value.shape else value for name, value in fresh._asdict().items()}
    if kept["bank"] is not memory.bank or not same_model:
        kept["recalled"], kept["age"] = fresh.recalled, fresh.age
    return Memory(**kept)


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


def first(block: Block, streams: int) -> Block:
    """The first `streams` streams of a block, in its storage."""
    return type(block)(*(tensor[:streams] for tensor in block))


def gather(block: Block, rows: torch.Tensor) -> Block:
    """The streams at `rows`, int64 [K], in new storage."""
    return type(block)(*(tensor.index_select(0, rows) for tensor in block))


def scatter(target: Block, rows: torch.Tensor, source: Block) -> None:
    """Write the K streams of `source` over those at `rows`, int64 [K], in place. The others are not touched."""
    for old, new in zip(target, source, strict=True):
        if new is not old:  # what a frame had no use for comes back as it was
            old.index_copy_(0, rows, new)


def keep(target: Block, source: Block) -> None:
    """Write over `target`, in place, what of `source` does not lie there already. They must fit."""
    for old, new in zip(target, source, strict=True):
        if new.data_ptr() != old.data_ptr():  # what a frame had no use for comes back where it was
            old.copy_(new)


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
    "Recall",
    "Steering",
    "Style",
    "carry_over",
    "clone",
    "copy_into",
    "count",
    "empty",
    "first",
    "fits",
    "gather",
    "keep",
    "make_knobs",
    "make_memory",
    "row",
    "scatter",
    "stack",
    "unprepared",
]
