"""A frame's own steps, joined into one each: the plain ones' answers, alone and in whole frames."""

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdstream.diffusion import latents, pictures
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused import pointwise, steps_trial, switch
from sdstream.diffusion.fused.pointwise import plain_add_bias, plain_doubled
from sdstream.diffusion.fused.steps_trial import made_up, remembered, try_steps, why_not
from sdstream.diffusion.fused.switch import are_steps_joined, join_steps_on, plain_blocks
from sdstream.diffusion.latents import Guidance, Way, closed, opened, plain_closed, plain_opened
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.pictures import delivered, picture_of_planes, plain_picture_of_planes, planes_of_picture
from sdstream.diffusion.planes import packed_from_rgb
from sdstream.diffusion.schedule import Prediction
from sdstream.diffusion.state import Knobs, make_memory, row, stack
from sdstream.diffusion.tiny import write_tiny_model
from tests.diffusion.runs import STEPS, distance, frame_of, knobs_of, run
from tests.diffusion.runs import pictures as some_pictures

Load = Callable[..., Model]
CPU = torch.device("cpu")
GUIDANCES: tuple[Guidance, ...] = ("none", "self", "initialize", "full")
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@contextmanager
def joined_on(device: torch.device) -> Iterator[None]:
    before = switch._Switch.devices
    join_steps_on(device)
    try:
        yield
    finally:
        switch._Switch.devices = before


def compare(device: torch.device, dtype: torch.dtype, limit: float) -> None:
    """All kinds of steps on latents of odd sides, and pictures, against their twins on the same device."""
    generator = torch.Generator().manual_seed(4)
    for slots in (1, 3):
        knobs = stack([made_up(generator, device, slots) for _ in range(2)])
        memory = remembered(knobs, generator)
        given = [tensor.clone() for tensor in (*knobs, *memory)]
        for guidance in GUIDANCES:
            against = {"initialize": 1, "full": slots}.get(guidance, 0)
            for prediction in PREDICTIONS:
                way = Way(guidance, prediction, slots > 1 or prediction == "epsilon", against)
                latent = torch.randn(memory.finished.shape, generator=generator).to(device, dtype)
                latent = latent.contiguous(memory_format=torch.channels_last)
                one, other = (each(latent, 0.7, knobs, memory, way, dtype) for each in (opened, plain_opened))
                assert distance(one.noisy, other.noisy) < 1e-5
                assert distance(one.rows, other.rows) < limit
                answer = torch.randn(one.rows.shape, generator=generator).to(device, dtype)
                told = (answer, other.noisy, knobs, memory, way, 0.7, dtype)
                for bounded in (False, True):
                    made, twin = (each(*told, bounded=bounded) for each in (closed, plain_closed))
                    assert distance(made.latent, twin.latent) < limit, (guidance, prediction)
                    for name, tensor in twin.memory._asdict().items():
                        assert distance(getattr(made.memory, name), tensor) < 1e-4, (guidance, prediction, name)
        assert all(torch.equal(a, b) for a, b in zip(given, (*knobs, *memory), strict=True)), "what came in stays"
    planes = torch.randint(0, 256, (2, 36, 40), generator=generator).to(device, torch.uint8)
    for told in ((2.0, -1.0), (1.0, 0.0)):
        wanted = plain_picture_of_planes(planes, dtype, *told)
        assert distance(picture_of_planes(planes, dtype, *told), wanted) < limit
        picture = (wanted - told[1]) / told[0] * 1.2 - 0.1  # beyond what colours can be, too
        for layout in (torch.channels_last, torch.contiguous_format):
            made, twin = planes_of_picture(picture.contiguous(memory_format=layout), 0.9, 0.1), None
            twin = delivered(picture.float().mul(0.9).add(0.1))
            assert distance(made.image, twin.image) < 1e-5
            assert (made.planes.int() - twin.planes.int()).abs().max() <= 1
            assert (made.planes != twin.planes).float().mean() < 0.01
            assert made.finite.tolist() == twin.finite.tolist() == [True, True]
    for value in (torch.nan, torch.inf, -torch.inf):
        picture[1, 2, 23, 39] = value
        assert planes_of_picture(picture, 1.0, 0.0).finite.tolist() == [True, False]


