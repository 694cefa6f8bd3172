"""Writes the golden file anew: `python -m tests.diffusion.upstream_golden`. Needed when the tiny model changes."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from sdstream.diffusion.loading.models import load_model
from sdstream.diffusion.tiny import write_tiny_model
from tests.diffusion import upstream

GOLDEN = Path(__file__).parent / "upstream.safetensors"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "sd-turbo")
        write_tiny_model(directory, "sd-turbo", width=16)
        answers = upstream.run_upstream(directory, Path(folder, "answers.safetensors"))
        kept = {"fingerprint": upstream.fingerprint(load_model(directory, "sd-turbo", torch.device("cpu")))}
    for case in upstream.cases():
        latent, image = upstream.digest(answers[f"{case.name}/latent"], answers[f"{case.name}/image"])
        kept[f"{case.name}/latent"], kept[f"{case.name}/image"] = latent.clone(), image
    save_file(kept, GOLDEN)


if __name__ == "__main__":
    main()
