"""The frame against a plain loop over diffusers' scheduler, its twin, and what it must never do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdstream.diffusion.frame import Frame
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.planes import packed_from_rgb
from sdstream.diffusion.state import make_memory
from sdstream.settings import Family
from tests.diffusion.runs import SIZE, STEPS, distance, frame_of, knobs_of, pictures, run

Load = Callable[..., Model]
FAMILIES: tuple[Family, ...] = ("sd-turbo", "sdxl-turbo", "sd15")


def plain_loop(model: Model, image: torch.Tensor, slots: int, full_guidance: float | None = None) -> torch.Tensor:
    """The latent of one picture by diffusers' modules and its `LCMScheduler.step` alone, no batch of ours."""
    knobs = knobs_of(model, STEPS[slots])
    unet: Any = model.unet
    vae: Any = model.vae
    scheduler = diffusers.LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=model.schedule.prediction
    )
    scheduler.set_timesteps(50)
    encoded = vae.encode(image * 2 - 1)
    latent = encoded.latents if model.has_taesd else encoded.latent_dist.mean
    noise = knobs.noise[0]
    timesteps = knobs.timesteps[0]
    noisy = scheduler.add_noise(latent * vae.config.scaling_factor, noise[:1], timesteps[:1])
    denoised = noisy
    for index, timestep in enumerate(timesteps):
        scheduler._step_index = int((scheduler.timesteps == timestep).nonzero()[0])
        predicted = _predict(model, unet, noisy, timestep, knobs.prompt, knobs.pooled_prompt, knobs.time_ids)
        if full_guidance is not None:
            against = _predict(model, unet, noisy, timestep, knobs.negative, knobs.pooled_negative, knobs.time_ids)
            predicted = against + full_guidance * (predicted - against)
        denoised = scheduler.step(predicted, timestep, noisy).denoised
        if index < slots - 1:
            noisy = scheduler.add_noise(denoised, noise[index + 1 : index + 2], timesteps[index + 1 : index + 2])
    return denoised


def _predict(model: Model, unet: Any, noisy: Any, timestep: Any, prompt: Any, pooled: Any, ids: Any) -> Any:
    extra = {"text_embeds": pooled, "time_ids": ids} if model.family == "sdxl-turbo" else None
    return unet(noisy, timestep, prompt, added_cond_kwargs=extra).sample


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_still_picture_is_that_of_a_plain_lcm_loop(tiny_model: Load, family: Family, prediction: str) -> None:
    model = tiny_model(family, prediction)
    image = pictures(1)[0]
    for slots in (1, 3):
        last = run(frame_of(model, slots, "none"), knobs_of(model, STEPS[slots]), [image] * slots)[-1]
        assert distance(last.latent, plain_loop(model, image, slots)) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_full_guidance_is_that_of_a_plain_lcm_loop(tiny_model: Load, family: Family, prediction: str) -> None:
    model = tiny_model(family, prediction)
    image = pictures(1)[0]
    last = run(frame_of(model, 2, "full"), knobs_of(model, guidance=3.0), [image] * 2)[-1]
    guided = plain_loop(model, image, 2, full_guidance=3.0)
    assert distance(last.latent, guided) < 1e-4
    assert distance(plain_loop(model, image, 2), guided) > 1e-3, "the negative prompt does nothing"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_at_one_slot_the_begun_residual_is_full_guidance(tiny_model: Load, prediction: str) -> None:
    model = tiny_model("sd-turbo", prediction)
    knobs = knobs_of(model, STEPS[1], guidance=2.0)
    full, begun = (run(frame_of(model, 1, kind), knobs, pictures(3)) for kind in ("full", "initialize"))
    assert all(distance(a.latent, b.latent) < 1e-5 for a, b in zip(full, begun, strict=True))


