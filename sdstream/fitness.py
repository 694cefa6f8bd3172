"""What a RunPod worker must be able to do before it takes jobs; RunPod replaces one that cannot.

`handler.py` registers these with RunPod's SDK, which runs them once, in order, before the first job. Each raises
`ConfigurationError` with what is wrong.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from sdstream.commands.machine import Gpu, MachineFacts, probe_encoder, read_machine
from sdstream.directories import choose_data_directory
from sdstream.engines.architectures import has_programs
from sdstream.errors import ConfigurationError
from sdstream.settings import Settings

LEAST_ARCHITECTURE = (7, 5)
"""Compute capability. Older cards have no fast float16."""
TORCH_SECONDS = 120.0
TORCH_PROGRAM = """
import json, torch
available = torch.cuda.is_available()
if available:
    torch.ones(8, device="cuda").sum().item()
print(json.dumps({"available": available, "cuda": torch.version.cuda, "architectures": torch.cuda.get_arch_list(),
                  "capability": list(torch.cuda.get_device_capability(0)) if available else None}))
"""

FitnessCheck = Callable[[], None]


def check_card(settings: Settings, facts: MachineFacts | None = None) -> None:
    """A card is there, new enough, and torch has programs for it. Without a card only a CPU worker is fit."""
    if settings.worker_device == "cpu":
        return
    facts = facts or read_machine(settings)
    if not facts.gpus:
        raise ConfigurationError(f"this worker has no GPU: {facts.gpu_problem}")
    found = _ask_torch()
    if not found["available"]:
        driver = facts.gpus[0].driver
        raise ConfigurationError(f"torch for CUDA {found['cuda']} cannot use {facts.gpus[0].name}, driver {driver}")
    check_architecture(facts.gpus[0], tuple(found["capability"]), tuple(found["architectures"]))


def check_architecture(gpu: Gpu, capability: tuple[int, ...], built_for: tuple[str, ...]) -> None:
    """Whether torch, built for architectures such as `sm_86` and `compute_120`, has programs for this card.

    Pools of RunPod mix generations, so a card can be newer than torch.
    """
    name = f"{gpu.name} (compute capability {'.'.join(map(str, capability))})"
    if capability < LEAST_ARCHITECTURE:
        raise ConfigurationError(f"{name} is too old; {'.'.join(map(str, LEAST_ARCHITECTURE))} is the least")
    if not has_programs(capability, built_for):
        raise ConfigurationError(f"torch here has no programs for {name}, only {', '.join(built_for) or 'none'}")


def check_data(settings: Settings) -> None:
    """The data directory can be made and written."""
    choose_data_directory(settings).prepare()


def check_encoder(settings: Settings) -> None:
    """The H.264 encoder that the settings ask for makes a picture; x264 always must."""
    wanted = ["libx264", *(["h264_nvenc"] if settings.video_encoder == "nvenc" else [])]
    for name in wanted:
        problem = probe_encoder(name)
        if problem:
            raise ConfigurationError(f"the encoder {name} does not work: {problem}")


def fitness_checks(settings: Settings) -> tuple[FitnessCheck, ...]:
    """The checks in the order in which they are run; cheap ones first."""

    def sdstream_data() -> None:
        check_data(settings)

    def sdstream_encoder() -> None:
        check_encoder(settings)

    def sdstream_card() -> None:
        check_card(settings)

    return sdstream_data, sdstream_encoder, sdstream_card


def register_fitness_checks(runpod: Any, settings: Settings) -> None:
    """Give the checks to RunPod's SDK, the module `runpod` 1.9 or newer."""
    for check in fitness_checks(settings):
        runpod.serverless.register_fitness_check(check)


def _ask_torch() -> dict[str, Any]:
    # In a process of its own, as the worker does: this one never loads torch.
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_PROGRAM],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
            env=dict(os.environ),
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"torch was not imported within {TORCH_SECONDS:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise ConfigurationError(f"torch cannot be used: {last}")
    return json.loads(done.stdout.splitlines()[-1])


__all__ = [
    "LEAST_ARCHITECTURE",
    "check_architecture",
    "check_card",
    "check_data",
    "check_encoder",
    "fitness_checks",
    "register_fitness_checks",
]