def frames_of(model: Model, guidance: Guidance, slots: int, **options: Any) -> tuple[Frame, Knobs, list[torch.Tensor]]:
    """A whole frame, the knobs of two streams, and their pictures."""
    knobs = [knobs_of(model, STEPS[slots], guidance=1.5 + index, seed=index, calm=(0.2, 0.3)) for index in range(2)]
    images = [packed_from_rgb(torch.cat((one, one.flip(2)))) for one in some_pictures(3)]
    return frame_of(model, slots, guidance, whole=True, **options), stack(knobs), images


def assert_frames_are_the_plain_ones(model: Model, guidance: Guidance, slots: int, **options: Any) -> None:
    frame, knobs, images = frames_of(model, guidance, slots, **options)
    plain = run(frame, knobs, images)
    with joined_on(CPU):
        made = run(frame, knobs, images)
        alone = run(frame, row(knobs, 1), [image[1:] for image in images])
    for one, other, single in zip(made, plain, alone, strict=True):
        assert distance(one.image, other.image) < 1e-4
        assert distance(one.latent, other.latent) < 1e-4
        assert one.planes is not None
        assert other.planes is not None
        assert one.finite is not None
        assert (one.planes.int() - other.planes.int()).abs().max() <= 1
        assert one.finite.tolist() == [True, True]
        assert distance(single.image, one.image[1:]) < 1e-4, "together as alone"
        for name, tensor in other.memory._asdict().items():
            assert distance(getattr(one.memory, name), tensor) < 1e-4, name


