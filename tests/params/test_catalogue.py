"""The catalogue and the page made from it say what is really accepted and what really happens."""

from pathlib import Path
from typing import Any

import pytest

from sdstream.params import ChangeKind, Sd15Params, SdTurboParams, SdxlTurboParams, classify, parameter_catalogue
from sdstream.params.catalogue import processor_catalogue
from sdstream.params.document import render_parameters_page
from sdstream.params.processors import PROCESSORS
from tests.params.requests import SDXL_DEPTH, SDXL_TURBO, created, updated

CATALOGUE = parameter_catalogue()
KEYS = {
    *("name", "type", "minimum", "maximum", "step", "slider", "default", "defaults", "choices", "choices_by_family"),
    *("families", "nullable", "required", "update", "processor", "description"),
}
TOP = [entry for entry in CATALOGUE if entry["processor"] is None and not {".", "["} & set(entry["name"])]
NESTED = [
    entry
    for entry in CATALOGUE
    if entry["name"].startswith(("ip_adapter.", "cached_attention.", "controlnets[]."))
    and entry["name"] not in ("controlnets[].model_id", "cached_attention.enabled")
]


def _name(entry: dict[str, Any]) -> str:
    return entry["name"]


def test_every_field_of_every_variant_is_listed_once() -> None:
    names = [entry["name"] for entry in TOP]
    variants = (SdTurboParams, SdxlTurboParams, Sd15Params)
    assert sorted(names) == sorted({name for variant in variants for name in variant.model_fields})


def test_names_are_unique() -> None:
    assert len({entry["name"] for entry in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("entry", CATALOGUE, ids=_name)
def test_every_entry_has_every_key_and_a_sentence(entry: dict[str, Any]) -> None:
    assert set(entry) == KEYS
    assert entry["description"].endswith(".")
    assert entry["description"][0].isupper() or entry["description"].startswith("`")


@pytest.mark.parametrize("entry", CATALOGUE, ids=_name)
def test_numbers_have_what_a_slider_needs(entry: dict[str, Any]) -> None:
    if entry["type"] in ("number", "integer"):
        low, high = entry["slider"] or (entry["minimum"], entry["maximum"])
        assert entry["minimum"] <= low < high <= entry["maximum"]
        assert 0 < entry["step"] <= high - low
        assert low <= entry["default"] <= high


def _another(entry: dict[str, Any]) -> Any:
    """A value of `entry` that differs from its default."""
    match entry["type"]:
        case "boolean":
            return not entry["default"]
        case "choice":
            return next(choice for choice in entry["choices"] if choice != entry["default"])
        case "number" | "integer":
            step = entry["step"]
            up = entry["default"] + step
            return up if up <= entry["maximum"] else entry["default"] - step
        case "prompt" | "string":
            return "something else"
        case "seed":
            return 4711
        case "integers":
            return [7]
        case "weights":
            return {"owner/repo": 0.5}
        case "image":
            return "https://example.org/x.png"
        case "image_processing":
            return {"processors": [{"type": "blur"}]}
        case "latent_processing":
            return {"processors": [{"type": "latent_feedback"}]}
        case "controlnets":
            return []
        case "object":
            return {"image_resolution": 256}
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in TOP if entry["name"] not in ("ip_adapter", "cached_attention")],
    ids=_name,
)
def test_the_update_of_a_parameter_is_what_classify_says(entry: dict[str, Any]) -> None:
    before = created(SDXL_TURBO, controlnets=[{"model_id": SDXL_DEPTH}])
    after = updated(before, **{entry["name"]: _another({**entry, "default": entry["default"]})}).params
    assert classify(before, after, live=True).kind == ChangeKind(entry["update"])


@pytest.mark.parametrize("entry", NESTED, ids=_name)
def test_the_update_of_a_member_is_what_classify_says(entry: dict[str, Any]) -> None:
    parent, _, member = entry["name"].partition(".")
    before = created(SDXL_TURBO, controlnets=[{"model_id": SDXL_DEPTH}], ip_adapter={}, cached_attention={})
    value: Any = {member: _another(entry)}
    if parent == "controlnets[]":
        value = [{"model_id": SDXL_DEPTH, **value}]
    after = updated(before, **{parent.removesuffix("[]"): value}).params
    assert classify(before, after, live=True).kind == ChangeKind(entry["update"])


@pytest.mark.parametrize(
    "entry",
    [entry for entry in CATALOGUE if entry["processor"] not in (None, "latent_feedback")],
    ids=_name,
)
def test_the_update_of_what_a_processor_is_told_is_what_classify_says(entry: dict[str, Any]) -> None:
    def block(**params: Any) -> dict[str, Any]:
        return {"image_postprocessing": {"processors": [{"type": entry["processor"], "params": params}]}}

    before = created(SDXL_TURBO, **block())
    after = updated(before, **block(**{entry["name"].rpartition(".")[2]: _another(entry)})).params
    assert classify(before, after, live=True).kind == ChangeKind(entry["update"])


def test_every_processor_is_listed() -> None:
    assert [entry["name"] for entry in processor_catalogue()] == list(PROCESSORS)


def test_the_page_in_docs_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "parameters.md"
    assert page.read_text("utf-8") == render_parameters_page(), (
        "run: python -m sdstream.params.document docs/parameters.md"
    )


def test_the_page_names_every_parameter() -> None:
    page = render_parameters_page()
    own = [entry["name"] for entry in CATALOGUE if "processing." not in entry["name"]]
    shown = [name.rpartition(".")[2] if name.startswith("processors.") else name for name in own]
    assert [name for name in shown if f"| `{name}` |" not in page] == []
