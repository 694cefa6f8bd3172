"""Loading: what is there loads, and what is missing, broken or of another kind is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdstream.diffusion.fetching.sources import find_model
from sdstream.diffusion.loading.models import family_of, load_model
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.model_errors import ModelUnavailable
from sdstream.settings import Family

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"
FAMILIES: tuple[Family, ...] = ("sd-turbo", "sdxl-turbo", "sd15")


@pytest.fixture
def model(tiny_directory: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a tiny sd-turbo that the test may break."""
    return shutil.copytree(tiny_directory("sd-turbo"), tmp_path / "model")


def change_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_known_by_its_unet(tiny_directory: Callable[..., Path], family: Family) -> None:
    assert family_of(json.loads((tiny_directory(family) / "unet/config.json").read_text())) == family


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"cross_attention_dim": 768, "attention_head_dim": 8}, "sd15"),
        (
            {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
            "sd-turbo",
        ),
        (
            {"cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time"},
            "sdxl-turbo",
        ),
    ],
)
def test_the_public_checkpoints_are_told_apart(config: dict[str, object], family: Family) -> None:
    assert family_of(config) == family


@pytest.mark.parametrize("family", FAMILIES)
def test_another_family_is_refused_by_name(tiny_directory: Callable[..., Path], family: Family) -> None:
    for other in set(FAMILIES) - {family}:
        with pytest.raises(ModelUnavailable, match=f"of the {family} family, not of {other}"):
            load_model(tiny_directory(family), other, CPU)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        UNET,
        "vae/config.json",
        "taesd/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ],
)
def test_a_missing_file_is_named(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(ModelUnavailable, match=f"{name} is missing"):
        load_model(model, "sd-turbo", CPU)


def test_pickled_weights_are_never_opened(model: Path) -> None:
    (model / UNET).rename(model / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match=r"model\.bin beside it is a pickle"):
        load_model(model, "sd-turbo", CPU)


@pytest.mark.parametrize("name", [UNET, "taesd/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_file_that_was_cut_is_refused(model: Path, name: str, kept: int) -> None:
    file = model / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelUnavailable, match=f"{name} is not a whole safetensors file"):
        load_model(model, "sd-turbo", CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(model: Path, value: float) -> None:
    change_weights(model / UNET, lambda tensors: tensors["conv_in.weight"].view(-1)[3].fill_(value))
    with pytest.raises(ModelUnavailable, match=r"not finite numbers .* conv_in\.weight"):
        load_model(model, "sd-turbo", CPU)


def test_lacking_weights_are_not_made_up(model: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["conv_out.bias"]

    change_weights(model / UNET, drop)
    with pytest.raises(ModelUnavailable, match=r"lacks 1 weights, such as conv_out\.bias"):
        load_model(model, "sd-turbo", CPU)


def test_weights_of_another_shape_are_refused(model: Path) -> None:
    change_weights(model / UNET, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(3, 3)}))
    with pytest.raises(ModelUnavailable, match=r"unet cannot be loaded: conv_in\.weight expected shape [^I]*$"):
        load_model(model, "sd-turbo", CPU)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": null}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 5}}'])
def test_an_index_of_parts_that_names_none_is_refused(model: Path, content: str) -> None:
    (model / UNET).unlink()
    (model / f"{UNET}.index.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=r"index\.json has no `weight_map`|unet/5 is missing"):
        load_model(model, "sd-turbo", CPU)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"'])
def test_a_broken_description_is_refused(model: Path, text: str) -> None:
    (model / "unet/config.json").write_text(text)
    with pytest.raises(ModelUnavailable, match=r"unet/config\.json (is not|must hold)"):
        load_model(model, "sd-turbo", CPU)


def test_a_model_for_inpainting_is_refused(model: Path) -> None:
    file = model / "unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 9}))
    with pytest.raises(ModelUnavailable, match="in_channels 9"):
        load_model(model, "sd-turbo", CPU)


def test_half_precision_files_are_taken_where_there_are_no_others(model: Path) -> None:
    change_weights(model / UNET, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    (model / UNET).rename(model / "unet/diffusion_pytorch_model.fp16.safetensors")
    loaded = load_model(model, "sd-turbo", CPU)
    assert {weight.dtype for weight in loaded.unet.parameters()} == {torch.float32}


def test_the_own_vae_is_used_where_there_is_no_taesd(model: Path, tmp_path: Path) -> None:
    (model / "taesd").rename(tmp_path / "elsewhere")
    assert not load_model(model, "sd-turbo", CPU).has_taesd
    assert load_model(model, "sd-turbo", CPU, taesd_elsewhere=tmp_path / "elsewhere").has_taesd


def test_a_loaded_model_is_ready(tiny_directory: Callable[..., Path]) -> None:
    model = load_model(tiny_directory("sdxl-turbo"), "sdxl-turbo", CPU, dtype=torch.bfloat16)
    for network in (model.unet, model.vae, *(encoder.model for encoder in model.prompts.encoders)):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())
        assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    assert model.latent_scale == 8
    ids = model.time_ids(640, 384)
    assert ids is not None
    assert ids.tolist() == [384, 640, 0, 0, 384, 640]


def test_the_same_seed_writes_the_same_model(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        write_tiny_model(tmp_path / name, "sd15", seed=seed, width=16)
    weights = {name: (tmp_path / name / UNET).read_bytes() for name in ("one", "same", "other")}
    assert weights["one"] == weights["same"] != weights["other"]
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are its own"


def test_a_directory_is_its_own_source(model: Path) -> None:
    assert find_model(str(model)) == model


@pytest.mark.parametrize("source", ["/no/such/directory", "some/unknown-model", "a/b/c", "", "..", "x" * 300])
def test_a_source_that_is_nowhere_is_refused(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelUnavailable):
        load_model(find_model(source), "sd-turbo", CPU)


def test_a_file_that_is_overwritten_in_its_place_changes_no_model_that_is_loaded(model: Path) -> None:
    loaded = load_model(model, "sd-turbo", CPU)
    networks = (loaded.unet, loaded.vae, *(encoder.model for encoder in loaded.prompts.encoders))
    before = [tensor.clone() for network in networks for tensor in network.state_dict().values()]
    for file in model.rglob("*.safetensors"):
        with file.open("r+b") as opened:
            opened.write(bytes(file.stat().st_size))
    after = [tensor for network in networks for tensor in network.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
