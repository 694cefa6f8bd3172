"""What holds of the room as a whole: what it imports, who imports it, and that it does not grow."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sdstream.diffusion
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.runners import EagerRunner
from sdstream.diffusion.table import StreamTable
from tests.diffusion.fleet import Fleet, come_turn_and_go, params_of
from tests.diffusion.runs import frame_of, knobs_of, pictures
from tests.support.memory import cycles, held_bytes

ROOM = Path(sdstream.diffusion.__file__).parent
KNOWN = {
    "torch",
    "triton",
    "cuda",
    "safetensors",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "filelock",
    "sdstream",
}
KNOWN |= {"filelock", "sdstream"}
"""What the room needs besides the standard library."""
UNWANTED = {"asyncio", "http", "urllib", "socket", "time", "random", "threading"}
LOCKED = {
    "capture.py",
    "convolving/hopper/compiled.py",
    "convolving/tuning.py",
    "fused/attending.py",
    "trials/store.py",
}
"""What loads networks and what runs them may ask for a way, or record, at the same time."""
FILES = sorted(ROOM.rglob("*.py"))
CYCLES, WARM = cycles(250), 100
MOST_BYTES = CYCLES * 8 * 1024
"""Of resident memory. The allocator's own ups and downs stay within 0.8 MB over hundreds of cycles."""


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def name_of(file: Path) -> str:
    return file.relative_to(ROOM).as_posix()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_the_room_knows_torch_and_nothing_of_servers(file: Path) -> None:
    names = imported(file)
    tops = {name.partition(".")[0] for name in names}
    assert not tops & (UNWANTED - {"threading"} if name_of(file) in LOCKED else UNWANTED)
    assert not {top for top in tops if top not in sys.stdlib_module_names} - KNOWN
    own = {name for name in names if name.startswith("sdstream") and not name.startswith("sdstream.diffusion")}
    own -= {name for name in own if name.startswith("sdstream.engines")}
    assert own <= {
        "sdstream.errors",
        "sdstream.model_errors",
        "sdstream.settings",
        "sdstream.directories",
        "sdstream.http_clients",  # the ground floor's words for a proxy, or authorities, that cannot be used
        "sdstream.clock",
        "sdstream.pace",
        "sdstream.frames",  # the ground floor's word for the colours of a picture
        "sdstream.platform.libraries",  # what is found on a card holds for its driver
        "sdstream.params.vocabulary",  # of style images: their kinds of weight
    }


def test_only_one_module_imports_diffusers_and_transformers() -> None:
    users = {name_of(file) for file in FILES if imported(file) & {"diffusers", "transformers"}}
    assert users == {"libraries.py"}


def test_only_the_kernels_need_triton_which_is_not_everywhere() -> None:
    assert {name_of(file) for file in FILES if "triton" in imported(file)} == {
        "convolving/kernels.py",
        "convolving/phase_kernels.py",
        "eight_bit/kernels.py",
        "fused/attention_kernels.py",
        "fused/group_norm_kernels.py",
        "fused/latents_kernels.py",
        "fused/pictures_kernels.py",
        "fused/pointwise_kernels.py",
    }


def test_a_worker_without_the_model_never_imports_diffusers(tmp_path: Path) -> None:
    program = """
import sys
import torch
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelTable, parse_create
from sdstream.worker import work
from sdstream.worker.pipelines import make_pipeline
params = parse_create({"params": {"model_id": "stabilityai/sd-turbo"}}, ModelTable()).params
try:
    make_pipeline(params, torch.device("cpu"), print)
except ModelUnavailable as error:
    print("diffusers" in sys.modules, "transformers" in sys.modules, error.message)
"""
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=150, env=environment)
    assert done.stdout.startswith("False False stabilityai/sd-turbo is not on this machine")


@pytest.mark.slow
def test_many_joins_turns_and_leaves_leave_memory_flat(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("sd-turbo")
    image = pictures(1)[0]
    table = StreamTable(EagerRunner(frame_of(model, 2)), knobs_of(model), 2)
    stays = table.join(knobs_of(model))

    def cycle(number: int) -> None:
        seat = table.join(knobs_of(model, prompt=f"picture {number}", seed=number))
        table.turn(seat, knobs_of(model, prompt=f"other {number}", guidance=2.0))
        if number % 10 == 0:
            table.run({stays: image, seat: image})
        table.leave(seat)

    for number in range(WARM):
        cycle(number)
    before = held_bytes()
    for number in range(WARM, WARM + CYCLES):
        cycle(number)
    assert held_bytes() - before < MOST_BYTES


@pytest.mark.slow
def test_many_streams_that_come_turn_and_go_in_a_worker_leave_memory_flat(
    tiny_directory: Callable[..., Path],
) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stays = fleet.open(params_of())

        for number in range(WARM):
            come_turn_and_go(fleet, stays, number)
        before = held_bytes()
        for number in range(WARM, WARM + CYCLES):
            come_turn_and_go(fleet, stays, number)
        assert held_bytes() - before < MOST_BYTES
        assert list(fleet.lanes) == [stays.number]
