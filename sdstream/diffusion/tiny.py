"""Tiny models with random weights, laid out as the real ones are: for tests and smoke runs, made in a second or two.

They show nothing that a person would call a picture, but every part is there and of the right kind: text encoders,
tokenizers, UNet, the full VAE and a TAESD beside it, so that what loads and runs them loads and runs the real ones.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import torch as safetensors_torch

from sdstream.diffusion.fetching.selection import LORA
from sdstream.diffusion.libraries import diffusers, transformers
from sdstream.diffusion.schedule import Prediction
from sdstream.settings import Family

TEXT_WIDTH = 32
POOLED_WIDTH = 32
TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = (("t", "h"), ("th", "e</w>"), ("i", "n"), ("c", "a"), ("ca", "t</w>"), ("a", "n"))
LCM_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
"""Endings of the names of the layers that LCM LoRAs change."""
NOISE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """How a family differs from the others."""

    unet: Mapping[str, Any]
    """Its `attention_head_dim` is how many heads there are, as in the files of real models. Few, for attention on a CPU
    takes as much longer as there are more: with eight it was most of a picture's time."""
    activations: tuple[str, ...]
    """Of the text encoders."""
    pad: str
    latent_scale: float


KINDS: Mapping[Family, Kind] = {
    "sd-turbo": Kind(
        unet={"cross_attention_dim": TEXT_WIDTH, "attention_head_dim": (2, 4), "use_linear_projection": True},
        activations=("gelu",),
        pad="!",
        latent_scale=0.18215,
    ),
    "sd15": Kind(
        unet={"cross_attention_dim": TEXT_WIDTH, "attention_head_dim": 2},
        activations=("quick_gelu",),
        pad=END,
        latent_scale=0.18215,
    ),
    "sdxl-turbo": Kind(
        unet={
            "cross_attention_dim": 2 * TEXT_WIDTH,
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + POOLED_WIDTH,
            "transformer_layers_per_block": 1,
        },
        activations=("quick_gelu", "gelu"),
        pad="!",
        latent_scale=0.13025,
    ),
}


def write_tiny_model(
    directory: Path,
    family: Family,
    *,
    seed: int = 0,
    width: int = 32,
    prediction: Prediction = "epsilon",
    taesd: bool = True,
    lcm_lora: bool = True,
    levels: int = 2,
) -> None:
    """Write a model of `family` into `directory`, which is made. The same `seed` gives the same weights.

    `width` is that of the UNet's first block, a multiple of 16. `taesd` puts a TAESD beside the full VAE, `lcm_lora` an
    LCM LoRA of its own into an `sd15`, which asks for one where nobody says otherwise. Two `levels` have every kind of
    layer that real models have; with one the UNet keeps to one resolution and the TAESD has one residual block on each
    side, so that there is less to compile.
    """
    kind = KINDS[family]
    directory.mkdir(parents=True, exist_ok=True)
    random: Any = torch.random
    with random.fork_rng(devices=[]):
        random.manual_seed(seed)
        tokenizer, vocabulary = _make_tokenizer(kind.pad)
        encoders = [
            _make_text_encoder(activation, vocabulary, index) for index, activation in enumerate(kind.activations)
        ]
        parts: dict[str, Any] = {
            "unet": _make_unet(kind, width, levels),
            "vae": _make_vae(kind),
            "text_encoder": encoders[0],
            "tokenizer": tokenizer,
            "scheduler": _make_scheduler(family, prediction),
        }
        if family == "sdxl-turbo":
            parts |= {"text_encoder_2": encoders[1], "tokenizer_2": tokenizer}
            pipeline = diffusers.StableDiffusionXLPipeline(
                **parts, force_zeros_for_empty_prompt=True, add_watermarker=False
            )
        else:
            pipeline = diffusers.StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        pipeline.save_pretrained(directory, safe_serialization=True)
        if taesd:
            _make_taesd(levels).save_pretrained(directory / "taesd", safe_serialization=True)
        if lcm_lora and family == "sd15":
            (directory / "lcm_lora").mkdir()
            write_tiny_lora(directory / "lcm_lora" / LORA, parts["unet"], strength=0.05)


