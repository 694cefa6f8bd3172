"""How many operations one frame is, by kind and by part: on a GPU each is a kernel or more, if no compiler joins them.

    python -m bench.launches [--models sd-turbo,sdxl-turbo,tiny] [--steps 1] [--streams 1] [--json FILE]

Counted is with tensors that have shapes and no memory, so the full-size networks take neither a GPU nor time. With a
torch that was built for CUDA the way on a GPU is counted, card or not, else the one on a CPU. `twin` is a frame of
plain blocks that brings its rows together from all over a table, `fused` the same with fused blocks, `prepared` with
what changes with a knob only made before, `whole` with all rows of the table where they lie. Of that, `tuned` has all
convolutions by the kernel of this project that is the most promising on an H100, and `eight_bit` the products of the
UNet in eight bits, as far as they can be, whether that is faster or not; `eight_bit_all` has both, and convolutions in
eight bits. `change` is what is done once for each turn of
a knob.
"""

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # the only way to count without a card
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bench.support.contenders import NOISE
from bench.support.counted_controls import CountedControls, controls_of
from bench.support.random_models import FULL, TOKENS
from bench.support.targets import conditions
from sdstream.diffusion.convolving.shapes import Card
from sdstream.diffusion.convolving.tuning import assumed_choices
from sdstream.diffusion.eight_bit.copies import source_of
from sdstream.diffusion.eight_bit.filters import EightBitFilter
from sdstream.diffusion.eight_bit.layers import convolutions_of, products_of
from sdstream.diffusion.eight_bit.products import EightBitLinear, EightBitWeight, Terms
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.fused.joining import Joined, OneProduct, join
from sdstream.diffusion.fused.switch import join_steps_on, plain_blocks
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.networks import EagerNetworks, Networks
from sdstream.diffusion.question import Prepared, Question, Subject
from sdstream.diffusion.schedule import Schedule, StepTables
from sdstream.diffusion.state import (
    Conditioning,
    Knobs,
    Memory,
    Steering,
    gather,
    make_knobs,
    make_memory,
    scatter,
    stack,
)

TINY = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": (4, 8),
    "use_linear_projection": True,
}
H100 = Card((9, 0), 132)
STEPS = {1: (32,), 2: (32, 45), 4: (0, 16, 32, 45)}
IDLE = {"aten._unsafe_view", "aten.empty", "aten.empty_like", "aten.new_empty", "aten.detach", "prim.device"}
"""Operations that launch nothing, besides views."""
KINDS = {
    "attention": ("attention", "flash", "fmha", "sdpa"),
    "convolution": ("convolution", "cudnn", "xmma_fprop", "implicit"),
    "product": ("addmm", "aten.mm", "scaled_mm", "bmm", "gemm", "cutlass", "nvjet"),
    "norm": ("group_norm", "layer_norm", "norm_values", "normed", "summed_norm"),
    "copy": ("clone", "copy", "cat", "stack", "index", "roll", "upsample", "doubled", "memcpy", "nchw", "nhwc"),
}
"""Parts of the names of operations, and of kernels; what has none of them is `pointwise`. The first kind that fits
counts: cuDNN's convolutions are products by name, and its attention is called after cuDNN, too."""
Row = dict[str, Any]


def kind_of(name: str) -> str:
    """The kind of an operation or of a kernel."""
    small = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in small for part in parts)), "pointwise")


