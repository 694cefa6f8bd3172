"""The errors of models and LoRAs that cannot be had or used. `sdstream.errors` draws the tree."""

from typing import ClassVar

from sdstream.errors import Unavailable


class ModelUnavailable(Unavailable):
    """The model that a stream asks for cannot be loaded here."""

    code = "MODELS/UNAVAILABLE"
    hint = "`sdstream doctor` lists what is present; `skip_diffusion: true` runs image processors only."
    retryable = False
    headers: ClassVar[dict[str, str]] = {}


class ModelAccessDenied(ModelUnavailable):
    """The hub does not give the files to whoever asks: gated, private, or not there at all."""

    code = "MODELS/ACCESS_DENIED"
    hint = "Accept the model's licence on its page and set HF_TOKEN to a token that may read it."


class ModelDownloadFailed(ModelUnavailable):
    """Files could not be fetched whole: no network, a server that fails, bytes that are not those promised."""

    code = "MODELS/DOWNLOAD_FAILED"
    hint = "Try again: what has come is kept, and the download goes on from there."
    retryable = True


class ModelDiskFull(ModelUnavailable):
    """There is no room for the files."""

    code = "MODELS/DISK_FULL"
    hint = "Free some space, or set SDSTREAM_DATA_DIR to a directory on another disk."


class ModelNotAsPinned(ModelUnavailable):
    """What is offered is not what was pinned: other bytes, or no such commit. Nothing of it is used."""

    code = "MODELS/NOT_AS_PINNED"
    hint = "The message says who pins it; SDSTREAM_SHIPPED_PINS=false goes without what sdstream itself pins."


class LoraUnusable(ModelUnavailable):
    """A LoRA that is not here, is none, or is made for another base model; nothing of it was applied."""

    code = "MODELS/LORA_UNUSABLE"
    hint = "Take it out of lora_dict, or name one that was made for the stream's model."


__all__ = [
    "LoraUnusable",
    "ModelAccessDenied",
    "ModelDiskFull",
    "ModelDownloadFailed",
    "ModelNotAsPinned",
    "ModelUnavailable",
]
