"""ControlNets, IP-Adapters, attention to earlier pictures and latent feedback, against diffusers and plain twins."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from sdstream.diffusion.adapters import ImageAdapter, layer_strengths, make_adapter
from sdstream.diffusion.attention import Exchange, bank_length, cross_layers, install, self_layers
from sdstream.diffusion.conditioned import ConditionedNetworks
from sdstream.diffusion.controls import Controls, window
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.question import Question, Subject
from sdstream.diffusion.state import Recall, Steering, Style, make_memory, row, stack
from sdstream.diffusion.tiny_conditions import EMBEDDING, make_tiny_adapter, make_tiny_controlnet
from sdstream.params.vocabulary import WeightType
from tests.diffusion.runs import SIZE, distance, frame_of, knobs_of, pictures, run

Load = Callable[..., Model]
PROMPT, NEGATIVE = "the cat", "an hat"


def steering(scales: Sequence[Sequence[float]], channels: int = 3) -> Steering:
    """`scales` by slot and net."""
    values = torch.tensor(scales)
    return Steering(values, channels * values.shape[1], SIZE, SIZE)


def control_frame(model: Model, nets: Sequence[Any], slots: int, guidance: Any = "none", **options: Any) -> Frame:
    return frame_of(model, slots, guidance, controls=Controls(nets), **options)


def reference(model: Model, kind: Any, **parts: Any) -> Any:
    """A plain pipeline of diffusers over the same networks."""
    networks: dict[str, Any] = {"unet": model.unet, "vae": model.vae, "scheduler": diffusers.LCMScheduler()}
    encoders = model.prompts.encoders
    names = ("", "_2") if model.family == "sdxl-turbo" else ("",)
    for name, encoder in zip(names, encoders, strict=True):
        networks |= {f"text_encoder{name}": encoder.model, f"tokenizer{name}": encoder.tokenizer}
    if model.family != "sdxl-turbo":
        networks |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    networks["scheduler"] = diffusers.LCMScheduler(**config)
    pipeline = kind(**networks, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Given:
    """Gives diffusers the noises that a frame is given, in the order in which it asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, noises: torch.Tensor) -> None:
        self.rest = list(noises)

        def draw(shape: Any, *arguments: Any, **options: Any) -> torch.Tensor:
            return self.rest.pop(0).view(shape)

        from diffusers.schedulers import scheduling_lcm

        monkeypatch.setattr(module, "randn_tensor", draw)
        monkeypatch.setattr(scheduling_lcm, "randn_tensor", draw)


@pytest.mark.parametrize(
    ("steps", "scales", "windows"),
    [
        ((0,), [0.7], [(0.0, 1.0)]),
        ((0,), [0.7, 0.4], [(0.0, 1.0), (0.0, 1.0)]),
        ((0, 25), [1.5], [(0.0, 0.5)]),
        ((0, 25), [0.8, 0.5], [(0.5, 1.0), (0.0, 1.0)]),
    ],
)
def test_controlnets_are_those_of_the_plain_pipeline(
    tiny_model: Load,
    monkeypatch: pytest.MonkeyPatch,
    steps: tuple[int, ...],
    scales: list[float],
    windows: list[tuple[float, float]],
) -> None:
    from diffusers.pipelines.controlnet import pipeline_controlnet_img2img as module

    model = tiny_model("sd15")
    nets = [make_tiny_controlnet(model.unet, seed=index) for index in range(len(scales))]
    in_window = [window(*one, len(steps)) for one in windows]
    pairs = list(zip(scales, in_window, strict=True))
    by_slot = [[scale * kept[slot] for scale, kept in pairs] for slot in range(len(steps))]
    knobs = knobs_of(model, steps, prompt=PROMPT, steering=steering(by_slot))
    image, *controls = pictures(1 + len(nets))
    frame = control_frame(model, nets, len(steps), batched=False)
    made = frame(torch.cat((image, *controls), 1), knobs, make_memory(knobs)).image.clamp(0, 1)

    pipeline = reference(
        model, diffusers.StableDiffusionControlNetImg2ImgPipeline, controlnet=nets if len(nets) > 1 else nets[0]
    )
    Given(monkeypatch, module, knobs.noise[0])
    one = len(nets) == 1
    expected = pipeline(
        PROMPT,
        image=image,
        control_image=controls[0] if one else controls,
        num_inference_steps=len(steps),
        strength=1.0,
        guidance_scale=1.0,
        controlnet_conditioning_scale=scales[0] if one else scales,
        control_guidance_start=windows[0][0] if one else [start for start, _ in windows],
        control_guidance_end=windows[0][1] if one else [end for _, end in windows],
        output_type="pt",
    ).images
    assert distance(made, expected) < 1e-4
    without = frame_of(model, len(steps), "none", batched=False)(image, knobs, make_memory(knobs))
    assert distance(without.image, made) > 1e-3


