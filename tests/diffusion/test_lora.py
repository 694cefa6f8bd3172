"""LoRAs: fused equals peft's unfused, streams do not disturb each other, and what does not fit is refused whole."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from sdstream.diffusion.fused.switch import plain_blocks
from sdstream.diffusion.fusing import can_refit, check_loras, fused, networks_of, refit, refitted_prompts
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.lora import Lora, read_lora
from sdstream.diffusion.tiny import write_tiny_lora
from sdstream.model_errors import LoraUnusable
from sdstream.settings import Family
from tests.diffusion.runs import distance

FAMILIES: tuple[Family, ...] = ("sd15", "sd-turbo", "sdxl-turbo")
UNET_LAYERS = [
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv_in", "linear_1"),
]
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]

Load = Callable[..., Model]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft warns that it guesses; the guesses are what is compared."""
    monkeypatch.setattr("warnings.warn", lambda *_, **__: None)


def answers(model_or_networks: Model | Mapping[str, nn.Module], family: Family) -> dict[str, torch.Tensor]:
    """What each network says to the same input."""
    given: Any = model_or_networks
    networks: Any = networks_of(given) if isinstance(given, Model) else given
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    width = networks["unet"].config.cross_attention_dim
    text = torch.randn(2, 77, width, generator=generator)
    more: dict[str, Any] = {}
    if family == "sdxl-turbo":
        pooled = torch.randn(2, 32, generator=generator)
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.full((2, 6), 64.0)}}
    with plain_blocks():  # fused ones look past the layers that peft puts in place of the blocks' own
        said = {"unet": networks["unet"](latents, torch.tensor([999, 259]), text, return_dict=False, **more)[0]}
    ids = torch.arange(77)[None]
    for part, network in networks.items():
        if part != "unet":
            said[part] = network(ids)[0]
    return said


def adapted(model: Model, name: str, seed: int, alpha: int = 3) -> dict[str, Any]:
    """Copies of a model's networks with a random LoRA of peft in each."""
    networks: dict[str, Any] = copy.deepcopy(networks_of(model))
    for part, network in networks.items():
        add(network, part, name, seed, alpha)
    return networks


def add(network: Any, part: str, name: str, seed: int, alpha: int) -> None:
    layers = UNET_LAYERS if part == "unet" else TEXT_LAYERS
    network.add_adapter(LoraConfig(r=2, lora_alpha=alpha, target_modules=layers, init_lora_weights=True), name)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in network.named_parameters():
        if f"lora_B.{name}." in key or f"lora_A.{name}." in key:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def save(networks: Mapping[str, Any], name: str, folder: Path, family: Family) -> Path:
    """The file that diffusers writes of the adapter `name`."""
    states = {part: get_peft_model_state_dict(network, adapter_name=name) for part, network in networks.items()}
    configs = {part: network.peft_config[name].to_dict() for part, network in networks.items()}
    for config in configs.values():
        config["target_modules"] = list(config["target_modules"])
    writer: Any = StableDiffusionXLPipeline if family == "sdxl-turbo" else StableDiffusionPipeline
    writer.save_lora_weights(
        folder,
        **{f"{part}_lora_layers": state for part, state in states.items()},
        **{f"{part}_lora_adapter_metadata": config for part, config in configs.items()},
    )
    return folder / "pytorch_lora_weights.safetensors"


def read(file: Path, model: Model, name: str = "mine") -> Lora:
    return read_lora(file, name, model.family, networks_of(model))


@pytest.fixture
def kohya(tmp_path: Path, tiny_model: Load) -> Callable[..., Path]:
    """Writes a LoRA in kohya's layout for a tiny model."""

    def write(family: Family = "sd15", **options: Any) -> Path:
        file = tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}.safetensors"
        write_tiny_lora(file, tiny_model(family).unet, **options)
        return file

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_several_weighted_loras_fused_equal_pefts_unfused(tiny_model: Load, tmp_path: Path, family: Family) -> None:
    model = tiny_model(family)
    networks = adapted(model, "one", seed=1)
    files = [save(networks, "one", tmp_path / "one", family)]
    for part, network in networks.items():
        add(network, part, "two", seed=2, alpha=1)
    files.append(save(networks, "two", tmp_path / "two", family))
    for part, network in networks.items():
        if part == "unet":
            network.set_adapters(["one", "two"], [0.7, -0.3])
        else:  # transformers knows no weights of adapters
            network.set_adapter(["one", "two"])
            for module in network.modules():
                if hasattr(module, "scaling"):
                    module.scaling = {"one": module.scaling["one"] * 0.7, "two": module.scaling["two"] * -0.3}
    made = fused(model, [(read(files[0], model), 0.7), (read(files[1], model), -0.3)])
    ours, theirs, plain = answers(made, family), answers(networks, family), answers(model, family)
    for part in ours:
        assert distance(ours[part], theirs[part]) < 1e-4, part
        assert distance(ours[part], plain[part]) > 1e-2, f"the LoRA of the {part} has an effect"


