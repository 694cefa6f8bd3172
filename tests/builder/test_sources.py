"""The files of a profile: found where the server's are, fetched where it fetches to, and nothing else fetched."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.models import load_profile
from builder.profiles import Profile
from builder.sources import ProfileSources
from sdstream.diffusion.fetching.lora_sources import find_lora
from sdstream.diffusion.fetching.sources import get_model
from sdstream.directories import ModelPlaces
from sdstream.engines.weights import digest_of_weights
from sdstream.model_errors import ModelAccessDenied, ModelUnavailable
from sdstream.params import ModelTable
from sdstream.settings import Settings
from sdstream.worker.annotators.parted import PartedNetwork
from sdstream.worker.annotators.shelf import AnnotatorShelf
from tests.builder.upstream import ADAPTER, CONTROLNETS, DEPTH, HALF, LORA, MODEL, SHIPPED, TAESD, offer_upstream
from tests.support.hub import FakeHub

WANTED = {
    MODEL: {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        HALF,
        "vae/config.json",
    },
    TAESD: {"config.json", "diffusion_pytorch_model.safetensors"},
    **{name: {"config.json", "diffusion_pytorch_model.safetensors"} for name in CONTROLNETS},
    LORA: {"pytorch_lora_weights.safetensors"},
    ADAPTER[0]: {ADAPTER[1]},
    DEPTH: {"config.json", "model.safetensors"},
}
"""What a bake in half precision needs, the tokenizer apart."""


def quiet(detail: str, percent: float | None) -> None:
    pass


@pytest.fixture
def hub(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    made = FakeHub()
    offer_upstream(made, upstream)
    with made.run():
        made.be_the_hub(monkeypatch, tmp_path / "cache")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


def profile_of(**changes: Any) -> Profile:
    """The shipped one, but for what takes long."""
    fast = {"sizes": ["64x64"], "components": ["unet-control-tokens", "encoder", "decoder", "controlnet"]}
    return Profile.model_validate(SHIPPED.model_dump() | fast | changes)


def sources_of(data: Path, **settings: Any) -> ProfileSources:
    return ProfileSources(
        ModelTable.from_settings(Settings.model_validate({"data_dir": data, "shipped_pins": False} | settings))
    )


def fetched(hub: FakeHub) -> dict[str, set[str]]:
    """The files that the hub was asked for, by repository, but those of tokenizers."""
    found: dict[str, set[str]] = {}
    for request in hub.asked_for(""):
        owner, name, _, _, *file = request.path.strip("/").split("/")
        if not file[0].startswith("tokenizer"):
            found.setdefault(f"{owner}/{name}", set()).add("/".join(file))
    return found


def test_what_a_profile_needs_is_fetched_and_no_more_and_then_found_and_loaded(hub: FakeHub, tmp_path: Path) -> None:
    sources = sources_of(tmp_path / "data")
    files = sources.fetch(profile_of(), quiet, half=True)
    assert fetched(hub) == WANTED
    asked = len(hub.requests)
    assert sources.find(profile_of()) == files
    sources.fetch(profile_of(), quiet, half=True)
    assert len(hub.requests) == asked, "what is here is not asked for again"
    torch.set_grad_enabled(False)
    made = load_profile(profile_of(), "tensorrt-rtx", sources=sources).components
    assert [part.name.partition("--")[0] for part in made][:3] == ["unet-control-tokens", "encoder", "decoder"]
    assert len(made) == 4 + len(CONTROLNETS)
    assert made[-1].name == "depth"
    assert made[0].loras


def test_processors_alone_need_no_model(hub: FakeHub, tmp_path: Path) -> None:
    """And what the builder fetched for them is what a stream loads."""
    sources = sources_of(tmp_path / "data")
    profile = Profile.model_validate({"processors": ["depth_tensorrt"], "sizes": ["512x384", "64x64"]})
    files = sources.fetch(profile, quiet, half=True)
    assert set(fetched(hub)) == {DEPTH}
    assert (files.model, files.networks) == (None, (tmp_path / "data/models" / DEPTH,))
    made = load_profile(profile, "compiled", sources=sources).components
    assert [part.inputs[0].best for part in made] == [(1, 3, 378, 518), (1, 3, 70, 70)]
    network = AnnotatorShelf(torch.device("cpu"), sources.places(profile)).request("depth").result()
    assert isinstance(network, PartedNetwork)
    assert digest_of_weights(network.parts["depth"].module) == made[0].weights
    assert network.parts["depth"].config == made[0].config


def test_what_the_server_fetched_is_found_and_the_other_way_round(hub: FakeHub, tmp_path: Path) -> None:
    places = ModelPlaces(tmp_path / "data/models", tmp_path / "data/loras")
    files = sources_of(tmp_path / "data").fetch(profile_of(), quiet, half=True)
    asked = len(hub.requests)
    model = get_model(MODEL, "sd15", places, half=True, progress=quiet)
    assert (model.path, model.taesd) == (files.model, files.taesd)
    assert find_lora(LORA, places) == files.loras[0]
    assert len(hub.requests) == asked


def test_everything_that_is_missing_is_named_at_once_and_nothing_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as raised:
        sources_of(tmp_path / "data").find(profile_of())
    for name in (MODEL, LORA, *CONTROLNETS, "/".join(ADAPTER), f"model.safetensors of {DEPTH} for depth_tensorrt"):
        assert name in raised.value.message
    assert "python -m builder fetch" in (raised.value.hint or "")
    with pytest.raises(ModelUnavailable, match=f"the model {MODEL}") as raised:
        sources_of(tmp_path / "data", offline=True).fetch(profile_of(), quiet, half=True)
    assert "builder fetch" not in (raised.value.hint or ""), "that is what was called"
    assert hub.requests == []
    assert not (tmp_path / "data").exists()


def test_a_place_in_a_home_directory_that_nobody_has_is_not_there(tmp_path: Path) -> None:
    nowhere = "~nobody-of-this-name/x"
    profile = profile_of(adapter=nowhere, tokenizer=nowhere)
    with pytest.raises(ModelUnavailable, match=f"the tokenizer {nowhere}.*the IP-Adapter {nowhere}"):
        sources_of(tmp_path / "data").find(profile)


def test_paths_and_what_the_settings_say_of_ids_are_taken(upstream: Path, tmp_path: Path, hub: FakeHub) -> None:
    own = {"stabilityai/sd-turbo": str(tmp_path), MODEL: str(upstream / MODEL)}
    nets = {"lllyasviel/control_v11p_sd15_canny": str(upstream / CONTROLNETS[0])}
    sources = sources_of(tmp_path / "data", models=json.dumps(own), controlnets=json.dumps(nets))
    profile = profile_of(
        controlnets=list(nets),
        loras=[{"source": str(upstream / LORA)}],
        adapter=str(upstream.joinpath(*ADAPTER)),
        taesd=str(upstream / TAESD),
        processors=[],
    )
    files = sources.find(profile)
    assert files == sources.fetch(profile, quiet, half=True)
    assert (files.model, files.controlnets) == (upstream / MODEL, (upstream / CONTROLNETS[0],))
    assert files.loras == (upstream / LORA / "pytorch_lora_weights.safetensors",)
    assert (files.adapter, files.taesd) == (upstream.joinpath(*ADAPTER), upstream / TAESD)
    assert hub.requests == []


def test_what_is_in_the_hubs_cache_is_found(hub: FakeHub, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / f"models--{TAESD.replace('/', '--')}" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name, content in hub.repositories[TAESD].files.items():
        (snapshot / name).write_bytes(content)
    reference = snapshot.parents[1] / "refs/main"
    reference.parent.mkdir()
    reference.write_text("a" * 40)
    files = sources_of(tmp_path / "data").fetch(profile_of(), quiet, half=True)
    assert files.taesd == snapshot
    assert TAESD not in fetched(hub)


def test_a_small_vae_that_cannot_be_had_ends_the_fetch(hub: FakeHub, tmp_path: Path) -> None:
    """A server goes on with the model's own; engines of that would be others than those that were asked for."""
    del hub.repositories[TAESD]
    with pytest.raises(ModelAccessDenied, match=TAESD):
        sources_of(tmp_path / "data").fetch(profile_of(), quiet, half=True)
    full = sources_of(tmp_path / "data").fetch(profile_of(full_vae=True), quiet, half=True)
    assert full.taesd is None
    assert "vae/diffusion_pytorch_model.safetensors" in fetched(hub)[MODEL]


def test_a_profile_of_a_tiny_model_needs_no_files() -> None:
    tiny = profile_of(tiny=0, controlnets=["tiny"], adapter="tiny", loras=[])
    files = ProfileSources().find(tiny)
    assert (files.model, files.taesd, files.controlnets, files.adapter) == (None, None, (None,), None)
