"""The wire contract of a stream's parameters: read leniently, checked wholly, written strictly. No torch, no HTTP.

`parse_create` and `apply_update` read requests, `classify` says what a change does to a running stream, `wire_params`
writes answers, `parameter_catalogue` describes every field.
"""

from sdstream.params.adapters import CachedAttention, IpAdapter, RegularIpAdapter
from sdstream.params.addresses import StyleImage
from sdstream.params.catalogue import parameter_catalogue, processor_catalogue
from sdstream.params.change import Change, ChangeKind, classify
from sdstream.params.controlnets import CONTROLNETS, ControlNet
from sdstream.params.create import CreateRequest, parse_create
from sdstream.params.delivery import Delivery
from sdstream.params.models import PUBLIC_MODELS, ModelEntry, ModelTable
from sdstream.params.processors import (
    IMAGE_PROCESSORS,
    LATENT_PROCESSORS,
    ImageProcessing,
    LatentProcessing,
    LatentProcessor,
    Processor,
    ProcessorKind,
    ProcessorParameter,
)
from sdstream.params.update import Update, apply_update
from sdstream.params.variants import Sd15Params, SdTurboParams, SdxlTurboParams, StreamParams
from sdstream.params.wire import STYLE_IMAGE, dump_params, image_apart, load_params, wire_params

__all__ = [
    "CONTROLNETS",
    "IMAGE_PROCESSORS",
    "LATENT_PROCESSORS",
    "PUBLIC_MODELS",
    "STYLE_IMAGE",
    "CachedAttention",
    "Change",
    "ChangeKind",
    "ControlNet",
    "CreateRequest",
    "Delivery",
    "ImageProcessing",
    "IpAdapter",
    "LatentProcessing",
    "LatentProcessor",
    "ModelEntry",
    "ModelTable",
    "Processor",
    "ProcessorKind",
    "ProcessorParameter",
    "RegularIpAdapter",
    "Sd15Params",
    "SdTurboParams",
    "SdxlTurboParams",
    "StreamParams",
    "StyleImage",
    "Update",
    "apply_update",
    "classify",
    "dump_params",
    "image_apart",
    "load_params",
    "parameter_catalogue",
    "parse_create",
    "processor_catalogue",
    "wire_params",
]
