"""A hub that has, in tiny, all that the shipped profile with ControlNets asks for, and files that nobody needs."""

import shutil
from pathlib import Path
from typing import Any

from builder.profiles import find_profile
from sdstream.diffusion.fetching.selection import LORA as LORA_FILE
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import write_tiny_adapter, write_tiny_controlnet
from sdstream.worker.annotators.tiny import make_depth_model
from sdstream.worker.files import published
from tests.support.hub import FakeHub

SHIPPED = find_profile("dreamshaper-512-controlnets")
MODEL, LORA, CONTROLNETS = SHIPPED.model, SHIPPED.loras[0].source, SHIPPED.controlnets
TAESD = "madebyollin/taesd"
DEPTH = published.DEPTH.repository
ADAPTER = (SHIPPED.adapter or "").rpartition("models/")[0].strip("/"), (SHIPPED.adapter or "").split("/", 2)[2]
"""The repository and the file."""
HALF = "unet/diffusion_pytorch_model.fp16.safetensors"


def write_upstream(root: Path) -> None:
    """Write the repositories into `root`, each under its id."""
    model = root / MODEL
    write_tiny_model(model, "sd15", width=16)
    loaded: Any = diffusers.UNet2DConditionModel
    unet = loaded.from_pretrained(model / "unet")
    (root / TAESD).parent.mkdir()
    (model / "taesd").rename(root / TAESD)
    (root / LORA).parent.mkdir()
    (model / "lcm_lora").rename(root / LORA)
    assert (root / LORA / LORA_FILE).is_file()
    shutil.copy(model / "unet/diffusion_pytorch_model.safetensors", model / HALF)
    (model / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (model / "dreamshaper.safetensors").write_bytes(b"the same in one file")
    for seed, name in enumerate(CONTROLNETS):
        write_tiny_controlnet(root / name, unet, seed=seed)
        (root / name / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    make_depth_model().save_pretrained(root / DEPTH)
    (root / DEPTH / "preprocessor_config.json").write_text("{}")
    write_tiny_adapter((root / ADAPTER[0] / ADAPTER[1]).parent, Path(ADAPTER[1]).name, unet)


def offer_upstream(hub: FakeHub, root: Path) -> None:
    """Have `hub` give what `write_upstream` wrote."""
    for name in (MODEL, LORA, TAESD, DEPTH, ADAPTER[0], *CONTROLNETS):
        hub.add(name, root / name)


__all__ = [
    "ADAPTER",
    "CONTROLNETS",
    "DEPTH",
    "HALF",
    "LORA",
    "MODEL",
    "SHIPPED",
    "TAESD",
    "offer_upstream",
    "write_upstream",
]
