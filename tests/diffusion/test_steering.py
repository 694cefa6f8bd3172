"""ControlNets, style images, earlier pictures and learned preprocessors in a stream's pipeline."""

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.tiny import write_tiny_lora, write_tiny_model
from sdstream.diffusion.tiny_conditions import write_tiny_controlnet
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelEntry, ModelTable, StreamParams, dump_params, load_params, parse_create
from sdstream.params.controlnets import ControlNetFacts
from sdstream.settings import Family, load_settings
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.looks import alone
from sdstream.worker.options import EngineOptions
from sdstream.worker.pipelines import make_pipeline
from tests.diffusion.conftest import CANNY, DEPTH, TEMPORAL
from tests.diffusion.runs import distance, pictures
from tests.diffusion.test_pipeline import IDS, params_of

CPU = torch.device("cpu")
HED = "thibaud/controlnet-sd21-hed-diffusers"


@pytest.fixture
def make(tiny_directory: Callable[..., Path], places: ModelPlaces) -> Callable[..., DiffusionPipeline]:
    def made(family: Family = "sd-turbo", **fields: Any) -> DiffusionPipeline:
        models = ModelTable([ModelEntry(IDS[family], family, str(tiny_directory(family)))], places=places)
        pipeline = make_pipeline(params_of(family, **fields), CPU, lambda detail, percent: None, models)
        assert isinstance(pipeline, DiffusionPipeline)
        return pipeline

    return made


Make = Callable[..., DiffusionPipeline]


def quiet(detail: str, percent: float | None) -> None:
    pass


def net(name: str, scale: float = 0.8, preprocessor: str = "canny", **fields: Any) -> dict[str, Any]:
    return {"model_id": name, "conditioning_scale": scale, "preprocessor": preprocessor, "enabled": True, **fields}


def style(seed: int = 0) -> str:
    pixels = numpy.random.default_rng(seed).integers(0, 255, (40, 60, 3), numpy.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def run(pipeline: DiffusionPipeline, count: int = 4, seed: int = 0) -> list[torch.Tensor]:
    return [pipeline.process(image) for image in pictures(count, seed)]


def test_scale_0_disabled_and_absent_are_the_same_picture(make: Make) -> None:
    expected = run(make())
    for entries in ([net(CANNY, 0.0)], [net(CANNY) | {"enabled": False}], [net(CANNY, 0.0), net(DEPTH, 0.0)]):
        pipeline = make(controlnets=entries)
        assert all(torch.equal(a, b) for a, b in zip(run(pipeline), expected, strict=True))
        assert pipeline.apply(params_of()), "nothing is loaded when they go"
    assert distance(run(make(controlnets=[net(CANNY)]))[-1], expected[-1]) > 1e-3


def test_scales_and_parameters_of_preprocessors_are_turned_in_place(make: Make) -> None:
    entries = [net(CANNY, 0.4), net(DEPTH, 0.5, "depth")]
    pipeline = make(controlnets=entries)
    before = run(pipeline)
    turned = [net(CANNY, 1.5, preprocessor_params={"low_threshold": 5, "high_threshold": 20}), entries[1]]
    assert pipeline.apply(params_of(controlnets=turned))
    assert pipeline.faults == ()
    after = run(pipeline)
    assert distance(after[-1], before[-1]) > 1e-3
    assert distance(after[-1], run(make(controlnets=turned))[-1]) < 1e-4


def test_a_net_that_comes_or_goes_is_another_pipeline_that_goes_on_with_the_pictures_under_way(make: Make) -> None:
    first = make()
    images = pictures(6)
    for image in images[:2]:
        first.process(image)
    wanted = params_of(controlnets=[net(CANNY)])
    assert first.plan(wanted) is None
    second = make(controlnets=[net(CANNY)])
    second.begin(first)
    first.end()
    made = [second.process(image) for image in images[2:]]
    whole = make(controlnets=[net(CANNY)])
    expected = [whole.process(image) for image in images][2:]
    assert distance(made[0], expected[0]) > 1e-4, "the picture under way came without a control picture"
    assert distance(made[-1], expected[-1]) < 1e-3
    assert bool(torch.isfinite(made[0]).all())


def test_a_preprocessor_without_weights_is_named_and_its_net_adds_nothing(make: Make, places: ModelPlaces) -> None:
    pipeline = make(controlnets=[net(CANNY, 0.8, "hed")])
    expected = run(make())
    assert all(distance(a, b) < 1e-5 for a, b in zip(run(pipeline), expected, strict=True))
    assert [type(fault) for fault in pipeline.faults] == [ModelUnavailable]
    assert "ControlNetHED.pth" in pipeline.faults[0].message


def test_a_net_that_is_not_here_is_refused_by_name(make: Make) -> None:
    with pytest.raises(ModelUnavailable, match=r"ControlNet thibaud/controlnet-sd21-hed-diffusers needs config\.json"):
        make(controlnets=[net(HED)])


def test_a_net_of_the_settings_steers_by_its_own_channels(
    tiny_model: Callable[..., Model], tiny_directory: Callable[..., Path], places: ModelPlaces, tmp_path: Path
) -> None:
    write_tiny_controlnet(tmp_path / "mine", tiny_model("sd-turbo").unet, channels=6, seed=5)

    def made(channels: int, *nets: dict[str, Any]) -> torch.Tensor:
        facts = ControlNetFacts(
            "sd-turbo", None, "canny", 1.0, source=str(tmp_path / "mine"), conditioning_channels=channels
        )
        entry = ModelEntry(IDS["sd-turbo"], "sd-turbo", str(tiny_directory("sd-turbo")))
        models = ModelTable([entry], places=places, controlnets={"me/mine": facts})
        body = {"params": {"width": 384, "height": 384, "t_index_list": [20], "controlnets": list(nets)}}
        params = load_params(dump_params(parse_create(body, models).params), models)  # as it comes to the worker
        pipeline = make_pipeline(params, CPU, lambda detail, percent: None, models)
        return pipeline.process(torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(1)))

    assert distance(made(6, net("me/mine")), made(6)) > 1e-3
    with pytest.raises(ModelUnavailable, match="takes control pictures of 6 channels, and is used with 3"):
        made(3, net("me/mine"))


