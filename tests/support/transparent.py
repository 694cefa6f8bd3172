"""A tiny model that lets the picture's greys through: its UNet sees no noise, its VAE scales down and up again.

So a code in a picture can be read after diffusion, which random weights would make noise of.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.tiny import write_tiny_model


def write_transparent_model(directory: Path) -> None:
    """Write an SD-Turbo of this kind into `directory`."""
    write_tiny_model(directory, "sd-turbo", width=16)
    kind: Any = diffusers.UNet2DConditionModel
    unet = kind.from_config(
        kind.load_config(directory / "unet"),
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),  # attention where pixels are few, as it is slow
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    with torch.no_grad():
        unet.conv_out.weight.zero_()
        unet.conv_out.bias.zero_()
    unet.save_pretrained(directory / "unet", safe_serialization=True)
    vae: Any = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    with torch.no_grad():
        for coder in (vae.encoder, vae.decoder):
            outer = [
                module
                for name, module in coder.named_modules()
                if isinstance(module, nn.Conv2d) and ".conv." not in name
            ]
            for module in coder.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.zero_()
                    if module.bias is not None:
                        module.bias.zero_()
            for module in outer:  # the value in the middle, of the first channel
                module.weight[0, 0, 1, 1] = 1.0
        vae.encoder.layers[0].weight[0, :, 1, 1] = 1 / 3
        outer[-1].weight[:, 0, 1, 1] = 1.0
    vae.save_pretrained(directory / "taesd", safe_serialization=True)


__all__ = ["write_transparent_model"]