@pytest.mark.parametrize("family", FAMILIES)
def test_kohyas_layout_fused_equals_diffusers_unfused(
    tiny_model: Load, kohya: Callable[..., Path], family: Family
) -> None:
    model, file = tiny_model(family), kohya(family)
    unet: Any = copy.deepcopy(model.unet)
    loader: Any = StableDiffusionXLPipeline if family == "sdxl-turbo" else StableDiffusionPipeline
    state, alphas = loader.lora_state_dict(load_file(file), unet_config=unet.config)
    loader.load_lora_into_unet(state, alphas, unet, adapter_name="mine")
    unet.set_adapters(["mine"], [0.8])
    ours = answers(fused(model, [(read(file, model), 0.8)]), family)["unet"]
    assert distance(ours, answers({"unet": unet}, family)["unet"]) < 1e-4
    assert distance(ours, answers(model, family)["unet"]) > 1e-2


def test_the_names_of_sdxls_own_layout_are_understood(tiny_model: Load, tmp_path: Path) -> None:
    model = tiny_model("sdxl-turbo")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    weight = networks_of(model)["unet"].get_parameter(f"{layer}.weight")
    original = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    save_file({f"{original}.lora_down.weight": down, f"{original}.lora_up.weight": up}, tmp_path / "x.safetensors")
    made = fused(model, [(read(tmp_path / "x.safetensors", model), 0.5)])
    expected = weight + 0.5 * up @ down
    torch.testing.assert_close(networks_of(made)["unet"].get_parameter(f"{layer}.weight"), expected)


def test_pefts_own_files_are_read(tiny_model: Load, tmp_path: Path) -> None:
    model = tiny_model("sd15")
    networks = adapted(model, "one", seed=1, alpha=2)
    state = get_peft_model_state_dict(networks["unet"], adapter_name="one")
    save_file(
        {f"base_model.model.{key}": value.contiguous() for key, value in state.items()}, tmp_path / "x.safetensors"
    )
    ours = answers(fused(model, [(read(tmp_path / "x.safetensors", model), 1.0)]), "sd15")["unet"]
    assert distance(ours, answers({"unet": networks["unet"]}, "sd15")["unet"]) < 1e-4


def test_models_with_other_loras_do_not_disturb_each_other(tiny_model: Load, kohya: Callable[..., Path]) -> None:
    base = tiny_model("sd15")
    before = answers(base, "sd15")
    first = fused(base, [(read(kohya(seed=1), base), 1.0)])
    said = answers(first, "sd15")
    second = fused(base, [(read(kohya(seed=2), base), 0.5)])
    for model, expected in ((base, before), (first, said)):
        assert all(torch.equal(answer, expected[part]) for part, answer in answers(model, "sd15").items())
    assert distance(answers(second, "sd15")["unet"], said["unet"]) > 1e-2
    assert first.vae is base.vae
    assert networks_of(first)["text_encoder"] is networks_of(base)["text_encoder"], "no LoRA changes it"


def test_a_fused_model_shares_what_no_lora_changes(tiny_model: Load, kohya: Callable[..., Path]) -> None:
    base = tiny_model("sd15")
    tensors = load_file(kohya())
    few = {key: tensor for key, tensor in tensors.items() if "attn2_to_k" in key}
    file = kohya()
    save_file(few, file)
    made = fused(base, [(read(file, base), 1.0)])
    ours, theirs = (dict(networks_of(model)["unet"].named_parameters()) for model in (made, base))
    own = {name for name in ours if ours[name] is not theirs[name]}
    assert own == {name for name in theirs if name.endswith("attn2.to_k.weight")}


def test_other_weights_go_into_the_same_storages(tiny_model: Load, kohya: Callable[..., Path]) -> None:
    base = tiny_model("sd15")
    one, two = read(kohya(seed=1), base), read(kohya(seed=2), base)
    model = fused(base, [(one, 1.0)])
    places = [parameter.data_ptr() for parameter in model.unet.parameters()]
    wanted = [(one, 0.3), (two, -0.4)]
    assert can_refit(model, wanted)
    check_loras(base, wanted)
    again = refit(model, wanted, refitted_prompts(model, wanted))
    assert [parameter.data_ptr() for parameter in again.unet.parameters()] == places
    fresh = fused(base, wanted)
    assert torch.equal(answers(again, "sd15")["unet"], answers(fresh, "sd15")["unet"])
    assert again.loras == (("mine", 0.3), ("mine", -0.4))
    assert not can_refit(base, wanted), "a base model is never written to"