def test_the_full_vae_is_used_by_its_mean(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo", taesd=False)
    assert not model.has_taesd
    image = pictures(1)[0]
    knobs = knobs_of(model, STEPS[1])
    once, again = (run(frame_of(model, 1, "none"), knobs, [image])[0] for _ in range(2))
    assert torch.equal(once.latent, again.latent)
    assert distance(once.latent, plain_loop(model, image, 1)) < 1e-4


@pytest.mark.parametrize("guidance", ["none", "self", "initialize", "full"])
@pytest.mark.parametrize("renoise", [True, False])
def test_the_batched_frame_is_its_sequential_twin_a_little_later(
    tiny_model: Load, guidance: str, renoise: bool
) -> None:
    model = tiny_model("sd-turbo")
    for slots in (1, 4):
        knobs = knobs_of(model, STEPS[slots], guidance=1.7, delta=0.6, renoise=renoise)
        images = pictures(slots + 2)
        late = run(frame_of(model, slots, guidance), knobs, images)[slots - 1 :]
        at_once = run(frame_of(model, slots, guidance, batched=False), knobs, images)
        for one, other in zip(late, at_once, strict=False):
            assert distance(one.latent, other.latent) < 1e-4
            assert distance(one.image, other.image) < 1e-4


def test_self_guidance_at_one_slot_is_steady_where_upstream_grows(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model, (16,), guidance=2.0)
    images = pictures(12)
    cured = run(frame_of(model, 1), knobs, images)
    upstream = run(frame_of(model, 1, compat=True), knobs, images)
    assert max(result.latent.abs().max().item() for result in cured) < 100
    assert upstream[-1].latent.abs().max() > 100 * cured[-1].latent.abs().max()
    again = run(frame_of(model, 1), knobs, images[-1:])[0]
    assert distance(again.latent, cured[-1].latent) < 1e-5, "earlier pictures leave no trace at one slot"


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("guidance", ["self", "initialize", "full"])
def test_guidance_up_to_one_is_off(tiny_model: Load, guidance: str, scale: float) -> None:
    model = tiny_model("sd-turbo")
    images = pictures(3)
    off = run(frame_of(model, 2, guidance), knobs_of(model, guidance=scale), images)
    none = run(frame_of(model, 2, "none"), knobs_of(model), images)
    assert all(distance(a.latent, b.latent) < 1e-5 for a, b in zip(off, none, strict=True))


def test_guidance_that_is_off_is_not_touched_by_an_endless_residual(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model, STEPS[1], guidance=1.0)
    memory = make_memory(knobs)
    memory.residual.fill_(float("inf"))
    result = run(frame_of(model, 1, compat=True), knobs, pictures(1), memory)[0]
    assert result.latent.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "planes"), [("sd-turbo", True), ("sdxl-turbo", False)])
def test_the_exported_frame_never_waits_for_the_host_and_draws_nothing(
    tiny_model: Load, family: Family, planes: bool
) -> None:
    model = tiny_model(family, taesd=False)  # the VAE that could draw
    frame = frame_of(model, 2, "initialize", whole=planes)
    knobs = knobs_of(model, guidance=2.0)
    image = packed_from_rgb(pictures(1)[0]) if planes else pictures(1)[0]
    program = torch.export.export(frame, (image, knobs, make_memory(knobs)), strict=False)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len(names) > 100
    for forbidden in ("_local_scalar_dense", "item", "rand", "nonzero", "is_nonzero", "_assert_async", "_to_cpu"):
        assert not [name for name in names if f"aten.{forbidden}" in name]
    exported: Any = program.module()
    changed = knobs_of(
        model, (5, 20), prompt="a dog", negative="in rain", seed=9, guidance=3.0, delta=0.4, renoise=False
    )
    memory = run(frame, knobs, pictures(2))[-1].memory
    ours = frame(image, changed, memory)
    theirs = exported(image, changed, memory)
    assert distance(theirs.latent, ours.latent) < 1e-5
    assert not planes or (theirs.planes.int() - ours.planes.int()).abs().max() <= 1
    assert distance(theirs.memory.buffer, ours.memory.buffer) < 1e-5
    assert distance(ours.latent, frame(image, knobs, memory).latent) > 1e-3, "the knobs are constants of the graph"


def test_frames_that_mean_nothing_are_refused(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    with pytest.raises(ValueError, match="at least one slot"):
        frame_of(model, 0)
    with pytest.raises(ValueError, match="compat"):
        frame_of(model, 1, batched=False, compat=True)


def test_half_precision_networks_keep_single_precision_latents(tiny_model: Load) -> None:
    import copy

    model = tiny_model("sd-turbo")
    networks = EagerNetworks(copy.deepcopy(model.unet).bfloat16(), copy.deepcopy(model.vae).bfloat16())
    halves = Frame(networks, slots=2)
    result = run(halves, knobs_of(model, guidance=1.5), pictures(2))[-1]
    single = run(frame_of(model, 2), knobs_of(model, guidance=1.5), pictures(2))[-1]
    assert result.latent.dtype == result.memory.residual.dtype == result.image.dtype == torch.float32
    assert result.image.shape == (1, 3, SIZE, SIZE)
    assert distance(result.latent, single.latent) < 0.1