def test_controlnets_of_sdxl_are_those_of_the_plain_pipeline(tiny_model: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.controlnet import pipeline_controlnet_sd_xl_img2img as module

    model = tiny_model("sdxl-turbo")
    net = make_tiny_controlnet(model.unet)
    knobs = knobs_of(model, (0,), prompt=PROMPT, steering=steering([[0.6]]))
    image, control = pictures(2)
    made = control_frame(model, [net], 1)(torch.cat((image, control), 1), knobs, make_memory(knobs)).image.clamp(0, 1)
    pipeline = reference(
        model, diffusers.StableDiffusionXLControlNetImg2ImgPipeline, controlnet=net, add_watermarker=False
    )
    Given(monkeypatch, module, knobs.noise[0])
    expected = pipeline(
        PROMPT,
        image=image,
        control_image=control,
        num_inference_steps=1,
        strength=1.0,
        guidance_scale=1.0,
        controlnet_conditioning_scale=0.6,
        output_type="pt",
    ).images
    assert distance(made, expected) < 1e-4


@pytest.mark.parametrize("guidance", ["none", "self", "initialize", "full"])
def test_scale_0_is_no_controlnet(tiny_model: Load, guidance: str) -> None:
    model = tiny_model("sd-turbo")
    net = make_tiny_controlnet(model.unet)
    images = pictures(3)
    off = knobs_of(model, guidance=1.6, steering=steering([[0.0], [0.0]]))
    with_net = run(control_frame(model, [net], 2, guidance), off, [torch.cat((one, one), 1) for one in images])
    without = run(frame_of(model, 2, guidance), knobs_of(model, guidance=1.6), images)
    assert all(torch.equal(a.image, b.image) for a, b in zip(with_net, without, strict=True))


def test_a_control_picture_stays_with_its_own_picture(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    net = make_tiny_controlnet(model.unet)
    knobs = knobs_of(model, (0, 1), steering=steering([[0.8], [0.8]]))
    inputs = [torch.cat((one, torch.full_like(one, index % 2)), 1) for index, one in enumerate(pictures(4))]
    together = run(control_frame(model, [net], 2), knobs, inputs)
    apart = run(control_frame(model, [net], 2, batched=False), knobs, inputs)
    for after, alone in zip(together[1:], apart, strict=False):
        assert distance(after.image, alone.image) < 1e-4
    newest = run(control_frame(model, [net], 2, aligned=False), knobs, inputs)
    assert distance(newest[-1].image, together[-1].image) > 1e-3


def test_streams_with_pictures_and_scales_of_their_own_are_those_alone(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    nets = [make_tiny_controlnet(model.unet), make_tiny_controlnet(model.unet, channels=6, seed=1)]
    frame = control_frame(model, nets, 2, "initialize")

    def of(first: float, second: float, seed: int) -> Any:
        shape = Steering(torch.tensor([[first, second]] * 2), 9, SIZE, SIZE)
        return knobs_of(model, seed=seed, guidance=1.5, steering=shape)

    knobs = [of(0.3, 0.9, 1), of(1.2, 0.0, 2), of(0.0, 0.0, 3)]
    inputs = [torch.cat(pictures(4, seed=seed), 1) for seed in range(3)]
    together = run(frame, stack(knobs), [torch.cat(inputs)] * 3)
    for index, own in enumerate(knobs):
        alone = run(frame, own, [inputs[index]] * 3)
        assert distance(together[-1].image[index : index + 1], alone[-1].image) < 1e-4


def adapter_of(model: Model, *, face: bool = False) -> ImageAdapter:
    return make_adapter(model.unet, make_tiny_adapter(model.unet, face=face))


def adapted(model: Model, adapter: ImageAdapter, slots: int, guidance: Any = "none") -> Frame:
    networks = ConditionedNetworks(model.unet, model.vae, image_layers=adapter.layers, changes=adapter.changes)
    return Frame(networks, slots=slots, guidance=guidance, prediction=model.schedule.prediction)


def style_of(adapter: ImageAdapter, scale: float, seed: int = 0, kind: WeightType = "linear") -> Style:
    embedding = torch.randn(EMBEDDING, generator=torch.Generator().manual_seed(seed))
    strengths = layer_strengths(adapter.layer_names, kind, scale, "sd15")
    return Style(*adapter.tokens(embedding), strengths)


@pytest.mark.parametrize("face", [None, "projection", "changes"])
@pytest.mark.parametrize("family", ["sd15", "sdxl-turbo"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_ip_adapter_is_that_of_the_plain_pipeline(
    tiny_directory: Callable[..., Any],
    tiny_model: Load,
    monkeypatch: pytest.MonkeyPatch,
    face: str | None,
    family: str,
    guidance: float,
) -> None:
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as plain
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img as xl

    from sdstream.diffusion.loading.models import load_model

    model = tiny_model(family)
    state = make_tiny_adapter(model.unet, face=face is not None, changes=face == "changes")
    adapter = make_adapter(model.unet, state)
    embedding = torch.randn(EMBEDDING, generator=torch.Generator().manual_seed(3))
    style = Style(*adapter.tokens(embedding), layer_strengths(adapter.layer_names, "linear", 0.7, family))
    knobs = knobs_of(model, (0,), prompt=PROMPT, negative=NEGATIVE, guidance=guidance, style=style)
    frame = adapted(model, adapter, 1, "full" if guidance > 1 else "none")
    (image,) = pictures(1)
    made = frame(image, knobs, make_memory(knobs)).image.clamp(0, 1)

    own = load_model(tiny_directory(family), model.family, torch.device("cpu"))  # diffusers changes what it is given
    is_xl = family == "sdxl-turbo"
    kind = diffusers.StableDiffusionXLImg2ImgPipeline if is_xl else diffusers.StableDiffusionImg2ImgPipeline
    pipeline = reference(own, kind, **({"add_watermarker": False} if is_xl else {}))
    other: Any = own.unet
    other._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    for number, lora in other._load_ip_adapter_loras([state]).items():
        pytest.importorskip("peft", reason="diffusers needs it for the changes of adapters of faces")
        pipeline.load_lora_weights(lora, adapter_name=f"faceid_{number}")
    pipeline.set_ip_adapter_scale(0.7)
    # Guidance of diffusers' LCM models comes from an embedding that these have none of; theirs is the plain one.
    Given(monkeypatch, xl if is_xl else plain, knobs.noise[0])
    given = embedding.view(1, 1, -1)
    expected = pipeline(
        PROMPT,
        image=image,
        negative_prompt=NEGATIVE,
        num_inference_steps=1,
        strength=1.0,
        guidance_scale=guidance,
        ip_adapter_image_embeds=[torch.cat((torch.zeros_like(given), given)) if guidance > 1 else given],
        output_type="pt",
    ).images
    assert distance(made, expected) < 1e-4
    off = frame(image, knobs._replace(strengths=torch.zeros_like(knobs.strengths)), make_memory(knobs)).image
    assert distance(off.clamp(0, 1), expected) > 1e-3


def test_strength_0_is_no_adapter_and_the_model_is_left_as_it_was(tiny_model: Load) -> None:
    model = tiny_model("sd15")
    images = pictures(3)
    before = run(frame_of(model, 2), knobs_of(model, guidance=1.5), images)
    adapter = adapter_of(model)
    frame = adapted(model, adapter, 2, "self")
    off = run(frame, knobs_of(model, guidance=1.5, style=style_of(adapter, 0.0)), images)
    on = run(frame, knobs_of(model, guidance=1.5, style=style_of(adapter, 0.8)), images)
    after = run(frame_of(model, 2), knobs_of(model, guidance=1.5), images)
    for one, other, third, last in zip(before, off, after, on, strict=True):
        assert distance(other.image, one.image) < 1e-6
        assert torch.equal(one.image, third.image)
        assert distance(last.image, one.image) > 1e-3


def test_streams_with_style_images_of_their_own_are_those_alone(tiny_model: Load) -> None:
    model = tiny_model("sd15")
    adapter = adapter_of(model)
    frame = adapted(model, adapter, 2, "initialize")
    styles = [style_of(adapter, 0.9, 1), style_of(adapter, 0.2, 2, "ease in"), style_of(adapter, 0.0, 3)]
    knobs = [knobs_of(model, seed=index, guidance=1.5, style=style) for index, style in enumerate(styles)]
    inputs = pictures(3)
    together = run(frame, stack(knobs), [torch.cat(inputs)] * 3)
    for index, own in enumerate(knobs):
        alone = run(frame, own, [inputs[index]] * 3)
        assert distance(together[-1].image[index : index + 1], alone[-1].image) < 1e-4


FULL_SDXL = [
    *(f"down_blocks.{block}.attentions.{index}" for block in (1, 2) for index in (0, 1)),
    "mid_block.attentions.0",
    *(f"up_blocks.{block}.attentions.{index}" for block in (0, 1) for index in range(3)),
]


def test_each_type_of_weight_spreads_the_strength_in_its_way() -> None:
    from typing import get_args

    names = [f"{module}.transformer_blocks.{block}.attn2" for module in FULL_SDXL for block in (0, 1)]
    spread = {kind: layer_strengths(names, kind, 2.0, "sdxl-turbo") for kind in get_args(WeightType)}
    assert len(spread) == 15
    assert len({tuple(values.tolist()) for values in spread.values()}) == 15
    assert all(torch.equal(values[::2], values[1::2]) for values in spread.values()), "blocks of a module are alike"
    by_module = {kind: values[::2].tolist() for kind, values in spread.items()}
    assert by_module["linear"] == [2.0] * 11
    assert by_module["style transfer"] == [2.0 if name == "up_blocks.0.attentions.1" else 0.0 for name in FULL_SDXL]
    assert by_module["composition"] == [2.0 if name == "down_blocks.2.attentions.1" else 0.0 for name in FULL_SDXL]
    assert by_module["weak input"][:4] == pytest.approx([0.4] * 4)
    assert by_module["strong middle"][4] == 2.0
    assert by_module["ease in"] == sorted(by_module["ease in"], reverse=True)
    assert by_module["ease out"] == sorted(by_module["ease out"])
    assert min(by_module["style transfer precise"]) < 0 < max(by_module["style transfer precise"])


@pytest.mark.parametrize("kind", ["style transfer", "composition", "composition precise"])
def test_types_that_name_modules_reach_one_in_a_small_network(tiny_model: Load, kind: WeightType) -> None:
    for family in ("sd15", "sdxl-turbo"):
        names = cross_layers(tiny_model(family).unet)
        assert float(layer_strengths(names, kind, 1.0, family).abs().max()) > 0


NEUTRAL = 1e-6
"""Of the picture's norm. Float32's own rounding of the same networks, against float64, is 6e-7 to 8e-7."""


def norm_of_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def recalling(model: Model, slots: int, guidance: Any = "self", **options: Any) -> Frame:
    latent = model.latent_shape(SIZE, SIZE)
    networks = ConditionedNetworks(model.unet, model.vae, recalls=latent[1:])
    return Frame(networks, slots=slots, guidance=guidance, prediction=model.schedule.prediction, **options)


def recall_of(model: Model, frames: int = 1, every: int = 1) -> Recall:
    return Recall(frames, bank_length(self_layers(model.unet, *model.latent_shape(SIZE, SIZE)[1:])), every)


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo", "sd15"])
@pytest.mark.parametrize("guidance", ["self", "initialize", "full"])
def test_the_first_picture_is_as_without_earlier_ones(tiny_model: Load, family: str, guidance: str) -> None:
    model = tiny_model(family)
    (image,) = pictures(1)
    knobs = knobs_of(model, (32,), guidance=1.5, recall=recall_of(model, 3))
    with_bank = recalling(model, 1, guidance)(image, knobs, make_memory(knobs))
    plain = knobs_of(model, (32,), guidance=1.5)
    without = frame_of(model, 1, guidance)(image, plain, make_memory(plain))
    assert norm_of_difference(with_bank.image, without.image) < NEUTRAL
    assert float(with_bank.memory.bank.abs().max()) > 0


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo"])
def test_a_bank_of_its_own_keys_is_neutral_to_the_last_digits(tiny_model: Load, family: str) -> None:
    """In float64, where rounding hides nothing: doubled keys halve each weight, and their sum is the same."""
    model = tiny_model(family)
    latent = model.latent_shape(SIZE, SIZE)
    unet = copy.deepcopy(model.unet).double()
    sample = torch.randn(1, *latent, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    text, time_ids = model.prompts.encode(PROMPT).conditioning, model.time_ids(SIZE, SIZE)
    given: dict[str, Any] = {"encoder_hidden_states": text.tokens.double().view(1, -1, text.tokens.shape[-1])}
    if time_ids is not None:
        added = {"text_embeds": text.pooled.double().view(1, -1), "time_ids": time_ids.double().view(1, -1)}
        given["added_cond_kwargs"] = added
    plain = unet(sample, 400, **given).sample
    exchange, layers = Exchange(), self_layers(unet, *latent[1:])
    install(unet, exchange, recalling=layers)
    exchange.bank = torch.zeros(1, 3, bank_length(layers), dtype=torch.float64)
    for fresh in (True, False):
        exchange.fresh = torch.tensor([fresh])
        exchange.own = []
        with_bank = unet(sample, 400, **given).sample
        assert float((with_bank - plain).abs().max()) < 1e-10
        exchange.bank = torch.cat(exchange.own, 1)[:, None].expand(1, 3, -1)
    exchange.bank = torch.zeros(1, 3, bank_length(layers), dtype=torch.float64)
    assert float((unet(sample, 400, **given).sample - plain).abs().max()) > 1e-4, "a bank of zeros is not neutral"


def test_a_still_scene_stays_as_without_earlier_pictures(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    (image,) = pictures(1)
    knobs = knobs_of(model, (32,), guidance=1.0, recall=recall_of(model, 2))
    still = run(recalling(model, 1, "none"), knobs, [image] * 4)
    plain = run(frame_of(model, 1, "none"), knobs_of(model, (32,)), [image])
    assert norm_of_difference(still[-1].image, plain[-1].image) < NEUTRAL, "a bank of its own keys is neutral"


def test_earlier_pictures_calm_a_noisy_scene(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    generator = torch.Generator().manual_seed(0)
    (base,) = pictures(1)
    noisy = [(base + 0.1 * torch.randn(base.shape, generator=generator)).clamp(0, 1) for _ in range(12)]

    def flicker(frame: Frame, knobs: Any) -> float:
        results = torch.stack([result.image for result in run(frame, knobs, noisy)][2:])
        return float(results.var(0).mean())

    # Early steps, where the picture is the network's own and not the camera's.
    alone = flicker(frame_of(model, 1, "none"), knobs_of(model, (5,)))
    calmed = flicker(recalling(model, 1, "none"), knobs_of(model, (5,), recall=recall_of(model, 4)))
    assert calmed < alone


def test_pictures_are_kept_at_their_interval_newest_first(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model, (32,), recall=recall_of(model, 2, every=3))
    results = run(recalling(model, 1, "none"), knobs, pictures(7))
    banks = [result.memory.bank[0, 0] for result in results]
    assert torch.equal(banks[0][0], banks[0][1]), "the first fills all places"
    assert torch.equal(banks[1], banks[0])
    assert not torch.equal(banks[2][0], banks[1][0])
    assert torch.equal(banks[2][1], banks[1][0])
    assert torch.equal(banks[4], banks[2])
    assert torch.equal(banks[5][1], banks[2][0])


def test_slots_that_have_had_no_picture_leave_nothing_in_the_bank(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    (image,) = pictures(1)
    knobs = knobs_of(model, (10, 40), recall=recall_of(model, every=100))
    together = run(recalling(model, 2, "none"), knobs, [image] * 4)
    apart = run(recalling(model, 2, "none", batched=False), knobs, [image] * 3)
    for after, alone in zip(together[1:], apart, strict=True):
        assert distance(after.image, alone.image) < 1e-4
    assert distance(together[-1].memory.bank, apart[-1].memory.bank) < 1e-4


def test_streams_with_banks_of_their_own_are_those_alone(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    frame = recalling(model, 2, "initialize")
    knobs = [knobs_of(model, seed=seed, guidance=1.5, recall=recall_of(model, 2, seed + 1)) for seed in range(2)]
    inputs = [pictures(5, seed=seed) for seed in range(2)]
    together = run(frame, stack(knobs), [torch.cat(pair) for pair in zip(*inputs, strict=True)])
    for index, own in enumerate(knobs):
        alone = run(frame, own, inputs[index])
        assert distance(together[-1].image[index : index + 1], alone[-1].image) < 1e-4
        assert distance(row(together[-1].memory, index).bank, alone[-1].memory.bank) < 1e-4


@pytest.mark.parametrize("which", [0, 1])
def test_latent_feedback_mixes_the_latent_that_left_last(tiny_model: Load, which: int) -> None:
    model = tiny_model("sd-turbo")
    images = pictures(2)
    frame = frame_of(model, 1, "none")
    share = (0.3, 0.0) if which == 0 else (0.0, 0.3)
    first, second = run(frame, knobs_of(model, (40,), calm=share), images)
    plain_first, plain_second = run(frame, knobs_of(model, (40,)), images)
    assert torch.equal(first.image, plain_first.image), "nothing left before the first"
    if which == 1:
        assert distance(second.latent, 0.7 * plain_second.latent + 0.3 * plain_first.latent) < 1e-5
        return
    vae: Any = model.vae
    encoded = vae.encode(images[1] * 2 - 1, return_dict=False)[0] * frame.networks.scaling_factor
    mixed = 0.7 * encoded + 0.3 * plain_first.latent
    knobs = knobs_of(model, (40,))
    noisy = knobs.alpha[:, 0] * mixed + knobs.beta[:, 0] * knobs.noise[:, 0]
    networks = EagerNetworks(model.unet, model.vae)
    noise = networks.predict(Question(noisy, Subject(knobs.timesteps[0], knobs.prompt)))
    if model.schedule.prediction == "v_prediction":
        noise = knobs.alpha[:, 0] * noise + knobs.beta[:, 0] * noisy
    expected = knobs.out[:, 0] * (noisy - knobs.beta[:, 0] * noise) / knobs.alpha[:, 0] + knobs.skip[:, 0] * noisy
    assert distance(second.latent, expected) < 1e-4


def test_all_of_it_in_one_frame_exports_without_a_look_at_a_value(tiny_model: Load) -> None:
    model = tiny_model("sd15")
    adapter = adapter_of(model)
    latent = model.latent_shape(SIZE, SIZE)
    networks = ConditionedNetworks(model.unet, model.vae, image_layers=adapter.layers, recalls=latent[1:])
    controls = Controls([make_tiny_controlnet(model.unet)])
    frame = Frame(networks, slots=2, guidance="initialize", prediction=model.schedule.prediction, controls=controls)
    options: dict[str, Any] = {"guidance": 1.5, "recall": recall_of(model, 2), "calm": (0.1, 0.1)}
    knobs = knobs_of(model, steering=steering([[0.5], [0.5]]), style=style_of(adapter, 0.6), **options)
    image = torch.cat(pictures(2), 1)
    memory = make_memory(knobs)
    exported = torch.export.export(frame, (image, knobs, memory), strict=False).module()
    turned = knobs_of(
        model, steering=steering([[0.1], [0.9]]), style=style_of(adapter, 0.2, 4, "ease out"), seed=9, **options
    )
    result, expected = exported(image, turned, memory), frame(image, turned, memory)
    assert distance(result[0], expected.image) < 1e-5
    second, twin = exported(image, turned, result[2]), frame(image, turned, expected.memory)
    assert distance(second[0], twin.image) < 1e-5
