"""The kernels for Hopper on a processor: the same source, with `emulated.h` in place of the primitives."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.boxes import Boxes
from sdstream.diffusion.convolving.hopper.calls import Call, Told, answer_of, call_of
from sdstream.diffusion.convolving.hopper.source import before, kernel_of
from sdstream.diffusion.convolving.hopper.tilings import HopperTiling

RUN = """
struct Pointer {{
    void* place;

    template <typename Value> operator Value*() const {{ return static_cast<Value*>(place); }}
}};

extern "C" const char* run(bool late, int across, int down, int deep, {parameters}) {{
    return launch(late, {{across, down, deep}}, [&] {{ hopper_convolution({names}); }});
}}
"""
AXES = 5
"""That an emulated map has, those beyond the tensor's of size one."""
COMPILE = ("g++", "-O1", "-march=native", "-w", "-std=c++17", "-shared", "-fPIC")
HAS_COMPILER = shutil.which("g++") is not None
Program = ctypes.CDLL


def built(arguments: Arguments, tiling: HopperTiling, folder: Path) -> Program:
    """The kernel that answers `arguments`, compiled for this machine."""
    call = _call(arguments, tiling, answer_of(arguments))
    kinds = ["const TensorMap*" if isinstance(each, Boxes) else _kind(each) for each in call.told]
    names = [f"told_{index}" for index in range(len(kinds))]
    parameters = ", ".join(f"{kind} {name}" for kind, name in zip(kinds, names, strict=True))
    forms = {"int": "{}", "void*": "Pointer{{{}}}", "const TensorMap*": "*{}"}
    given = ", ".join(forms[kind].format(name) for kind, name in zip(kinds, names, strict=True))
    primitives = (Path(__file__).parent / "emulated.h").read_text("utf-8")
    run = RUN.format(parameters=parameters, names=given)
    file = folder / "convolution.cpp"
    file.write_text("\n".join((before(call.definitions), primitives, kernel_of(tiling), run)), "utf-8")
    made = file.with_suffix(".so")
    subprocess.run([*COMPILE, "-o", made, file], check=True)
    return ctypes.CDLL(str(made))


def emulated(program: Program, arguments: Arguments, tiling: HopperTiling, *, late: bool) -> torch.Tensor:
    """What the kernel answers, float16."""
    out = answer_of(arguments).fill_(torch.nan)
    call = _call(arguments, tiling, out)
    program.run.restype = ctypes.c_char_p
    failure: bytes | None = program.run(late, *call.grid, *map(_given, call.told))
    assert failure is None, failure.decode()
    return out


def _call(arguments: Arguments, tiling: HopperTiling, out: torch.Tensor) -> Call:
    """Of a card with so few processors that blocks have more tiles than rooms where they stay."""
    return call_of(arguments, out, tiling, processors=2)


def _kind(told: Told) -> str:
    return "int" if isinstance(told, int) else "void*"


def _given(told: Told) -> object:
    if isinstance(told, Boxes):
        more = AXES - len(told.sizes)
        sizes, strides, box = (*told.sizes, *[1] * more), (*told.strides, *[0] * more), (*told.box, *[1] * more)
        laid = (told.tensor.data_ptr(), told.tensor.element_size(), *sizes, *strides, *box)
        return (ctypes.c_long * len(laid))(*laid)
    return ctypes.c_void_p(told.data_ptr()) if isinstance(told, torch.Tensor) else told