def test_weights_that_overflow_are_refused_before_anything_is_written(
    tiny_model: Load, kohya: Callable[..., Path]
) -> None:
    base = tiny_model("sd15")
    lora = read(kohya(), base)
    model = fused(base, [(lora, 1.0)])
    before = answers(model, "sd15")["unet"]
    with pytest.raises(LoraUnusable, match=r"mine at 1e\+39 make .* overflow"):
        check_loras(base, [(lora, 1e39)])
    with pytest.raises(LoraUnusable, match="overflow"):
        fused(base, [(lora, 1e39)])
    assert torch.equal(answers(model, "sd15")["unet"], before)


@pytest.mark.parametrize(("made_for", "family"), [("sd15", "sdxl-turbo"), ("sdxl-turbo", "sd15")])
def test_a_lora_of_another_family_is_refused_by_name(
    tiny_model: Load, kohya: Callable[..., Path], made_for: Family, family: Family
) -> None:
    with pytest.raises(LoraUnusable, match=f"the LoRA mine was made for .* not for this {family}"):
        read(kohya(made_for), tiny_model(family))


def test_the_base_of_a_real_lora_is_named(tiny_model: Load, tmp_path: Path) -> None:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    pair = {f"{layer}.lora_A.weight": torch.zeros(4, 2048), f"{layer}.lora_B.weight": torch.zeros(640, 4)}
    save_file(pair, tmp_path / "x.safetensors")
    with pytest.raises(LoraUnusable, match="was made for SDXL and not for this sd15"):
        read(tmp_path / "x.safetensors", tiny_model("sd15"))


def change(key: str, value: Any) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({key: value})


FIRST = "lora_unet_down_blocks_0_resnets_0_conv1"
BROKEN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "not finite": (lambda tensors: tensors[f"{FIRST}.lora_up.weight"].fill_(float("nan")), "not finite"),
    "half a pair": (lambda tensors: tensors.pop(f"{FIRST}.lora_up.weight"), "not known|half"),
    "unknown keys": (change("something.else", torch.zeros(1)), "layout of the LoRA mine is not known"),
    "unknown layer": (change("unet.no.such.lora_A.weight", torch.zeros(2, 4)), "layout of the LoRA mine is not known"),
    "alpha of nothing": (change("lora_unet_nothing.alpha", torch.tensor(1.0)), "belongs to nothing"),
    "DoRA": (change(f"{FIRST}.dora_scale", torch.ones(16)), "mine is a DoRA"),
    "LoHa": (change(f"{FIRST}.hada_w1_a", torch.ones(16)), "mine is a LoHa"),
    "another rank": (change(f"{FIRST}.lora_up.weight", torch.zeros(16, 3, 1, 1)), "made for another base model"),
    "nothing": (lambda tensors: tensors.clear(), "not known|no layers"),
    "several alphas": (change(f"{FIRST}.alpha", torch.ones(2)), "layout of the LoRA mine is not known"),
    "a number for a matrix": (change(f"{FIRST}.lora_up.weight", torch.tensor(1.0)), "layout of the LoRA mine"),
    "rank 0 above": (change(f"{FIRST}.lora_up.weight", torch.zeros(16, 0, 1, 1)), "layout of the LoRA mine"),
    "rank 0 below": (change(f"{FIRST}.lora_down.weight", torch.zeros(0, 8, 3, 3)), "layout of the LoRA mine"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_lora_is_refused_by_name(tiny_model: Load, kohya: Callable[..., Path], kind: str) -> None:
    spoil, said = BROKEN[kind]
    file = kohya()
    tensors = load_file(file)
    spoil(tensors)
    save_file(tensors, file)
    with pytest.raises(LoraUnusable, match=said):
        read(file, tiny_model("sd15"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("x.bin", b"\x80", "a pickle"), ("x.safetensors", b"12345678", "whole"), ("x.safetensors", None, "missing")],
)
def test_files_that_are_no_safetensors_are_refused(
    tiny_model: Load, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoraUnusable, match=said):
        read(tmp_path / name, tiny_model("sd15"))


def test_a_header_that_is_no_configuration_is_ignored(tiny_model: Load, kohya: Callable[..., Path]) -> None:
    file = kohya()
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": json.dumps(["?"])})
    assert read(file, tiny_model("sd15")).changes["unet"]


@pytest.mark.parametrize("said", [{"unet.lora_alpha": "much"}, {"unet.alpha_pattern": [1]}])
def test_a_configuration_of_another_form_is_refused_by_name(
    tiny_model: Load, kohya: Callable[..., Path], said: dict[str, Any]
) -> None:
    file = kohya()
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": json.dumps(said)})
    with pytest.raises(LoraUnusable, match="layout of the LoRA mine is not known"):
        read(file, tiny_model("sd15"))


@pytest.fixture(autouse=True)
def _same_models(tiny_model: Load) -> Iterator[None]:
    """Whatever a test does, the models that all tests share stay as they were."""
    before = tiny_model("sd15").unet.state_dict()
    copies = {key: tensor.clone() for key, tensor in before.items()}
    yield
    assert all(torch.equal(tensor, copies[key]) for key, tensor in tiny_model("sd15").unet.state_dict().items())