def write_tiny_lora(file: Path, unet: torch.nn.Module, *, rank: int = 2, strength: float = 0.5, seed: int = 0) -> None:
    """Write a random LoRA for the layers that LCM LoRAs are trained on, in kohya's layout as those are, alpha half the
    rank.

    `strength` is how large a change is beside the weight that it changes.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    anything: Any = unet  # what it yields has no complete type
    for name, module in anything.named_modules():
        if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d) or not name.endswith(LCM_LAYERS):
            continue
        weight = module.weight.detach()
        kernel = weight.shape[2:]
        down = torch.randn(rank, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], rank, *(1 for _ in kernel), generator=generator)
        size = 2.0 * strength * float(weight.std()) / rank**0.5
        layer = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {
            f"{layer}.lora_down.weight": down,
            f"{layer}.lora_up.weight": up * size,
            f"{layer}.alpha": torch.tensor(rank / 2),
        }
    library: Any = safetensors_torch
    library.save_file(tensors, file, metadata={"format": "pt"})


def _make_tokenizer(pad: str) -> tuple[Any, int]:
    """A CLIP tokenizer of single characters and a few merges, and the number of its tokens."""
    characters = [chr(code) for code in range(33, 127)]
    tokens = [*characters, *(f"{character}</w>" for character in characters)]
    tokens += [first + second for first, second in MERGES]
    tokens += [START, END]
    with TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), "utf-8")
        merges.write_text("#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in MERGES), "utf-8")
        tokenizer = transformers.CLIPTokenizer(
            vocab=str(vocabulary), merges=str(merges), model_max_length=TOKENS, pad_token=pad
        )
    return tokenizer, len(tokens)


def _make_text_encoder(activation: str, vocabulary: int, index: int) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=POOLED_WIDTH,
        hidden_act=activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    made = transformers.CLIPTextModelWithProjection if index else transformers.CLIPTextModel
    return made(config).eval()


def _make_unet(kind: Kind, width: int, levels: int) -> Any:
    heads = kind.unet["attention_head_dim"]
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(width, 2 * width)[:levels],
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[:levels],
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[-levels:],
        norm_num_groups=8,  # of two channels at least: a group of one, in an empty slot, divides rounding by rounding
        **{**kind.unet, "attention_head_dim": heads[:levels] if isinstance(heads, tuple) else heads},
    ).eval()


def _make_vae(kind: Kind) -> Any:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        layers_per_block=1,
        scaling_factor=kind.latent_scale,
    ).eval()
    _spread(vae, vae.decoder.conv_out, 1.0 / kind.latent_scale)
    return vae


def _make_taesd(levels: int) -> Any:
    # None at the picture's own size: they took as long as all else of the TAESD.
    blocks = (0, 1, 1, 1) if levels > 1 else (0, 0, 0, 1)
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
    ).eval()
    _spread(vae, vae.decoder.layers[-1], 1.0)
    _widen(vae)
    return vae


@torch.no_grad()
def _widen(vae: Any) -> None:
    """Make the latents of `vae` as strong as the noise they are mixed with, so that pictures can be told apart."""
    latents = vae.encode(torch.rand(1, 3, 128, 128) * 2 - 1, return_dict=False)[0]
    last = vae.encoder.layers[-1]
    factor = 1.0 / latents.std((0, 2, 3))
    last.weight.mul_(factor[:, None, None, None])
    last.bias.copy_((last.bias - latents.mean((0, 2, 3))) * factor)


@torch.no_grad()
def _spread(vae: Any, last: torch.nn.Conv2d, scale: float) -> None:
    """Make the pictures of `vae` use the range of pictures: random weights alone decode to an even grey or black."""
    before = vae.decode(torch.randn(1, 4, 16, 16) * scale, return_dict=False)[0]
    assert last.bias is not None
    factor = 0.5 / before.std((0, 2, 3))
    last.weight.mul_(factor[:, None, None, None])
    last.bias.mul_(factor)
    after = vae.decode(torch.randn(1, 4, 16, 16) * scale, return_dict=False)[0]
    shift = after.mean((0, 2, 3))
    # TAESD's last layer speaks of 0 to 1, which is half as wide
    last.bias.sub_(shift / 2 if scale == 1.0 else shift)


def _make_scheduler(family: Family, prediction: Prediction) -> Any:
    if family == "sd15":
        return diffusers.PNDMScheduler(**NOISE, prediction_type=prediction, skip_prk_steps=True)
    return diffusers.EulerDiscreteScheduler(**NOISE, prediction_type=prediction, timestep_spacing="trailing")


__all__ = ["write_tiny_lora", "write_tiny_model"]
