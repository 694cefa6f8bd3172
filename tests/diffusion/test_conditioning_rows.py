"""Every row of the contract's table 3.1 about conditioning: what the server answers, and what the pictures do.

Nothing is timed: loads are held up, and pictures are made all the same. So a change can cost no picture, however long
what it needs takes to load.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sdstream.directories import ModelPlaces
from sdstream.params import ChangeKind, ModelEntry, ModelTable, classify
from tests.diffusion.conftest import SD15_CANNY, SD15_DEPTH
from tests.diffusion.fleet import Fleet, params_of, ran
from tests.diffusion.test_changes import Loads
from tests.diffusion.test_steering import net, style

MODEL = "Lykon/dreamshaper-8"
HOT, RELOAD = ChangeKind.HOT, ChangeKind.RELOAD
CANNY = net(SD15_CANNY, 0.5)
ADAPTER = {"ip_adapter": {"enabled": True, "scale": 0.7}, "ip_adapter_style_image_url": style()}
CACHED = {"enabled": True, "max_frames": 1, "interval": 1}


@dataclass(frozen=True)
class Row:
    """A change of params from `before` to `after`. `kind` is what an update is answered; `loads` whether another
    pipeline is made beside the running one."""

    name: str
    before: dict[str, Any]
    after: dict[str, Any]
    kind: ChangeKind
    loads: bool = False


def nets(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"controlnets": list(entries)}


def block(name: str, kind: str, **params: Any) -> dict[str, Any]:
    return {name: {"processors": [{"type": kind, "params": params}]}}


ROWS = (
    Row("controlnet scale", nets(CANNY), nets(CANNY | {"conditioning_scale": 0.9}), HOT),
    Row("controlnet scale to 0", nets(CANNY), nets(CANNY | {"conditioning_scale": 0.0}), HOT, loads=True),
    Row("controlnet scale from 0", nets(CANNY | {"conditioning_scale": 0.0}), nets(CANNY), HOT, loads=True),
    Row("controlnet off", nets(CANNY), nets(CANNY | {"enabled": False}), RELOAD, loads=True),
    Row("controlnet added", nets(CANNY), nets(CANNY, net(SD15_DEPTH, 0.5, "blur")), RELOAD, loads=True),
    Row("controlnet removed", nets(CANNY), nets(), RELOAD, loads=True),
    Row("preprocessor", nets(CANNY), nets(CANNY | {"preprocessor": "soft_edge"}), RELOAD),
    Row("preprocessor_params", nets(CANNY), nets(CANNY | {"preprocessor_params": {"low_threshold": 9}}), RELOAD),
    Row("guidance start", nets(CANNY), nets(CANNY | {"control_guidance_start": 0.5}), RELOAD),
    Row("guidance end", nets(CANNY), nets(CANNY | {"control_guidance_end": 0.5}), RELOAD),
    Row("ip_adapter on", ADAPTER | {"ip_adapter": {"enabled": False}}, ADAPTER, HOT, loads=True),
    Row("ip_adapter off", ADAPTER, {"ip_adapter": {"enabled": False}}, HOT, loads=True),
    Row("ip_adapter scale", ADAPTER, {"ip_adapter": {"scale": 0.2}}, HOT),
    Row("ip_adapter weight_type", ADAPTER, {"ip_adapter": {"weight_type": "ease in"}}, HOT),
    Row("style image", ADAPTER, {"ip_adapter_style_image_url": style(1)}, HOT),
    Row("first style image", ADAPTER | {"ip_adapter_style_image_url": ""}, ADAPTER, HOT, loads=True),
    Row("image_preprocessing", block("image_preprocessing", "blur"), block("image_preprocessing", "canny"), HOT),
    Row("image_postprocessing", {}, block("image_postprocessing", "sharpen"), HOT),
    Row("latent_preprocessing", {}, block("latent_preprocessing", "latent_feedback"), HOT),
    Row(
        "latent_postprocessing",
        block("latent_postprocessing", "latent_feedback"),
        block("latent_postprocessing", "latent_feedback", feedback_strength=0.4),
        HOT,
    ),
    Row("cached_attention on", {}, {"cached_attention": CACHED}, RELOAD, loads=True),
    Row("cached_attention off", {"cached_attention": CACHED}, {"cached_attention": {"enabled": False}}, RELOAD, True),
    Row("cached max_frames", {"cached_attention": CACHED}, {"cached_attention": {"max_frames": 3}}, HOT, loads=True),
    Row("cached interval", {"cached_attention": CACHED}, {"cached_attention": {"interval": 5}}, HOT),
    Row("skip_diffusion", nets(CANNY), {"skip_diffusion": True}, RELOAD, loads=True),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_change_is_answered_as_the_contract_has_it_and_costs_no_picture(
    row: Row, tiny_directory: Callable[..., Path], places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ModelTable([ModelEntry(MODEL, "sd15", str(tiny_directory("sd15")))], places=places)
    before = params_of(model_id=MODEL, use_lcm_lora=False, **row.before)
    after = params_of(model_id=MODEL, use_lcm_lora=False, **_merged(row.before, row.after))
    assert classify(before, after, live=True).kind is row.kind
    with Fleet(tiny_directory("sd15"), models=models) as fleet:
        stream = fleet.open(before)
        assert ran(fleet, stream, 0) == 1
        loads = Loads(monkeypatch)
        # Image processors alone are there at once.
        meanwhile = (1, 2, 3) if row.loads and not after.skip_diffusion else ()
        if meanwhile:
            loads.free.clear()
            stream.update(after)
            assert [ran(fleet, stream, number) for number in meanwhile] == [1, 1, 1], "the old picture goes on"
            loads.free.set()
            fleet.settle()
        else:
            fleet.update(stream, after)
        assert loads.begun == int(row.loads)
        assert ran(fleet, stream, 4) == 2
        assert [sequence for sequence, _, _ in stream.made] == [0, *meanwhile, 4]
        assert stream.returned == [], "a picture that was given back was left out"
        report = stream.reports[-1]
        assert (report.phase, report.revision, report.effective_sequence, report.error_code) == ("ready", 2, 4, None)


def _merged(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """As an update merges: objects member by member, arrays whole."""
    merged = before | after
    for name in ("ip_adapter", "cached_attention"):
        if name in before and name in after:
            merged[name] = before[name] | after[name]
    return merged


def test_a_network_of_image_processors_that_loads_keeps_no_stream_waiting(
    tiny_directory: Callable[..., Path], places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ModelTable([ModelEntry(MODEL, "sd15", str(tiny_directory("sd15")))], places=places)
    processors = {"model_id": MODEL, "use_lcm_lora": False, "skip_diffusion": True}
    with Fleet(tiny_directory("sd15"), models=models) as fleet:
        quick = processors | block("image_preprocessing", "blur")
        other, stream = (fleet.open(params_of(**quick)) for _ in range(2))
        loads = Loads(monkeypatch)
        loads.free.clear()
        late = fleet.open(params_of(**processors, **block("image_preprocessing", "depth")), settled=False)
        assert [ran(fleet, other, 1), ran(fleet, stream, 1)] == [1, 1]
        loads.free.set()
        fleet.settle()
        assert ran(fleet, late, 1) == 1
        assert [state.phase for state in late.reports[-1].processors] == ["working"]
