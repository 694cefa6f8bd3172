"""Every cold row of the contract's table 3.1, timed: the pictures of a stream while what its params need is loaded.

The next picture is given when the one before has come, so the time between two results is what a viewer waits. What a
busy machine adds is told by the pictures before the change: where one takes long, a gap may last as long as many of
them. `test_conditioning_rows` holds loads up for as long as it likes; this is about what cannot be done beside.
"""

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.tiny import write_tiny_lora
from sdstream.directories import ModelPlaces
from sdstream.params import ChangeKind, ModelEntry, ModelTable, StreamParams, apply_update, classify, parse_create
from sdstream.worker import diffusion_pipeline
from sdstream.worker.conditions import ConditionShelf
from sdstream.worker.loading.shelf import ModelShelf
from tests.diffusion.conftest import SD15_CANNY, SD15_DEPTH
from tests.diffusion.fleet import Fleet, ran
from tests.diffusion.test_steering import net, style
from tests.worker.faces import image_of

SECOND = 1.0
PICTURES = 20
"""How many times as long as a picture a gap may last on a machine that needs over 50 ms for one."""
SD15, OTHER = "Lykon/dreamshaper-8", "prompthero/openjourney-v4"
TURBO, XL = "stabilityai/sd-turbo", "stabilityai/sdxl-turbo"
CANNY = net(SD15_CANNY, 0.5)
ADAPTER = {"ip_adapter": {"enabled": True, "scale": 0.7}, "ip_adapter_style_image_url": style()}
FACE = {"ip_adapter_style_image_url": image_of((150, 120, 60))}
BLUR = {"image_preprocessing": {"processors": [{"type": "blur"}]}}
CACHED = {"cached_attention": {"enabled": True, "max_frames": 1, "interval": 1}}


@dataclass(frozen=True)
class Row:
    """An update of a stream that was created with `before`."""

    name: str
    before: dict[str, Any]
    sent: dict[str, Any]


ROWS = (
    Row("a ControlNet added", {"controlnets": [CANNY]}, {"controlnets": [CANNY, net(SD15_DEPTH, 0.5, "depth")]}),
    Row("a ControlNet removed", {"controlnets": [CANNY]}, {"controlnets": []}),
    Row("controlnet enabled", {"controlnets": [CANNY | {"enabled": False}]}, {"controlnets": [CANNY]}),
    Row("preprocessor", {"controlnets": [CANNY]}, {"controlnets": [CANNY | {"preprocessor": "depth"}]}),
    Row("preprocessor_params", {"controlnets": [CANNY]}, {"controlnets": [CANNY | {"preprocessor_params": {"a": 1}}]}),
    Row("guidance window", {"controlnets": [CANNY]}, {"controlnets": [CANNY | {"control_guidance_end": 0.5}]}),
    Row("ip_adapter.type", {"model_id": XL} | ADAPTER, {"ip_adapter": {"type": "faceid"}} | FACE),
    Row("cached_attention on", {}, CACHED),
    Row("cached_attention off", CACHED, {"cached_attention": {"enabled": False}}),
    Row("diffusion on", BLUR | {"skip_diffusion": True}, {"skip_diffusion": False}),
    Row("diffusion off", BLUR, {"skip_diffusion": True}),
    Row("model_id", {}, {"model_id": OTHER}),
    Row("model_id of another family", {}, {"model_id": TURBO}),
    Row("lora_dict", {}, {"lora_dict": {"one": 0.5}}),
    Row("lora_dict null", {"lora_dict": {"one": 0.9}}, {"lora_dict": None}),
    Row("use_lcm_lora", {}, {"use_lcm_lora": True}),
    Row("acceleration", {"acceleration": "none"}, {"acceleration": "tensorrt"}),
    Row("use_denoising_batch", {}, {"use_denoising_batch": False}),
)
SLOW_HOT = (
    Row("ip_adapter on", ADAPTER | {"ip_adapter": {"enabled": False}}, {"ip_adapter": {"enabled": True}}),
    Row("ip_adapter off", ADAPTER, {"ip_adapter": {"enabled": False}}),
    Row("cached max_frames", CACHED, {"cached_attention": {"max_frames": 3}}),
    Row("t_index_list", {}, {"t_index_list": [10, 20, 35]}),
)
"""Hot by the contract; another pipeline is made for them all the same."""


@pytest.fixture(scope="module")
def models(
    tiny_directory: Callable[..., Path],
    tiny_model: Callable[..., Model],
    places: ModelPlaces,
    tmp_path_factory: pytest.TempPathFactory,
) -> ModelTable:
    root = tmp_path_factory.mktemp("more")
    (root / "loras").mkdir()
    write_tiny_lora(root / "loras/one.safetensors", tiny_model("sd15").unet)
    copy = shutil.copytree(tiny_directory("sd15"), root / "other")  # or one model would serve both
    entries = [
        ModelEntry(SD15, "sd15", str(tiny_directory("sd15"))),
        ModelEntry(OTHER, "sd15", str(copy)),
        ModelEntry(TURBO, "sd-turbo", str(tiny_directory("sd-turbo"))),
        ModelEntry(XL, "sdxl-turbo", str(tiny_directory("sdxl-turbo"))),
    ]
    return ModelTable(entries, places=ModelPlaces(places.models, root / "loras", offline=True))


def params_of(fields: dict[str, Any], models: ModelTable) -> StreamParams:
    own = {"model_id": SD15, "width": 512, "height": 512, "t_index_list": [20, 35], "prompt": "the cat"}
    rest = {"use_lcm_lora": False, "use_safety_checker": False}
    return parse_create({"pipeline": "streamdiffusion", "params": own | rest | fields}, models).params


def gap_of(before: StreamParams, after: StreamParams, models: ModelTable, directory: Path) -> tuple[float, float]:
    """The longest gap while a stream changes, with nothing loaded before but what it has, and how long it may be."""
    stamps: list[float] = []
    with (
        pytest.MonkeyPatch.context() as patch,
        Fleet(directory, models=models) as fleet,
    ):
        patch.setattr(diffusion_pipeline, "shelf", ModelShelf())
        patch.setattr(diffusion_pipeline, "conditions_shelf", ConditionShelf())
        stream = fleet.open(before)

        def picture() -> int:
            revision = ran(fleet, stream, len(stamps))
            stamps.append(time.monotonic())
            return revision

        while len(stamps) < 8:
            picture()
        usual = statistics.median(later - earlier for earlier, later in pairwise(stamps[1:]))
        since, limit = len(stamps) - 1, time.monotonic() + 60
        stream.update(after)
        while picture() != 2:
            assert not stream.reports[-1].error_code, stream.reports[-1].error_message
            assert time.monotonic() < limit
        for _ in range(3):
            picture()
    window = stamps[since:]
    return max(later - earlier for earlier, later in pairwise(window)), max(SECOND, PICTURES * usual)


@pytest.mark.parametrize("row", ROWS + SLOW_HOT, ids=lambda row: row.name)
def test_a_change_that_loads_leaves_no_gap_longer_than_a_second(
    row: Row, models: ModelTable, tiny_directory: Callable[..., Path]
) -> None:
    before = params_of(row.before, models)
    after = apply_update(before, {"params": row.sent}, models).params
    assert classify(before, after, live=True).kind is (ChangeKind.HOT if row in SLOW_HOT else ChangeKind.RELOAD)
    gap, most = 1.0, 0.0
    for _ in range(3):  # the best of them: a gap of the change itself is there each time, one of the machine's is not
        gap, most = gap_of(before, after, models, tiny_directory("sd15"))
        if gap < most:
            break
    assert gap < most