def test_a_net_of_another_family_in_its_place_is_refused(
    tiny_model: Callable[..., Model], tiny_directory: Callable[..., Path], tmp_path: Path
) -> None:
    write_tiny_controlnet(tmp_path / CANNY, tiny_model("sdxl-turbo").unet)
    models = ModelTable(
        [ModelEntry(IDS["sd-turbo"], "sd-turbo", str(tiny_directory("sd-turbo")))],
        places=ModelPlaces(tmp_path, None, offline=True),
    )
    with pytest.raises(ModelUnavailable, match="of another family"):
        make_pipeline(params_of(controlnets=[net(CANNY)]), CPU, lambda detail, percent: None, models)


def test_a_net_that_is_loaded_serves_only_streams_that_look_in_its_place(
    make: Make, tiny_directory: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = make(controlnets=[net(CANNY)])
    models = ModelTable(
        [ModelEntry(IDS["sd-turbo"], "sd-turbo", str(tiny_directory("sd-turbo")))],
        places=ModelPlaces(tmp_path, None, offline=True),
    )
    with pytest.raises(ModelUnavailable, match=CANNY):
        make_pipeline(params_of(controlnets=[net(CANNY)]), CPU, lambda detail, percent: None, models)
    assert make(controlnets=[net(CANNY)])._loaded.conditions == loaded._loaded.conditions


def test_the_newest_control_picture_steers_all_steps_where_the_operator_wants_it(make: Make) -> None:
    aligned, newest = make(controlnets=[net(CANNY)]), make(controlnets=[net(CANNY)])
    options = EngineOptions.of(load_settings({}, {"SDSTREAM_CONTROL_PICTURES": "newest"}))
    newest = DiffusionPipeline(
        newest._plan.params, newest._model, options, conditions=newest._loaded.conditions, shelf=newest._loaded.shelf
    )
    first, later = pictures(2)
    still = [pipeline.process(first) for pipeline in (aligned, newest)]
    assert torch.equal(*still), "one control picture fills all steps"
    moved = [pipeline.process(later) for pipeline in (aligned, newest)]
    assert distance(*moved) > 1e-4, "two steps: the first picture leaves, steered by its own outlines or by the later's"
    assert aligned.group is not newest.group, "they cannot ride together"


def test_temporal_net_is_given_two_pictures_in_one(make: Make) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    pipeline = make(controlnets=[net(TEMPORAL, 0.7, "temporal_net_tensorrt")])
    made = run(pipeline, 5)
    assert pipeline.faults == ()
    assert all(bool(torch.isfinite(image).all()) for image in made)
    assert distance(made[-1], run(make(), 5)[-1]) > 1e-3
    assert pipeline.taps["temporal_net_tensorrt"].shape == (1, 3, 64, 64)


def test_the_control_picture_can_be_looked_at(make: Make) -> None:
    pipeline = make(controlnets=[net(DEPTH, 0.5, "depth")])
    assert dict(pipeline.taps) == {}
    run(pipeline, 1)
    tap = pipeline.taps["depth"]
    assert tap.shape == (1, 3, 64, 64)
    assert 0 <= float(tap.min()) < float(tap.max()) <= 1


def adapter(scale: float = 0.8, **fields: Any) -> dict[str, Any]:
    return {"ip_adapter": {"enabled": True, "scale": scale} | fields, "ip_adapter_style_image_url": style()}


def test_a_style_image_has_its_effect_and_is_turned_in_place(make: Make) -> None:
    plain = run(make("sd15"))
    pipeline = make("sd15", **adapter())
    first = run(pipeline)
    assert distance(first[-1], plain[-1]) > 1e-3
    changes: list[dict[str, Any]] = [adapter(0.3), adapter(weight_type="ease in")]
    changes.append(adapter() | {"ip_adapter_style_image_url": style(1)})
    for change in changes:
        assert pipeline.apply(params_of("sd15", **change))
        made = run(pipeline)
        assert distance(made[-1], first[-1]) > 1e-5
        assert distance(made[-1], run(make("sd15", **change))[-1]) < 1e-4


@pytest.mark.parametrize(
    "off",
    [
        {"ip_adapter": {"enabled": True, "scale": 0.0}},
        {"ip_adapter": {"enabled": False, "scale": 1.0}},
        {"ip_adapter_style_image_url": ""},
    ],
)
def test_a_style_image_without_effect_is_none(make: Make, off: dict[str, Any]) -> None:
    expected = run(make("sd15"))
    assert all(torch.equal(a, b) for a, b in zip(run(make("sd15", **adapter() | off)), expected, strict=True))


def test_earlier_pictures_and_their_interval(make: Make) -> None:
    cached = {"enabled": True, "max_frames": 2, "interval": 1}
    pipeline = make("sd15", cached_attention=cached)
    made = run(pipeline)
    assert distance(made[-1], run(make("sd15"))[-1]) > 1e-5
    assert pipeline.apply(params_of("sd15", cached_attention=cached | {"interval": 9}))
    assert pipeline.plan(params_of("sd15", cached_attention=cached | {"max_frames": 3})) is None
    other = make("sd15", cached_attention=cached | {"max_frames": 3})
    other.begin(pipeline)
    pipeline.end()
    assert all(bool(torch.isfinite(image).all()) for image in run(other))


def test_what_another_model_kept_of_earlier_pictures_is_not_attended_to(
    make: Make, tmp_path: Path, places: ModelPlaces
) -> None:
    write_tiny_model(tmp_path, "sd15", width=16, seed=1)
    models = ModelTable([ModelEntry(IDS["sd15"], "sd15", str(tmp_path))], places=places)
    params = {"cached_attention": {"enabled": True, "max_frames": 2, "interval": 1440}, "t_index_list": [5]}

    def other() -> DiffusionPipeline:
        made = make_pipeline(params_of("sd15", **params), CPU, lambda detail, percent: None, models)
        assert isinstance(made, DiffusionPipeline)
        return made

    before, same, following = make("sd15", **params), make("sd15", **params), other()
    run(before, seed=1)
    same.begin(before)
    following.begin(before)
    before.end()
    assert distance(run(same)[0], run(make("sd15", **params))[0]) > 1e-5, "a pipeline of the same model attends to it"
    assert distance(run(following)[0], run(other())[0]) < 1e-6


@pytest.mark.parametrize("following", [{"one": 2.0}, {"two": 1.0}], ids=["another weight", "another LoRA"])
def test_what_other_loras_kept_of_earlier_pictures_is_not_attended_to(
    tiny_directory: Callable[..., Path], tmp_path: Path, following: dict[str, float]
) -> None:
    directory, places = tiny_directory("sd15"), ModelPlaces(tmp_path / "models", tmp_path, offline=True)
    models = ModelTable([ModelEntry(IDS["sd15"], "sd15", str(directory))], places=places)

    def wanted(loras: dict[str, float], interval: int = 1440) -> StreamParams:
        attention = {"enabled": True, "max_frames": 2, "interval": interval}
        fields: dict[str, Any] = {"cached_attention": attention, "t_index_list": [5], "use_lcm_lora": False}
        return params_of("sd15", **fields, lora_dict=loras)

    def made(params: StreamParams) -> DiffusionPipeline:
        pipeline = make_pipeline(params, CPU, quiet, models)
        assert isinstance(pipeline, DiffusionPipeline)
        return pipeline

    plain = make_pipeline(params_of("sd15", use_lcm_lora=False), CPU, quiet, models)
    assert isinstance(plain, DiffusionPipeline)
    for seed, name in enumerate(("one", "two")):
        write_tiny_lora(tmp_path / f"{name}.safetensors", plain._model.unet, seed=seed)
    stream = made(wanted({"one": 1.0}))
    run(stream, seed=1)
    assert stream.apply(wanted({"one": 1.0}, interval=1000))
    assert distance(run(stream)[0], run(made(wanted({"one": 1.0})))[0]) > 1e-5, "it attends to earlier pictures"
    plan = stream.plan_slowly(wanted(following), quiet)
    assert plan is not None, "they are written in place"
    stream.turn(plan)
    assert distance(run(stream)[0], run(made(wanted(following)))[0]) < 1e-6


def test_latent_feedback_is_turned_in_place(make: Make) -> None:
    def block(strength: float) -> dict[str, Any]:
        processor = {"type": "latent_feedback", "params": {"feedback_strength": strength}}
        return {"latent_preprocessing": {"processors": [processor]}}

    pipeline = make(**block(0.4))
    plain = make()
    first, without = run(pipeline), run(plain)
    assert distance(first[-1], without[-1]) > 1e-4
    assert pipeline.apply(params_of(**block(0.0)))
    run(pipeline)
    run(plain)
    assert distance(run(pipeline)[-1], run(plain)[-1]) < 1e-4


def test_streams_with_the_same_nets_ride_together_and_others_do_not(make: Make) -> None:
    one, two = make(controlnets=[net(CANNY, 0.3)]), make(controlnets=[net(CANNY, 0.9)], prompt="a dog")
    other = make(controlnets=[net(DEPTH, 0.3, "depth")])
    for pipeline in (one, two, other):
        pipeline.begin(None)
    assert one.group is two.group
    assert one.group is not other.group
    (image,) = pictures(1)
    assert one.group is not None
    ran = one.group.run({pipeline.seat: alone(pipeline.before(image)) for pipeline in (one, two)}).images
    by_itself = make(controlnets=[net(CANNY, 0.9)], prompt="a dog").process(image)
    assert distance(alone(two.after(ran[two.seat])), by_itself) < 1e-4
    for pipeline in (one, two, other):
        pipeline.end()


@pytest.mark.slow
def test_memory_is_flat_over_many_switches(make: Make) -> None:
    import gc

    def tensors() -> int:
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)

    changes: list[dict[str, Any]] = [
        {"controlnets": [net(CANNY)]},
        {"controlnets": [net(DEPTH, 0.4, "depth")]},
        {"image_preprocessing": {"processors": [{"type": "depth"}]}},
        {},
    ]
    (image,) = pictures(1)
    pipeline = make()
    counts: list[int] = []
    for number in range(40):
        params = changes[number % len(changes)]
        if not pipeline.apply(params_of(**params)):
            following = make(**params)
            following.begin(pipeline)
            pipeline.end()
            pipeline = following
        pipeline.process(image)
        if number % len(changes) == len(changes) - 1:
            counts.append(tensors())
    pipeline.end()
    assert max(counts[3:]) - min(counts[3:]) <= 10, counts


def test_another_number_of_steps_needs_no_files_of_the_model_that_runs(
    tiny_directory: Callable[..., Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_directory("sd-turbo"), tmp_path / "model")
    models = ModelTable([ModelEntry(IDS["sd-turbo"], "sd-turbo", str(directory))])

    def made(steps: list[int]) -> DiffusionPipeline:
        pipeline = make_pipeline(params_of("sd-turbo", t_index_list=steps), CPU, quiet, models)
        assert isinstance(pipeline, DiffusionPipeline)
        return pipeline

    before = made([20, 35])
    run(before)
    shutil.rmtree(directory)
    after = made([30])
    after.begin(before)
    before.end()
    assert after._model is before._model
    assert all(bool(torch.isfinite(image).all()) for image in run(after))
