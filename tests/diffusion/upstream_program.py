"""Runs upstream over all cases: `python -m tests.diffusion.upstream_program PACKAGE_FOLDER MODEL ANSWERS`."""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.support.upstream import load
from sdstream.diffusion.libraries import diffusers
from tests.diffusion import upstream


def run(made: Any, pipe: Any, case: upstream.Case) -> tuple[torch.Tensor, torch.Tensor]:
    stream: Any = made(
        pipe,
        upstream.STEPS[case.slots],
        torch_dtype=torch.float32,
        width=upstream.SIZE,
        height=upstream.SIZE,
        do_add_noise=case.renoise,
        use_denoising_batch=case.batched,
        cfg_type=case.guidance,
    )
    stream.prepare(
        upstream.PROMPT,
        upstream.NEGATIVE,
        num_inference_steps=50,
        guidance_scale=case.scale,
        delta=case.delta,
        generator=torch.Generator(),
        seed=upstream.SEED,
    )
    latents: list[torch.Tensor] = []
    predict = stream.predict_x0_batch

    def listen(noisy: torch.Tensor) -> torch.Tensor:
        latents.append(predict(noisy).clone())
        return latents[-1]

    stream.predict_x0_batch = listen
    images = [stream(picture) for picture in upstream.pictures()]
    return torch.cat(latents), torch.cat(images)


def main() -> None:
    package, model, answers = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    stream_diffusion = load(package)

    taesd = diffusers.AutoencoderTiny.from_pretrained(model / "taesd")
    pipe: Any = diffusers.StableDiffusionPipeline.from_pretrained(model, vae=taesd)
    made: dict[str, torch.Tensor] = {}
    for case in upstream.cases():
        latent, image = run(stream_diffusion, pipe, case)
        made[f"{case.name}/latent"], made[f"{case.name}/image"] = latent, image
    save_file(made, answers)


if __name__ == "__main__":
    main()
