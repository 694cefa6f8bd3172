"""Kernels become programs for cards that are not here: what only a compiler refuses, an interpreter lets pass."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sdstream.diffusion.fused.group_norm_tiling import Whole, tiling_of

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.slow,
]
NUMBERS = {"eps": "fp32", "factor": "fp32", "divisor": "fp32", "scale": "fp32", "offset": "fp32"}
"""What is no pointer; other numbers are whole."""
WHOLE = {"rows", "channels", "first", "width", "squares", "pixels", "values", "slots", "against"}
WHOLE |= {"queries", "keys", "heads", "columns", "height", "out_height", "out_width", "other_channels"}
WHOLE |= {"split_steps", "parts"}
PLACES = ("_stride", "_batch", "_head", "_token")
"""Ends of the names of such whole numbers."""
Case = tuple[Any, Mapping[str, str], Mapping[str, Any]]


def norms(*, small: bool = False) -> Iterator[Case]:
    kernels: Any = importlib.import_module("sdstream.diffusion.fused.group_norm_kernels")
    for rows, channels in ((4096, 960), (64, 2560)):
        tiling = tiling_of(rows, channels, 32)
        shape = {"groups": 32, "width": channels // 32}
        for two, keeps, bias, shift in (
            (True, True, False, False),
            (False, True, True, False),
            (False, False, False, True),
        ):
            given = {**shape, "has_other": two, "apart": channels == 2560, "has_shift": shift}
            ends = {"silu": True, "keeps": keeps, "has_kept_bias": bias, "small": small}
            out = {"out": "*fp8e4nv"} if small else {}
            if isinstance(tiling, Whole):
                sizes = {"padded_rows": tiling.padded_rows, "padded": tiling.padded}
                yield kernels.group_norm_whole, out, {**given, **sizes, **ends}
                continue
            yield kernels.group_norm_sums, {"partial": "*fp32"}, {**given, **tiling.sizes}
            yield kernels.group_norm_values, {"partial": "*fp32", **out}, {**given, **tiling.sizes, **ends}


def sums() -> Iterator[Case]:
    kernels: Any = importlib.import_module("sdstream.diffusion.fused.pointwise_kernels")
    for is_summed, after in ((True, True), (True, False), (False, False)):
        for some_rows, at_once in ((4, 512), (1, 2048)):
            kind = {"is_summed": is_summed, "has_after": after}
            yield kernels.norm_values, {}, {**kind, "some_rows": some_rows, "at_once": at_once}


def gates() -> Iterator[Case]:
    kernels: Any = importlib.import_module("sdstream.diffusion.fused.pointwise_kernels")
    columns = kernels.GATED_COLUMNS
    yield kernels.gated_values, {}, {"some_rows": kernels.VALUES // columns, "some_columns": columns}


def picture_steps() -> Iterator[Case]:
    kernels: Any = importlib.import_module("sdstream.diffusion.fused.pointwise_kernels")
    yield kernels.doubled_values, {}, {"some_rows": kernels.ROWS, "some_columns": kernels.COLUMNS}
    for channels in (3, 320):
        yield kernels.biased_values, {}, {"channels": channels, "at_once": kernels.AT_ONCE}


def phases() -> Iterator[Case]:
    kernels: Any = importlib.import_module("sdstream.diffusion.convolving.phase_kernels")
    yield kernels.phase_filters, {}, {"some_rows": kernels.ROWS, "some_columns": kernels.COLUMNS}


def eight_bits() -> Iterator[Case]:
    kernels: Any = importlib.import_module("sdstream.diffusion.eight_bit.kernels")
    small = {"out": "*fp8e4nv", "scales": "*fp32"}
    for kernel in (kernels.quantised_values, kernels.gated_quantised_values, kernels.normed_quantised_values):
        yield kernel, small, {"at_once": 512}
    for after in (True, False):
        yield kernels.summed_norm_quantised_values, small, {"has_after": after, "at_once": 512}
    yield from norms(small=True)


def steps() -> Iterator[Case]:
    latents: Any = importlib.import_module("sdstream.diffusion.fused.latents_kernels")
    pictures: Any = importlib.import_module("sdstream.diffusion.fused.pictures_kernels")
    sizes = {"channels": 4, "padded": 4, "at_once": latents.PIXELS}
    halves = {"latent": "*fp16", "rows": "*fp16", "predicted": "*fp16"}
    names = {*latents.closed_values.arg_names, *latents.opened_values.arg_names} - WHOLE - NUMBERS.keys()
    tensors = {name: "*fp32" for name in names if not name.endswith("_stride")} | halves
    tensors |= {"pictures": "*i64", "new_pictures": "*i64"}
    yield latents.opened_values, tensors, sizes
    for source in range(4):
        kind = {"source": source, "velocity": source > 1, "moves": source != 1, "bounded": source != 2}
        yield latents.closed_values, tensors, {**sizes, **kind}
    shares = {
        name: 0.5
        for name in (*pictures.picture_values.arg_names, *pictures.planes_values.arg_names)
        if "_from_" in name or name[:2] in ("y_", "u_", "v_")
    }
    bytes_of = {"planes": "*u8", "finite": "*u8", "image": "*fp32", "picture": "*fp16", "out": "*fp16"}
    yield pictures.picture_values, bytes_of, {**shares, "at_once": pictures.SQUARES}
    yield pictures.planes_values, bytes_of, {**shares, "at_once": pictures.SQUARES}


def attentions() -> Iterator[Case]:
    kernels: Any = importlib.import_module("sdstream.diffusion.fused.attention_kernels")
    for width, whole in ((64, True), (40, False)):
        sizes = {"width": width, "padded": 64, "rows": 64, "columns": 64, "whole": whole}
        yield kernels.attention_values, {}, sizes


@pytest.mark.parametrize(
    ("cases", "card"),
    [
        (cases, card)
        for cases in (norms, sums, gates, picture_steps, phases, steps, attentions)
        for card in (80, 90, 120)
    ]
    + [(eight_bits, card) for card in (89, 90, 120)],
)
def test_kernels_are_compiled_for_cards_that_are_not_here(cases: Any, card: int) -> None:
    compiler: Any = importlib.import_module("triton.compiler")
    backends: Any = importlib.import_module("triton.backends.compiler")
    for kernel, types, constants in cases():
        signature: dict[str, str] = {}
        for name in kernel.arg_names:
            number = "i32" if name in WHOLE or name.endswith(PLACES) else NUMBERS.get(name, "*fp16")
            # In the norms `rows` is a number, among latents what the network takes.
            signature[name] = "constexpr" if name in constants else types.get(name, number)
        fixed = {(index,): constants[name] for index, name in enumerate(kernel.arg_names) if name in constants}
        source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=fixed)
        made = compiler.compile(source, target=backends.GPUTarget("cuda", card, 32), options={"num_warps": 4})
        assert len(made.asm["cubin"]) > 0


def test_what_doubles_pictures_and_adds_biases_takes_sixteen_bytes_at_a_time() -> None:
    kernels: Any = importlib.import_module("sdstream.diffusion.fused.pointwise_kernels")
    sizes = {"some_rows": kernels.ROWS, "some_columns": kernels.COLUMNS}
    doubled = program_of(kernels.doubled_values, sizes)
    assert doubled.count("ld.global.v4.b32") == 1, "each line is read once"
    assert doubled.count("st.global.v4.b32") == 4
    for channels in (64, 320):
        biased = program_of(kernels.biased_values, {"channels": channels, "at_once": kernels.AT_ONCE})
        values = kernels.AT_ONCE // 128 // 8
        assert biased.count("ld.global.v4.b32") == 2 * values, "of pictures and of biases"
        assert biased.count("st.global.v4.b32") == values
    assert "ld.global.v4.b32" in program_of(kernels.biased_values, {"channels": 3, "at_once": kernels.AT_ONCE})


@pytest.mark.parametrize(("rows", "channels"), [(256, 1280), (1024, 640), (4096, 320)])
def test_threads_seldom_wait_for_each_other_while_they_read_the_sums_of_a_norm(rows: int, channels: int) -> None:
    kernels: Any = importlib.import_module("sdstream.diffusion.fused.group_norm_kernels")
    tiling = tiling_of(rows, channels, 32)
    assert not isinstance(tiling, Whole)
    given = {"groups": 32, "width": channels // 32, "has_other": False, "apart": False, "has_shift": False}
    ends = {"silu": True, "keeps": False, "has_kept_bias": False, "small": False}
    program = program_of(kernels.group_norm_values, {**given, **tiling.sizes, **ends})
    assert program.count("bar.sync") < 10, "20 and more, where sums and squares are added up apart"


@pytest.mark.parametrize("name", ["convolution_values", "convolution_sums"])
def test_a_relu_shows_what_is_no_number(name: str) -> None:
    # An interpreter shows it either way.
    kernels: Any = importlib.import_module("sdstream.diffusion.convolving.kernels")
    kernel = getattr(kernels, name)
    kind = {"has_bias": True, "has_more": False, "has_residual": True, "activation": 1}
    kind |= {"side": 3, "stride": 1, "padding": 1, "doubled": False, "phased": False, "narrow": False}
    kind |= {"has_other": False, "is_split": False, "block_rows": 64, "block_columns": 64, "block_depth": 32}
    kind |= {"together": 8, "some_rows": kernels.SUM_ROWS, "some_columns": kernels.SUM_COLUMNS}
    constants = {argument: value for argument, value in kind.items() if argument in kernel.arg_names}
    program = program_of(kernel, constants, partial="*fp32")
    assert "max.NaN.f32" in program
    assert "max.f32" not in program


def program_of(kernel: Any, constants: Mapping[str, Any], **types: str) -> str:
    """What a kernel is on a card for float16, whose numbers are multiples of 16, as those of networks are. `types` are
    those of other arguments."""
    compiler: Any = importlib.import_module("triton.compiler")
    backends: Any = importlib.import_module("triton.backends.compiler")
    signature: dict[str, str] = {}
    for name in kernel.arg_names:
        number = "i32" if name in WHOLE or name.endswith(PLACES) else NUMBERS.get(name, "*fp16")
        signature[name] = "constexpr" if name in constants else types.get(name, number)
    fixed = {(index,): constants[name] for index, name in enumerate(kernel.arg_names) if name in constants}
    places = [index for index, name in enumerate(kernel.arg_names) if signature[name] in ("i32", "*fp16")]
    known = {(index,): [["tt.divisibility", 16]] for index in places}
    source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=known)
    made = compiler.compile(source, target=backends.GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    program: str = made.asm["ptx"]
    return program
