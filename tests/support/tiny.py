"""Tiny models, ControlNets and IP-Adapters with random weights in the data directory of a server to be."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PROGRAM = """
import json, sys
from pathlib import Path
from diffusers import UNet2DConditionModel
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import EMBEDDING, write_tiny_adapter, write_tiny_controlnet
from sdstream.params.controlnets import CONTROLNETS
from sdstream.worker.files.published import ADAPTERS, DEPTH, FACES
from tests.worker.annotators import make_depth_model
from tests.worker.faces import write_tiny_faces

root, kinds = Path(sys.argv[1]), sys.argv[2].split(",")
make_depth_model().save_pretrained(root / DEPTH.repository)
for family in sys.argv[3:]:
    write_tiny_model(root / "tiny" / family, family, seed=0)
    unet = UNet2DConditionModel.from_pretrained(root / "tiny" / family, subfolder="unet")
    for seed, (name, facts) in enumerate(CONTROLNETS.items()):
        if facts.family == family and facts.kind in kinds:
            write_tiny_controlnet(root / name, unet, channels=facts.conditioning_channels, seed=seed)
    files = ADAPTERS.get((family, "regular"))
    if files is not None:
        file = root / files.repository / files.adapter
        encoder = root / files.repository / files.encoder
        write_tiny_adapter(file.parent, file.name, unet)
        if not encoder.exists():
            encoder.parent.mkdir(exist_ok=True)
            (file.parent / "image_encoder").rename(encoder)
    files = ADAPTERS.get((family, "faceid"))
    if files is not None:
        write_tiny_adapter(root / files.repository, files.adapter, unet, face=True)
        write_tiny_faces((root / FACES.repository / FACES.files[0]).parent, EMBEDDING)
"""
REPOSITORY = Path(__file__).parents[2]
IDS = {
    "sd-turbo": ("stabilityai/sd-turbo",),
    "sdxl-turbo": ("stabilityai/sdxl-turbo",),
    "sd15": ("Lykon/dreamshaper-8", "prompthero/openjourney-v4"),
}


KINDS = ("canny", "depth", "tile", "temporal")
"""Of ControlNets."""


def write_tiny_data(models: Path, families: Iterable[str], kinds: Iterable[str] = KINDS) -> None:
    """Fill the folder `models`, a depth network included.

    `kinds` are those of the ControlNets that are written, each under its public id.
    """
    models.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, "-c", PROGRAM, str(models), ",".join(kinds), *families]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def tiny_models(models: Path) -> str:
    """The value of the setting `models` that names what `write_tiny_data` wrote into this folder."""
    made = sorted(folder.name for folder in (models / "tiny").iterdir())
    return json.dumps({name: str(models / "tiny" / family) for family in made for name in IDS[family]})


__all__ = ["tiny_models", "write_tiny_data"]
