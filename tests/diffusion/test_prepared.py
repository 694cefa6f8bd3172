"""What is made once for each change of a knob is what the frame would make of it, and the frame makes none of it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdstream.diffusion.conditioned import ConditionedNetworks
from sdstream.diffusion.controls import Controls
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused.blocks import FusedCrossAttention, FusedResidualBlock
from sdstream.diffusion.fused.switch import plain_blocks
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.placing import place
from sdstream.diffusion.prepared import lay_out
from sdstream.diffusion.question import Question, Subject
from sdstream.diffusion.runners import EagerRunner
from sdstream.diffusion.state import Knobs, make_memory, stack, unprepared
from sdstream.diffusion.table import StreamTable
from sdstream.diffusion.tiny_conditions import make_tiny_adapter, make_tiny_controlnet
from sdstream.settings import Family
from tests.diffusion.runs import STEPS, distance, frame_of, knobs_of, pictures, run
from tests.diffusion.test_conditioning import adapter_of, recall_of, steering, style_of

Load = Callable[..., Model]
SIZE = 64
CPU = torch.device("cpu")


def without_sources(knobs: Knobs) -> Knobs:
    """Where the frame looks at what its networks were prepared with, it gives no number."""
    lost = {name: torch.full_like(getattr(knobs, name), torch.nan) for name in SOURCES}
    return knobs._replace(timesteps=torch.full_like(knobs.timesteps, -(10**6)), **lost)


SOURCES = ("prompt", "negative", "pooled_prompt", "pooled_negative", "time_ids", "style", "unstyled")


def assert_same(frame: Frame, knobs: Knobs, images: list[torch.Tensor]) -> None:
    """With and without `complete`, over some pictures; the switch brings back the plain way."""
    completed = frame.complete(knobs)
    assert completed.context.numel()
    assert completed.shifts.numel()
    plain = run(frame, knobs, images)
    made = run(frame, without_sources(completed), images)
    assert max(distance(one.image, other.image) for one, other in zip(made, plain, strict=True)) < 1e-5
    assert max(distance(one.latent, other.latent) for one, other in zip(made, plain, strict=True)) < 1e-5
    with plain_blocks():
        assert not run(frame, without_sources(completed), images[:1])[0].image.isfinite().any()
        assert not frame.complete(completed).context.numel()


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo", "sd15"])
@pytest.mark.parametrize("guidance", ["none", "self", "initialize", "full"])
@pytest.mark.parametrize("slots", [1, 4])
def test_a_frame_of_completed_knobs_is_the_plain_one(
    tiny_model: Load, family: Family, guidance: str, slots: int
) -> None:
    model = tiny_model(family)
    knobs = [knobs_of(model, STEPS[slots], guidance=1.5 + index, prompt=f"{index} cats") for index in range(2)]
    assert_same(frame_of(model, slots, guidance), stack(knobs), [torch.cat(pictures(2))] * 2)


@pytest.mark.parametrize("family", ["sdxl-turbo", "sd15"])
@pytest.mark.parametrize("guidance", ["self", "initialize", "full"])
def test_steps_that_follow_each_other_have_their_own_part(tiny_model: Load, family: Family, guidance: str) -> None:
    model = tiny_model(family)
    knobs = [knobs_of(model, STEPS[3], guidance=1.5 + index, prompt=f"{index} cats") for index in range(2)]
    frame = frame_of(model, 3, guidance, batched=False)
    assert_same(frame, stack(knobs), [torch.cat(pictures(2))] * 2)


@pytest.mark.parametrize("family", ["sdxl-turbo", "sd15"])
@pytest.mark.parametrize(
    ("guidance", "batched"), [("self", True), ("initialize", True), ("full", True), ("full", False)]
)
def test_controlnets_of_completed_knobs_are_the_plain_ones(
    tiny_model: Load, family: Family, guidance: str, batched: bool
) -> None:
    model = tiny_model(family)
    controls = controls_of(model, 2)
    frame = frame_of(model, 2, guidance, controls=controls, batched=batched)
    scales = steering([[0.5, 0.2], [0.7, 0.0]])
    knobs = stack([knobs_of(model, guidance=1.7, prompt=prompt, steering=scales) for prompt in ("a dog", "the cat")])
    without = frame_of(model, 2, guidance, batched=batched).complete(knobs)
    assert frame.complete(knobs).context.shape[2] > without.context.shape[2]
    image = torch.cat(pictures(2))
    assert_same(frame, knobs, [torch.cat((image, image, image.flip(2)), 1)] * 2)


@pytest.mark.parametrize("batched", [True, False])
def test_controlnets_follow_hot_changes_while_streams_come_and_go(tiny_model: Load, batched: bool) -> None:
    model = tiny_model("sd15")
    frame = frame_of(model, 2, "full", controls=controls_of(model, 1), batched=batched)

    def steered(prompt: str, steps: tuple[int, int], scale: float) -> Knobs:
        return knobs_of(model, steps, prompt=prompt, guidance=1.6, steering=steering([[scale], [scale / 2]]))

    stays = steered("the cat", (12, 32), 0.5)
    table = StreamTable(EagerRunner(frame), stays, 2)
    seats = {table.join(stays): (stays, make_memory(stays))}
    (first,) = seats
    image = torch.cat((pictures(1)[0], pictures(1, seed=3)[0]), 1)

    def each_is_as_alone() -> None:
        made = table.run(dict.fromkeys(seats, image))
        for seat, (knobs, memory) in seats.items():
            alone = frame(image, knobs, memory)
            seats[seat] = knobs, alone.memory
            assert distance(made[seat], alone.image) < 1e-4

    def turn(seat: int, knobs: Knobs) -> None:
        table.turn(seat, knobs)
        seats[seat] = knobs, seats[seat][1]

    each_is_as_alone()
    comes = steered("a dog", (5, 40), 0.9)
    second = table.join(comes)
    seats[second] = comes, make_memory(comes)
    each_is_as_alone()
    for knobs in (steered("rain", (5, 40), 0.9), steered("rain", (8, 20), 0.9), steered("rain", (8, 20), 0.0)):
        turn(second, knobs)
        each_is_as_alone()
    table.leave(second)
    del seats[second]
    turn(first, steered("a house", (1, 45), 1.2))
    each_is_as_alone()


def controls_of(model: Model, nets: int) -> Controls:
    """ControlNets as they are placed on a CPU."""
    return Controls([place(make_tiny_controlnet(model.unet, seed=seed), CPU) for seed in range(nets)])


@pytest.mark.parametrize("guidance", ["self", "initialize", "full"])
def test_a_style_image_and_earlier_pictures_and_controlnets_go_along(tiny_model: Load, guidance: Any) -> None:
    model = tiny_model("sd15")
    adapter = adapter_of(model, face=True)
    height, width = model.latent_shape(SIZE, SIZE)[1:]
    networks = ConditionedNetworks(
        model.unet, model.vae, image_layers=adapter.layers, changes=adapter.changes, recalls=(height, width)
    )
    nets = [place(make_tiny_controlnet(model.unet), CPU), make_tiny_controlnet(model.unet, seed=1)]
    frame = Frame(networks, slots=2, guidance=guidance, controls=Controls(nets))
    style = style_of(adapter, 0.8, kind="ease in")
    knobs = knobs_of(
        model, guidance=1.7, recall=recall_of(model, 2), style=style, steering=steering([[0.0, 0.2], [0.7, 0.3]])
    )
    completed = frame.complete(knobs)
    # The second ControlNet, whose blocks take nothing, looks at text and time as they are.
    images = [torch.cat((image, image, image), 1) for image in pictures(3)]
    plain, made = run(frame, knobs, images), run(frame, completed, images)
    assert max(distance(one.image, other.image) for one, other in zip(made, plain, strict=True)) < 1e-5
    assert distance(made[-1].memory.bank, plain[-1].memory.bank) < 1e-5
    other = completed._replace(context=completed.context * 1.5)
    assert distance(run(frame, other, images)[-1].image, plain[-1].image) > 1e-4


def test_sides_that_are_not_halved_evenly_come_up_again(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    networks = EagerNetworks(model.unet, model.vae)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 9, 7, generator=generator)
    texts = knobs_of(model).prompt.expand(2, -1, -1)
    times = torch.tensor([3, 500])
    prepared = networks.prepare(Subject(times, texts[:1]))
    assert prepared is not None
    question = Question(latents, Subject(times, texts))
    wanted = networks.predict(question)
    assert distance(networks.predict(question._replace(prepared=prepared)), wanted) < 1e-5


def test_what_is_prepared_counts_from_the_picture_after_a_change(tiny_model: Load) -> None:
    """Of knobs at their next turn, of weights that changed in place at the next refresh."""
    model = tiny_model("sd-turbo")
    networks = EagerNetworks(copy.deepcopy(model.unet), model.vae)
    frame = Frame(networks, slots=1, guidance="full")
    knobs = knobs_of(model, (32,), guidance=2.0)
    table = StreamTable(EagerRunner(frame), knobs, 2)
    seat = table.join(knobs)
    (image,) = pictures(1)

    def is_as_alone(knobs: Knobs) -> bool:
        wanted = frame(image, knobs, make_memory(knobs)).image
        return distance(table.run({seat: image})[seat], wanted) < 1e-5

    assert is_as_alone(knobs)
    turned = knobs_of(model, (20,), guidance=2.0, prompt="a dog", negative="rain")
    table.turn(seat, turned)
    assert is_as_alone(turned)
    for module in networks.unet.modules():
        if isinstance(module, FusedCrossAttention | FusedResidualBlock):
            layer: Any = module.to_k if isinstance(module, FusedCrossAttention) else module.conv1
            (layer.weight if layer.bias is None else layer.bias).mul_(2.0)
    assert not is_as_alone(turned)
    table.refresh()
    assert is_as_alone(turned)


def test_completed_knobs_can_be_exported_with_their_frame(tiny_model: Load) -> None:
    model = tiny_model("sdxl-turbo")
    frame = frame_of(model, 2, "full")
    first, second = (frame.complete(knobs_of(model, guidance=2.0, prompt=prompt)) for prompt in ("a dog", "the cat"))
    (image,) = pictures(1)
    exported = torch.export.export(frame, (image, first, make_memory(first)), strict=False).module()
    assert distance(exported(image, second, make_memory(second))[0], run(frame, second, [image])[0].image) < 1e-5


def test_where_nothing_is_prepared_the_frame_makes_it_itself(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model)
    unet: Any = copy.deepcopy(model.unet)
    block = next(module for module in unet.modules() if isinstance(module, FusedResidualBlock))
    block.__class__ = type(block).__mro__[1]
    assert lay_out(unet) is None
    frame = Frame(EagerNetworks(unet, model.vae), slots=2)
    assert not frame.complete(knobs).context.numel()
    images = pictures(1)
    assert distance(run(frame, frame.complete(knobs), images)[0].image, run(frame, knobs, images)[0].image) == 0.0
    completed = frame_of(model, 2).complete(knobs)
    assert all(tensor.shape[1:] == (0, 0) for tensor in unprepared(completed)[-2:])


def test_an_adapter_of_another_network_leaves_the_layout_of_the_first(tiny_model: Load) -> None:
    """Blocks are shared, and so are the places written into them."""
    model = tiny_model("sd15")
    frame, knobs = frame_of(model, 1), knobs_of(model, (32,))
    before = frame.complete(knobs)
    make_tiny_adapter(model.unet)
    ConditionedNetworks(model.unet, model.vae, recalls=model.latent_shape(SIZE, SIZE)[1:])
    after = frame.complete(knobs)
    assert torch.equal(before.context, after.context)
    assert torch.equal(before.shifts, after.shifts)
