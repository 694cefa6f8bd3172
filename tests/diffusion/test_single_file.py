"""Single files: the same model as the directory they were made from, known by their keys; layouts at full size."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdstream.diffusion.fusing import networks_of
from sdstream.diffusion.loading import architectures
from sdstream.diffusion.loading.models import Model, family_of, load_model
from sdstream.diffusion.loading.original_keys import ENCODERS, family_of_keys
from sdstream.diffusion.loading.single_file import SingleFile
from sdstream.diffusion.lora import read_lora
from sdstream.diffusion.tiny import LCM_LAYERS, write_tiny_lora
from sdstream.model_errors import ModelUnavailable
from sdstream.settings import Family
from tests.diffusion.original_layout import Tensors, original_clip, original_open_clip, original_unet, original_vae

CPU = torch.device("cpu")
FAMILIES: tuple[Family, ...] = ("sd15", "sd-turbo", "sdxl-turbo")


def original(unet: Any, vae: Any, encoders: list[Any], family: Family) -> Tensors:
    """A whole checkpoint in the original layout."""
    tensors = original_unet(unet) | original_vae(vae)
    for encoder, prefix in zip(encoders, ENCODERS[family], strict=True):
        write = original_open_clip if prefix.endswith("model.") else original_clip
        tensors |= write(encoder, prefix)
    return tensors


@pytest.fixture
def single_file(tmp_path: Path, tiny_directory: Callable[..., Path], tiny_model: Callable[..., Model]) -> Any:
    """Writes a tiny model as one file, its description beside it without weights."""

    def write(family: Family, name: str = "tiny", description: bool = True) -> Path:
        full = tiny_model(family, taesd=False)
        encoders = [encoder.model for encoder in full.prompts.encoders]
        file = tmp_path / f"{name}.safetensors"
        save_file(original(full.unet, full.vae, encoders, family), file)
        if description:
            ignored = shutil.ignore_patterns("*.safetensors", "taesd", "lcm_lora")
            shutil.copytree(tiny_directory(family), tmp_path / name, ignore=ignored)
        return file

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_model_it_was_made_from(
    single_file: Any, tiny_model: Callable[..., Model], family: Family
) -> None:
    file = single_file(family)
    loaded, expected = load_model(file, family, CPU), tiny_model(family, taesd=False)
    parts = zip(
        [*networks_of(loaded).values(), loaded.vae], [*networks_of(expected).values(), expected.vae], strict=True
    )
    for ours, theirs in parts:
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in ours.state_dict().items())
    for ours, theirs in zip(
        loaded.prompts.encode("a cat").conditioning, expected.prompts.encode("a cat").conditioning, strict=True
    ):
        torch.testing.assert_close(ours, theirs)  # the weights are equal; where they lie in memory may round otherwise
    assert loaded.schedule.prediction == expected.schedule.prediction


def test_a_single_file_takes_the_small_vae_too(single_file: Any, tiny_directory: Callable[..., Path]) -> None:
    file = single_file("sd15")
    assert load_model(file, "sd15", CPU, taesd_elsewhere=tiny_directory("sd15") / "taesd").has_taesd
    assert not load_model(file, "sd15", CPU).has_taesd


def test_another_family_is_refused_by_name(single_file: Any) -> None:
    with pytest.raises(ModelUnavailable, match="of the sd15 family, not of sd-turbo"):
        load_model(single_file("sd15"), "sd-turbo", CPU)


def test_a_tiny_file_without_a_description_is_not_guessed_at(
    single_file: Any, tiny_directory: Callable[..., Path]
) -> None:
    file = single_file("sd15", description=False)
    tokenizer = tiny_directory("sd15") / "tokenizer"
    with pytest.raises(ModelUnavailable, match="text_encoder cannot be loaded") as caught:
        load_model(file, "sd15", CPU, tokenizer_elsewhere=tokenizer)
    assert "not built like the published models" in (caught.value.hint or "")


def test_lacking_weights_are_not_made_up(single_file: Any) -> None:
    file = single_file("sd15")
    tensors = load_file(file)
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, file)
    with pytest.raises(ModelUnavailable, match=r"lacks 1 weights of the unet, such as conv_out\.bias"):
        load_model(file, "sd15", CPU)


def test_weights_that_are_not_finite_are_refused(single_file: Any) -> None:
    file = single_file("sd15")
    tensors = load_file(file)
    tensors["model.diffusion_model.out.2.bias"][0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(ModelUnavailable, match=r"not finite numbers .* conv_out\.bias"):
        load_model(file, "sd15", CPU)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([], "no model"),
        (["lora_unet_conv_in.lora_down.weight"], "a LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "without the text encoders"),
        (["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.0.model.ln_final.weight"], "refiner"),
    ],
)
def test_files_that_are_no_model_are_told_apart(keys: list[str], said: str) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        family_of_keys(Path("x.safetensors"), dict.fromkeys(keys, (1,)))


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x80\x02}"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelUnavailable, match="not a whole safetensors file"):
        load_model(file, "sd15", CPU)


def test_a_header_can_say_that_a_file_predicts_velocity(tmp_path: Path) -> None:
    tensors = {
        key: torch.zeros(1, 4) for key in ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.x")
    }
    for metadata, prediction in ({"modelspec.prediction_type": "v"}, "v_prediction"), ({"format": "pt"}, "epsilon"):
        save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
        source = SingleFile.open(tmp_path / "x.safetensors", torch.float32, CPU)
        assert source.family == "sd-turbo"
        assert source.scheduler()["prediction_type"] == prediction


# -- the published models, as far as they can be known without their weights

UNET_TENSORS: dict[Family, int] = {"sd15": 686, "sd-turbo": 686, "sdxl-turbo": 1680}
UNET_WEIGHTS: dict[Family, int] = {"sd15": 859_520_964, "sd-turbo": 865_910_724, "sdxl-turbo": 2_567_463_684}
VAE_TENSORS, VAE_WEIGHTS = 248, 83_653_863
TEXT_WEIGHTS: dict[Family, tuple[int, ...]] = {
    "sd15": (123_060_480,),
    "sd-turbo": (340_387_840,),
    "sdxl-turbo": (123_060_480, 694_659_840),
}


def empty(family: Family) -> tuple[Any, Any, list[Any]]:
    """The networks of a family at full size, without memory for weights."""
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(dict(architectures.UNETS[family]))
        vae = AutoencoderKL.from_config(architectures.vae_config(family))
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        configs = architectures.TEXT_ENCODERS[family]
        encoders = [kind(CLIPTextConfig(**config)) for kind, config in zip(kinds, configs, strict=False)]
    return unet, vae, encoders


def shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_architectures_have_the_published_sizes(family: Family) -> None:
    unet, vae, encoders = empty(family)
    assert family_of(unet.config) == family
    assert len(unet.state_dict()) == UNET_TENSORS[family]
    assert unet.num_parameters() == UNET_WEIGHTS[family]
    assert (len(vae.state_dict()), vae.num_parameters()) == (VAE_TENSORS, VAE_WEIGHTS)
    assert tuple(encoder.num_parameters() for encoder in encoders) == TEXT_WEIGHTS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_layout_at_full_size_becomes_the_published_networks(family: Family) -> None:
    unet, vae, encoders = empty(family)
    checkpoint = original(unet, vae, encoders, family)
    assert family_of_keys(Path("x.safetensors"), shapes(checkpoint)) == family
    assert shapes(convert_ldm_unet_checkpoint(checkpoint, dict(unet.config))) == shapes(unet.state_dict())
    assert shapes(convert_ldm_vae_checkpoint(checkpoint, dict(vae.config))) == shapes(vae.state_dict())
    for encoder, prefix in zip(encoders, ENCODERS[family], strict=True):
        own = {key: tensor for key, tensor in checkpoint.items() if key.startswith(prefix)}
        if prefix.endswith("model."):
            converted = convert_open_clip_checkpoint(encoder, own, prefix)
            converted.pop("text_projection.weight", None) if family == "sd-turbo" else None
        else:
            converted = convert_ldm_clip_checkpoint(own)
        expected = {key.removeprefix("text_model."): shape for key, shape in shapes(encoder.state_dict()).items()}
        found = {key.removeprefix("text_model."): shape for key, shape in shapes(converted).items()}
        assert found == expected


KEYS_SEEN_IN_PUBLISHED_FILES: dict[Family, dict[str, tuple[int, ...]]] = {
    "sd15": {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    },
    "sd-turbo": {
        "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320),
        "cond_stage_model.model.token_embedding.weight": (49408, 1024),
        "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
    },
    "sdxl-turbo": {
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
        "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
        "conditioner.embedders.1.model.positional_embedding": (77, 1280),
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
        "conditioner.embedders.1.model.text_projection": (1280, 1280),
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_the_published_files_are_where_we_write_them(family: Family) -> None:
    found = shapes(original(*empty(family), family))
    for key, shape in KEYS_SEEN_IN_PUBLISHED_FILES[family].items():
        assert found[key] == shape


@pytest.mark.parametrize("family", FAMILIES)
def test_an_lcm_lora_of_the_published_layers_fits_the_full_size_unet(family: Family, tmp_path: Path) -> None:
    unet, _, _ = empty(family)
    narrow = unet.from_config({**architectures.UNETS[family], "norm_num_groups": 8, **NARROW[family]})
    file = tmp_path / "lcm.safetensors"
    write_tiny_lora(file, narrow, rank=1)
    lora = read_lora(file, "lcm", family, {"unet": narrow})
    # Names do not depend on widths, so the full-size UNet has each of them.
    assert set(lora.changes["unet"]) <= set(unet.state_dict())
    layers = (key.removesuffix(".weight") for key in lora.changes["unet"])
    assert {end for layer in layers for end in LCM_LAYERS if layer.endswith(end)} == set(LCM_LAYERS)


NARROW: dict[Family, dict[str, Any]] = {
    "sd15": {"block_out_channels": [16, 16, 16, 16], "attention_head_dim": 8, "cross_attention_dim": 32},
    "sd-turbo": {"block_out_channels": [16, 16, 16, 16], "attention_head_dim": 8, "cross_attention_dim": 32},
    "sdxl-turbo": {
        "block_out_channels": [16, 16, 16],
        "attention_head_dim": 8,
        "cross_attention_dim": 32,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
}