class Twins:
    """In place of the kernels: the plain twins, and which of them were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: set[str] = set()
        self._put(monkeypatch, latents, "opened", plain_opened)
        self._put(monkeypatch, latents, "closed", plain_closed)
        self._put(monkeypatch, pictures, "picture_of_planes", plain_picture_of_planes)
        self._put(
            monkeypatch,
            pictures,
            "planes_of_picture",
            lambda x, *told: delivered(pictures.ranged(x.float(), torch.float32, *told)),
        )

    def _put(self, monkeypatch: pytest.MonkeyPatch, room: Any, name: str, twin: Callable[..., Any]) -> None:
        def call(*told: Any, **named: Any) -> Any:
            self.asked.add(name)
            return twin(*told, **named)

        monkeypatch.setattr(room, name, call)


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("batched", [True, False])
def test_frames_of_joined_steps_are_the_plain_ones(
    tiny_model: Load, monkeypatch: pytest.MonkeyPatch, guidance: Guidance, batched: bool
) -> None:
    twins = Twins(monkeypatch)
    assert_frames_are_the_plain_ones(tiny_model("sd-turbo"), guidance, 2, batched=batched)
    pictured = {"picture_of_planes", "planes_of_picture"}
    assert twins.asked == (pictured | {"opened", "closed"} if batched else pictured)


def test_the_switch_and_compilers_have_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1)
    assert not are_steps_joined(x), "nobody tried this device"
    with joined_on(CPU):
        assert are_steps_joined(x)
        with plain_blocks():
            assert not are_steps_joined(x)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not are_steps_joined(x)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("opened", "latents with guidance 'self' are not the plain ones"),
        ("closed", "latents with guidance 'self' are not the plain ones"),
        ("picture_of_planes", "pictures are not the plain ones"),
        ("planes_of_picture", "planes are not the plain ones"),
        ("doubled_in_one", "doubled pictures are not the plain ones"),
        ("add_bias_in_one", "pictures with biases are not the plain ones"),
        ("", ""),
    ],
)
def test_steps_that_do_not_work_are_found_out(monkeypatch: pytest.MonkeyPatch, broken: str, problem: str) -> None:
    def brightened(x: torch.Tensor, *told: Any) -> Any:
        return delivered(x.float().mul(0.5).add(0.6 if broken == "planes_of_picture" else 0.5))

    def wrong(twin: Callable[..., Any]) -> Callable[..., Any]:
        def call(*told: Any, **named: Any) -> Any:
            made = twin(*told, **named)
            return made * 1.2 if torch.is_tensor(made) else made._replace(**{made._fields[-1]: made[-1] * 1.2})

        return call

    twins = {"opened": plain_opened, "closed": plain_closed, "picture_of_planes": plain_picture_of_planes}
    twins |= {"doubled_in_one": plain_doubled, "add_bias_in_one": plain_add_bias}
    for name, twin in twins.items():
        monkeypatch.setattr(steps_trial, name, wrong(twin) if name == broken else twin)
    monkeypatch.setattr(steps_trial, "planes_of_picture", brightened)
    assert why_not(CPU) == problem


def test_where_steps_cannot_be_made_frames_stay_plain_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler\nand more")

    monkeypatch.setattr(steps_trial, "opened", fail)
    before = switch._Switch.devices
    try_steps.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="stay plain on cpu: RuntimeError: Failed to find C compiler"):
            assert not try_steps(CPU)
        assert switch._Switch.devices == before
    finally:
        try_steps.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed, as torch is for CPUs")
@pytest.mark.slow
def test_the_kernels_are_the_plain_steps_when_they_are_interpreted(tmp_path: Path) -> None:
    program = "import sys; from tests.diffusion.test_steps import compare_interpreted; compare_interpreted(sys.argv[1])"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    told = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(told, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def compare_interpreted(folder: str) -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    from sdstream.diffusion.fused import latents_kernels, pictures_kernels, pointwise_kernels

    def same(kernel: Any) -> Any:
        return kernel

    rooms = {"of_latents": latents_kernels, "of_pictures": pictures_kernels, "of_networks": pointwise_kernels}
    made: Any = SimpleNamespace(**rooms)  # without types

    def open_slots(latent: Any, *told: Any) -> Any:
        return made.of_latents.launch_opened(latent, told[:7], *told[7:], same)

    def close_slots(predicted: Any, *told: Any) -> Any:
        kind, rest = told[15:19], told[19:]
        return made.of_latents.launch_closed(predicted, told[:15], kind, *rest, same)

    room: Any = latents
    room._kernels = SimpleNamespace(
        opened=open_slots,
        closed=close_slots,
        **{name: getattr(latents_kernels, name) for name in ("FROM_MEMORY", "FROM_OPENING", "FROM_NETWORK")},
    )
    other: Any = pictures
    other._kernels = SimpleNamespace(
        picture_of_planes=lambda *told: made.of_pictures.launch_picture(*told, same),
        planes_of_picture=lambda *told: made.of_pictures.launch_planes(*told, same),
    )
    inside: Any = pointwise
    inside._kernels = SimpleNamespace(
        doubled=lambda x: made.of_networks.launch_doubled(x, same),
        add_bias=lambda *told: made.of_networks.launch_add_bias(*told, same),
    )
    torch.set_grad_enabled(False)
    compare(CPU, torch.float32, 1e-5)
    compare(CPU, torch.float16, 2e-3)
    assert why_not(CPU) == ""
    write_tiny_model(Path(folder), "sd-turbo")
    model = load_model(Path(folder), "sd-turbo", device=CPU)
    assert_frames_are_the_plain_ones(model, "self", 1)
    assert_frames_are_the_plain_ones(model, "initialize", 2)
    assert_frames_are_the_plain_ones(model, "full", 2)


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_the_kernels_are_the_plain_steps_on_a_gpu(dtype: torch.dtype, limit: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert try_steps(torch.device("cuda"))
    compare(torch.device("cuda"), dtype, limit)
    assert make_memory(made_up(torch.Generator(), torch.device("cuda"))).buffer.is_cuda
