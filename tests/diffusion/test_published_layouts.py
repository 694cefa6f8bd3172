"""Repositories laid out as published ones are, with tiny random weights: older names, and pickles alone.

What is published how stands in `docs/models.md`.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdstream.diffusion.conditions import load_controlnet
from sdstream.diffusion.fetching.selection import NETWORK
from sdstream.diffusion.fetching.sources import SAFETY_CHECKER, fetch_chosen, find_files, get_files
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.loading.directory import ModelDirectory, open_tokenizer
from sdstream.diffusion.safety import find_safety_checker, load_safety_checker
from sdstream.diffusion.tiny_conditions import make_tiny_controlnet
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.files.presence import files_presence
from sdstream.worker.files.published import needed_for
from tests.diffusion.checkers import made
from tests.support.hub import FakeHub

CPU = torch.device("cpu")
NET = "lllyasviel/control_v11f1e_sd15_tile"
"""Published as a pickle alone."""
PICKLE = "diffusion_pytorch_model.bin"
HALF = "diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub()
    with hub.run():
        hub.be_the_hub(monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture
def places(tmp_path: Path) -> ModelPlaces:
    return ModelPlaces(tmp_path / "models", None)


@pytest.fixture
def unet(tiny_directory: Callable[..., Path]) -> Any:
    loaded: Any = diffusers.UNet2DConditionModel
    return loaded.from_pretrained(tiny_directory("sd15") / "unet")


def write_net(folder: Path, unet: Any, file: str) -> Any:
    """A ControlNet whose weights lie in `file` alone."""
    net = make_tiny_controlnet(unet)
    net.save_pretrained(folder, safe_serialization=True)
    weights = folder / NETWORK[1]
    if file == PICKLE:
        torch.save(load_file(weights), folder / file)
    elif file == HALF:
        save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, folder / file)
    if file != NETWORK[1]:
        weights.unlink()
    return net


def quiet(detail: str, percent: float | None) -> None:
    pass


@pytest.mark.parametrize("file", [PICKLE, HALF])
def test_a_network_that_is_published_as_a_pickle_or_in_half_precision_alone_is_fetched_and_loads(
    hub: FakeHub, places: ModelPlaces, tmp_path: Path, unet: Any, file: str
) -> None:
    net = write_net(tmp_path / "upstream", unet, file)
    hub.add(NET, tmp_path / "upstream")
    assert not files_presence(NET, NETWORK, places).present
    folder = get_files(NET, NETWORK, places, quiet, "the ControlNet", NET)
    assert {path.name for path in folder.glob("*.*")} == {"config.json", file, ".sdstream.json"}
    assert files_presence(NET, NETWORK, places).present
    assert find_files(NET, NETWORK, places) == folder
    loaded = load_controlnet(folder, unet, torch.float32, CPU)
    state = net.state_dict() if file == PICKLE else {name: t.half().float() for name, t in net.state_dict().items()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_a_pickle_is_not_fetched_where_there_is_something_better(
    hub: FakeHub, places: ModelPlaces, tmp_path: Path, unet: Any
) -> None:
    write_net(tmp_path / "upstream", unet, NETWORK[1])
    for name in (PICKLE, HALF):
        (tmp_path / "upstream" / name).write_bytes(b"something else")
    hub.add(NET, tmp_path / "upstream")
    folder = fetch_chosen(NET, NETWORK, places, quiet)
    assert {path.name for path in folder.glob("d*")} == {NETWORK[1]}


class _Runs:
    """Pickled, it makes a file when it is read by whoever trusts it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("what", ["controlnet", "checker"])
def test_a_pickle_that_runs_a_program_is_refused_and_nothing_runs(tmp_path: Path, unet: Any, what: str) -> None:
    ran = tmp_path / "ran"
    folder = tmp_path / "published"
    if what == "controlnet":
        write_net(folder, unet, PICKLE)
        torch.save({"conv_in.weight": _Runs(ran)}, folder / PICKLE)
        load = partial(load_controlnet, folder, unet, torch.float32, CPU)
    else:
        made(0.2).save_pretrained(folder)
        (folder / "model.safetensors").unlink()
        torch.save({"concept_embeds": _Runs(ran)}, folder / "pytorch_model.bin")
        load = partial(load_safety_checker, folder, CPU, torch.float32)
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load()
    assert not ran.exists()


