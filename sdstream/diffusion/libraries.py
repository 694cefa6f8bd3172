"""The one door to diffusers and transformers: what they print is silenced, and their types are given up, here only."""

import os
from typing import Any

# Loading must never wait for a network that nobody asked to use; what is fetched is fetched before, by name.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import diffusers as _diffusers
import transformers as _transformers
from diffusers.loaders import lora_pipeline as _lora_pipeline
from diffusers.loaders import single_file_utils as _single_file_utils
from diffusers.models import activations as _activations
from diffusers.models import attention_processor as _attentions
from diffusers.models import downsampling as _downsampling
from diffusers.models import resnet as _resnet
from diffusers.models import upsampling as _upsampling
from diffusers.models.autoencoders import vae as _vae
from diffusers.models.transformers import transformer_2d as _transformer_blocks
from diffusers.models.unets import unet_2d_blocks as _unet_blocks
from diffusers.utils import logging as _diffusers_logging
from diffusers.utils import state_dict_utils as _state_dict_utils
from transformers.utils import logging as _transformers_logging

activations: Any = _activations
attentions: Any = _attentions
autoencoder_parts: Any = _vae
diffusers: Any = _diffusers
downsampling: Any = _downsampling
transformer_blocks: Any = _transformer_blocks
transformers: Any = _transformers
lora_loaders: Any = _lora_pipeline
residual_blocks: Any = _resnet
single_files: Any = _single_file_utils
state_dicts: Any = _state_dict_utils
unet_blocks: Any = _unet_blocks
upsampling: Any = _upsampling

for _logging in (_diffusers_logging, _transformers_logging):
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()

__all__ = [
    "activations",
    "attentions",
    "autoencoder_parts",
    "diffusers",
    "downsampling",
    "lora_loaders",
    "residual_blocks",
    "single_files",
    "state_dicts",
    "transformer_blocks",
    "transformers",
    "unet_blocks",
    "upsampling",
]