class Counting(TorchDispatchMode):
    """Counts what reaches the device, by part and kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.part = "rest"

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = str(function).rpartition(".")[0]
        answers = args if made is None else made if isinstance(made, tuple | list) else (made,)
        tensors = [each for each in answers if torch.is_tensor(each)]
        if not function.is_view and name not in IDLE and any(tensor.numel() for tensor in tensors):
            self.counts[self.part, kind_of(name)] += 1
        return made

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count for `part` meanwhile."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before


class Parts(Networks):
    """Networks that say which of them is at work."""

    def __init__(self, networks: Networks, counting: Counting) -> None:
        super().__init__()
        self.networks = networks
        self.dtype, self.vae_dtype = networks.dtype, networks.vae_dtype
        self.scaling_factor, self.is_xl = networks.scaling_factor, networks.is_xl
        self._counting = counting

    def predict(self, question: Question) -> torch.Tensor:
        with self._counting.within("unet"):
            return self.networks.predict(question)

    def prepare(self, subject: Subject) -> Prepared | None:
        return self.networks.prepare(subject)

    @property
    def bare(self) -> bool:
        return self.networks.bare

    def encode_bare(self, image: torch.Tensor) -> torch.Tensor:
        with self._counting.within("encoder"):
            return self.networks.encode_bare(image)

    def decode_bare(self, latent: torch.Tensor) -> torch.Tensor:
        with self._counting.within("decoder"):
            return self.networks.decode_bare(latent)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        with self._counting.within("encoder"):
            return self.networks.encode(image)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        with self._counting.within("decoder"):
            return self.networks.decode(latent)


def count(model: str, size: int, steps: Sequence[int], streams: int, device: str, nets: int = 0) -> Row:
    """The operations of one frame of `streams` streams in each of the four ways, and of a change. With `nets`
    ControlNets the picture comes in as colours, with their pictures beside it."""
    networks = shapes_of(model)
    controls = controls_of(networks.unet, nets)
    tables = Schedule.from_config(NOISE).tables(steps)  # which looks at its numbers
    found: Row = {}
    with FakeTensorMode(allow_non_fake_inputs=True), one_attention(), cudnn_by_shape():
        for network in (networks.unet, networks.vae, *(() if controls is None else controls.nets)):
            give_memory(network, device)
        if device == "cuda":
            join_steps_on(torch.zeros(1, device=device).device)
        counting = Counting()
        parts = Parts(networks, counting)
        steered = None if controls is None else CountedControls(controls, lambda: counting.within("controls"))
        frame = Frame(parts, slots=len(steps), guidance="self", whole=True, controls=steered)
        knobs = stack([knobs_of(networks, tables, size, device, nets)] * streams)
        completed = frame.complete(knobs)
        image = torch.zeros(streams, size * 3 // 2, size, dtype=torch.uint8, device=device)
        if nets:
            image = torch.zeros(streams, 3 + 3 * nets, size, size, device=device)
        rows = torch.arange(streams, device=device)
        ways: dict[str, tuple[Knobs, bool, bool]] = {
            "twin": (knobs, False, True),
            "fused": (knobs, True, True),
            "prepared": (completed, True, True),
            "whole": (completed, True, False),
            "tuned": (completed, True, False),
        }
        for way, (given, fused, gathered) in ways.items():
            memory = make_memory(given)
            chosen = assumed_choices(H100) if way == "tuned" else contextlib.nullcontext()
            with contextlib.nullcontext() if fused else plain_blocks(), chosen, counting:
                run(frame, image, given, memory, rows if gathered else None)
            found[way] = summed(counting)
        with counting:
            frame.complete(knobs)
        found["change"] = summed(counting)
        make_eight_bit_of_shapes(networks.unet)
        memory = make_memory(completed)
        with counting:
            run(frame, image, completed, memory, None)
        found["eight_bit"] = summed(counting)
        make_eight_bit_convolutions_of_shapes(networks.unet)
        memory = make_memory(completed)
        with assumed_choices(H100), counting:
            run(frame, image, completed, memory, None)
        found["eight_bit_all"] = summed(counting)
    kind = {"model": model, "size": size, "steps": len(steps), "streams": streams, "controls": nets, "device": device}
    return {**kind, "ways": found}


def run(frame: Frame, image: torch.Tensor, knobs: Knobs, memory: Memory, rows: torch.Tensor | None) -> None:
    """As a capture has it (`sdstream.diffusion.runners`)."""
    if rows is not None:
        scatter(memory, rows, frame(image, gather(knobs, rows), gather(memory, rows)).memory)
        return
    for old, new in zip(memory, frame(image, knobs, memory).memory, strict=True):
        if new is not old:
            old.copy_(new)


def summed(counting: Counting) -> Row:
    """What was counted since this was asked last."""
    counts, counting.counts = counting.counts, Counter()
    parts: dict[str, dict[str, int]] = {}
    for (part, kind), number in sorted(counts.items()):
        parts.setdefault(part, {})[kind] = number
    return {"all": counts.total(), "parts": parts}


def shapes_of(model: str) -> EagerNetworks:
    """The networks of a model without their numbers, fused as far as they can be."""
    with torch.device("meta"):
        unet: Any = diffusers.UNet2DConditionModel(**(TINY if model == "tiny" else FULL[model]))
        vae: Any = diffusers.AutoencoderTiny()
    for network in (unet, vae):
        network.half().requires_grad_(False).eval()
        fuse(network)
    join(unet)
    return EagerNetworks(unet, vae)


def give_memory(network: torch.nn.Module, device: str) -> None:
    """Have the tensors of `network` on `device`, as far as a tensor of shapes alone is anywhere."""
    for module in network.modules():
        if isinstance(module, OneProduct) and module.joined is not None:
            module.joined = Joined(torch.empty_like(module.joined.weight, device=device))
        for kind in ("_parameters", "_buffers"):
            tensors: Any = getattr(module, kind)
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                order = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
                made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device, memory_format=order)
                tensors[name] = torch.nn.Parameter(made, requires_grad=False) if kind == "_parameters" else made


def make_eight_bit_of_shapes(unet: torch.nn.Module) -> None:
    """As `make_eight_bit`, which looks at numbers that are not there."""
    for layer in products_of(unet):
        owner: Any = layer
        if type(layer) is torch.nn.Linear:
            owner.__class__ = EightBitLinear
        owner.eight_bit = EightBitWeight(source_of(layer), Terms("rows"))


def make_eight_bit_convolutions_of_shapes(unet: torch.nn.Module) -> None:
    """As `make_eight_bit_convolutions`."""
    for layer, _ in convolutions_of(unet):
        owner: Any = layer
        owner.eight_bit = EightBitFilter(source_of(layer), 1.0)


def knobs_of(networks: EagerNetworks, tables: StepTables, size: int, device: str, nets: int = 0) -> Knobs:
    config: Any = networks.unet.config
    tokens = torch.zeros(TOKENS, config.cross_attention_dim, dtype=networks.dtype, device=device)
    pooled = torch.zeros(1280 if networks.is_xl else 0, dtype=networks.dtype, device=device)
    text = Conditioning(tokens, pooled)
    steps = len(tables.timesteps)
    noise = torch.zeros(steps, 4, size // 8, size // 8, device=device)
    sizes = torch.zeros(6, device=device) if networks.is_xl else None
    steering = Steering(torch.ones(steps, nets), 3 * nets, size, size) if nets else None
    return make_knobs(tables, noise, text, text, time_ids=sizes, steering=steering)


@contextlib.contextmanager
def one_attention() -> Iterator[None]:
    """Attention counts as one operation, as it is on a GPU: without memory torch takes it apart."""
    library: Any = functional
    before: Callable[..., torch.Tensor] = library.scaled_dot_product_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
        operation: Any = torch.ops.sdstream_bench.attention
        return operation(query, key, value)

    library.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        library.scaled_dot_product_attention = before


@torch.library.custom_op("sdstream_bench::attention", mutates_args=())
def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("it is counted, not computed")


@_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    rows, heads, tokens, width = query.shape
    return query.new_empty((rows, tokens, heads, width)).transpose(1, 2)  # as the fast ways lay it


@contextlib.contextmanager
def cudnn_by_shape() -> Iterator[None]:
    """cuDNN's fused convolutions say no shapes of themselves."""
    library: Any = torch.library.Library("aten", "IMPL")

    def alone(x: Any, weight: Any, *where: Any) -> torch.Tensor:
        return torch.ops.aten.convolution(x, weight, *where[:4], False, [0, 0], where[4])

    def added(x: Any, weight: Any, other: Any, alpha: Any, *where: Any) -> torch.Tensor:
        return alone(x, weight, *where)

    library.impl("cudnn_convolution_relu", alone, "Meta")
    library.impl("cudnn_convolution_add_relu", added, "Meta")
    try:
        yield
    finally:
        library._destroy()


def show(row: Row) -> None:
    """Print what was counted."""
    asked = f"{row['model']} {row['size']}, {row['steps']} steps, {row['streams']} streams"
    print(f"{asked}, {row['controls']} ControlNets, as on {row['device']}")
    for way, counted in row["ways"].items():
        parts = ", ".join(f"{part} {sum(kinds.values())}" for part, kinds in counted["parts"].items())
        kinds: Counter[str] = Counter()
        for part in counted["parts"].values():
            kinds.update(part)
        named = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
        print(f"  {way:<9}{counted['all']:5}  {parts}; {named}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="sd-turbo", help="of sd-turbo, sdxl-turbo, sd15, tiny")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1, choices=sorted(STEPS))
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--controls", type=int, default=0, help="ControlNets")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    device = "cuda" if torch.version.cuda else "cpu"
    counted: list[Row] = []
    for model in options.models.split(","):
        size, steps = (64 if model == "tiny" else options.size), STEPS[options.steps]
        counted.append(count(model, size, steps, options.streams, device, options.controls))
        show(counted[-1])
    if options.json:
        result = {**conditions(), "torch": torch.__version__, "counted": counted}
        Path(options.json).write_text(json.dumps(result, indent=2), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