def test_the_safety_checker_is_fetched_and_opened_as_it_is_published(
    hub: FakeHub, places: ModelPlaces, tmp_path: Path
) -> None:
    upstream = tmp_path / "upstream"
    checker = made(0.2)
    checker.save_pretrained(upstream)
    weights = load_file(upstream / "model.safetensors")
    as_published = {name.replace("vision_model.", "vision_model.vision_model.", 1): t for name, t in weights.items()}
    as_published["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(as_published, upstream / "pytorch_model.bin")
    (upstream / "model.safetensors").unlink()
    config = json.loads((upstream / "config.json").read_text("utf-8"))
    config |= {"vision_config_dict": config["vision_config"], "text_config_dict": None}
    (upstream / "config.json").write_text(json.dumps(config), "utf-8")
    hub.add(SAFETY_CHECKER, upstream)
    assert find_safety_checker("some/model", places) is None
    ((repository, names),) = needed_for("safety_checker")
    folder = fetch_chosen(repository, names, places, quiet)
    assert find_safety_checker("some/model", places) == folder
    image = torch.rand(4, 3, 64, 64)
    (upstream / "pytorch_model.bin").unlink()
    checker.save_pretrained(upstream)
    expected = load_safety_checker(upstream, CPU, torch.float32)
    assert torch.equal(load_safety_checker(folder, CPU, torch.float32)(image), expected(image))


def test_the_tokenizers_files_of_older_models_are_read(tiny_directory: Callable[..., Path], tmp_path: Path) -> None:
    """Published Stable Diffusion models have no `tokenizer.json`."""
    new = tiny_directory("sd-turbo") / "tokenizer"
    model = json.loads((new / "tokenizer.json").read_text("utf-8"))["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    start, end = ({"content": f"<|{word}oftext|>", "lstrip": False, "rstrip": False} for word in ("start", "end"))
    marks = {
        name: {**mark, "normalized": True, "single_word": False}
        for name, mark in (("bos_token", start), ("eos_token", end), ("unk_token", end))
    }
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({**marks, "pad_token": "!"}), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {name: {"__type": "AddedToken", **mark} for name, mark in marks.items()}
            | {"pad_token": end["content"], "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
            | {"add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
        ),
        "utf-8",
    )
    ours, older = open_tokenizer(new), open_tokenizer(tmp_path)
    assert older.pad_token == ours.pad_token == "!"
    for text in ("a Fox, in the SNOW 12!", ""):
        options: dict[str, Any] = {"padding": "max_length", "max_length": 77, "truncation": True}
        assert older(text, **options).input_ids == ours(text, **options).input_ids


def test_the_names_of_older_text_encoders_and_vaes_are_understood(
    tiny_directory: Callable[..., Path], tmp_path: Path
) -> None:
    source = tiny_directory("sdxl-turbo")
    new = ModelDirectory(source, torch.float32, CPU)
    old = ModelDirectory(tmp_path, torch.float32, CPU)
    attention = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part, kind, stem in (
        ("text_encoder", "CLIPTextModel", "model"),
        ("text_encoder_2", "CLIPTextModelWithProjection", "model"),
        ("vae", "AutoencoderKL", "diffusion_pytorch_model"),
    ):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_bytes((source / part / "config.json").read_bytes())
        weights: dict[str, torch.Tensor] = {}
        for name, tensor in load_file(source / part / f"{stem}.safetensors").items():
            if part == "vae" and ".attentions." in name:
                for now, then in attention.items():
                    name = name.replace(now, then)
            elif part != "vae" and not name.startswith(("text_model.", "text_projection")):
                name = f"text_model.{name}"
            weights[name] = tensor
        if part == "vae":
            assert any(name.endswith("attentions.0.query.weight") for name in weights)
        else:
            weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(weights, tmp_path / part / f"{stem}.safetensors", {"format": "pt"})
        expected, found = (place.network(part, kind).state_dict() for place in (new, old))
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
