"""The CUDA C++ of a convolution for Hopper, and what stands before it: a program for each tiling and what follows."""

from functools import cache
from pathlib import Path

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.tilings import HopperTiling
from sdstream.diffusion.convolving.shapes import ACTIVATIONS

FILES = {
    "resident": "streamed.cu",
    "stepped": "streamed.cu",
    "eight_bit": "streamed.cu",
    "doubled": "streamed.cu",
    "colours": "streamed.cu",
    "gathered": "gathered.cu",
}
"""Of the kinds of a tiling."""
GROUP_THREADS, WARP_THREADS = 128, 32


def threads_of(tiling: HopperTiling) -> int:
    """Of a block; of what is streamed one more warp asks for it."""
    return GROUP_THREADS * tiling.groups + (WARP_THREADS if tiling.is_streamed else 0)


def definitions_of(tiling: HopperTiling, arguments: Arguments) -> dict[str, int]:
    """What is defined before the source."""
    return {
        "BLOCKS_DOWN": tiling.down,
        "BLOCKS_ACROSS": tiling.across,
        "COLUMNS": tiling.columns,
        "GROUPS": tiling.groups,
        "GROUPS_OF_BLOCKS": tiling.groups_of_blocks,
        "GROUPS_OF_COLUMNS": tiling.groups_of_columns,
        "GROUP_COLUMNS": tiling.group_columns,
        "THREADS": threads_of(tiling),
        "CHANNELS": arguments.x.shape[1] if tiling.kind == "gathered" else 0,
        "SLOTS": 0 if tiling.is_resident or not tiling.is_streamed else tiling.rooms,
        "RESIDENT": int(tiling.is_resident),
        "DOUBLED": int(tiling.kind == "doubled"),
        "EIGHT_BIT": int(tiling.kind == "eight_bit"),
        "PARTS": tiling.parts,
        "RESIDUAL": int(arguments.residual is not None),
        "ACTIVATION": ACTIVATIONS[arguments.activation],
        "BFLOAT": int(str(arguments.dtype) == "torch.bfloat16"),
    }


def source_of(tiling: HopperTiling, definitions: dict[str, int]) -> str:
    """The whole program; its kernel is `hopper_convolution`."""
    return before(definitions) + read("primitives.cu") + product(definitions) + kernel_of(tiling)


def before(definitions: dict[str, int]) -> str:
    """The lines that define."""
    return "".join(f"#define {name} {value}\n" for name, value in definitions.items())


def kernel_of(tiling: HopperTiling) -> str:
    """What is the same on any machine that has the primitives."""
    return "\n".join(read(name) for name in ("tiles.cu", "answers.cu", FILES[tiling.kind]))


@cache
def read(name: str) -> str:
    """A file beside this one."""
    return (Path(__file__).parent / name).read_text("utf-8")


def product(definitions: dict[str, int]) -> str:
    """The instruction that multiplies 64 pixels by a group's columns over 32 bytes of channels, and adds to `sums`
    where `adds` says so. Both matrices lie in shared memory, channels next to each other."""
    columns = definitions["GROUP_COLUMNS"]
    if definitions["EIGHT_BIT"]:
        depth, kind, orders = 32, "e4m3", ""
    else:  # which could lie otherwise
        depth, kind, orders = 16, "bf16" if definitions["BFLOAT"] else "f16", ", 0, 0"
    half = columns // 2
    sums = ", ".join(f"%{index}" for index in range(half))
    kept = ", ".join(f'"+f"(sums[{index}])' for index in range(half))
    return f"""
__device__ __forceinline__ void multiply(float (&sums)[{half}], wide_word pixels, wide_word columns, int adds) {{
    asm volatile(
        "{{ .reg .pred adds; setp.ne.b32 adds, %{half + 2}, 0; "
        "wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{kind}.{kind} "
        "{{{sums}}}, %{half}, %{half + 1}, adds, 1, 1{orders}; }}"
        : {kept}
        : "l"(pixels), "l"(columns), "r"(adds)
    );
}}
"""


__all__ = ["before", "definitions_of", "kernel_of", "product", "read", "source_of", "threads_of"]
