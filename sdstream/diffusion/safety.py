"""The safety checker: pictures that it takes offence at are never shown, another is. All of it on the device.

It is the model of `CompVis/stable-diffusion-safety-checker`, which compares CLIP's view of a picture with the concepts
that it was made with. It is published as a pickle, which is opened as tensors alone. Where the model is not on the
machine streams run without it, and say so.
"""

import importlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional

from sdstream.diffusion.capture import Capture, Recording
from sdstream.diffusion.fetching.selection import TRANSFORMERS, opening
from sdstream.diffusion.fetching.sources import NOWHERE, SAFETY_CHECKER, find_cached, find_files
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.placing import place
from sdstream.diffusion.readback import Readback, make_readback
from sdstream.directories import ModelPlaces, home_expanded
from sdstream.errors import first_line
from sdstream.model_errors import ModelUnavailable

ABSENT = (
    "use_safety_checker is on and no safety checker is on this machine, so pictures are not checked; "
    "`sdstream models pull --for safety_checker` fetches it"
)
FOLDER = "safety_checker"
"""Where a model's directory has one of its own."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that CLIP was trained with."""
CANNOT_LOAD = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError),
    *(SafetensorError, pickle.UnpicklingError),
)
CARE = 0.01
"""How much stricter the other concepts are taken once one of special care is seen."""
MOST_CAPTURES = 8


class SafetyChecker(nn.Module):
    """The network. `forward` says of each picture, float [S, 3, H, W] of 0 to 1, whether it is unsafe: bool [S].

    Of a picture that is not square the middle is looked at, as the model was made for.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, model: nn.Module) -> None:
        """`model` is `StableDiffusionSafetyChecker` of diffusers."""
        super().__init__()
        self.model = model
        config: Any = model.config
        self.side = int(config.vision_config.image_size)
        weight = next(model.parameters())
        self.dtype = weight.dtype
        for name, colours in (("mean", MEAN), ("spread", SPREAD)):
            self.register_buffer(name, torch.tensor(colours, device=weight.device).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        seen = (self._middle(image.float()) - self.mean) / self.spread
        pooled = model.vision_model(seen.to(self.dtype))[1]
        view = functional.normalize(model.visual_projection(pooled).float())
        care = _scores(view, model.special_care_embeds, model.special_care_embeds_weights) > 0
        scores = _scores(view, model.concept_embeds, model.concept_embeds_weights)
        return (scores + care.any(1, keepdim=True) * CARE > 0).any(1)

    def _middle(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[:, :, top : top + side, left : left + side]
        small = functional.interpolate(
            square, (self.side, self.side), mode="bicubic", align_corners=False, antialias=True
        )
        return small.clamp(0, 1)


class CheckRunner:
    """Runs a checker, on a GPU as one launch for each shape of pictures. Used by one thread."""

    def __init__(self, checker: SafetyChecker, capture: Capture | None = None) -> None:
        self._checker = checker
        self._capture = capture
        self._recordings: dict[tuple[int, ...], tuple[torch.Tensor, Recording[torch.Tensor]]] = {}

    def check(self, image: torch.Tensor) -> torch.Tensor:
        """As `SafetyChecker.forward`; the answer is valid until the next call."""
        if self._capture is None:
            answer: torch.Tensor = self._checker(image)
            return answer
        shape = tuple(image.shape)
        if shape not in self._recordings:
            while len(self._recordings) >= MOST_CAPTURES:
                self._recordings.pop(next(iter(self._recordings)))[1].forget()
            held = image.clone()
            try:
                self._recordings[shape] = held, self._capture.record(lambda: self._checker(held))
            except RuntimeError as error:
                if not self._capture.is_refusal(error):
                    raise
                self._capture = None
                return self.check(image)
        held, recording = self._recordings[shape]
        held.copy_(image)
        recording.replay()
        return recording.result


Cover = Callable[[torch.Tensor], torch.Tensor]
"""What is shown in place of a picture: one of its shape, on its device."""


class SafetyGuard:
    """One stream's guard: what it lets pass is safe, or the cover.

    Each `interval`-th picture is checked, 1 or more, and what was found counts until the next check.
    """

    def __init__(
        self,
        runner: CheckRunner,
        cover: Cover,
        device: torch.device,
        interval: int = 1,
        readback: Readback | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f"pictures are checked each 1st time at most, not each {interval}th")
        self._runner = runner
        self._cover = cover
        self._interval = interval
        self._readback = make_readback(device) if readback is None else readback
        self._pictures = 0
        self._unsafe: torch.Tensor | None = None
        self._count = torch.zeros(1, device=device)
        self._blocked = 0

    @property
    def blocked(self) -> int:
        """The pictures that were replaced, as far as the host knows: on a GPU it hears of them a little later."""
        newest = self._readback.take()
        if newest is not None:
            self._blocked = int(newest)
        return self._blocked

    def check_next(self) -> None:
        """Check the next picture whatever the interval: what is shown has changed."""
        self._pictures = 0

    def guard(self, image: torch.Tensor) -> torch.Tensor:
        """The picture, float [1, 3, H, W] of 0 to 1, or its cover."""
        if self._unsafe is None or self._pictures % self._interval == 0:
            self._unsafe = self._runner.check(image).clone().view(1, 1, 1, 1)
            self._pictures = 0
        self._pictures += 1
        self._count += self._unsafe.view(1)
        self._readback.put(self._count)
        return torch.where(self._unsafe, self._cover(image), image)


def find_safety_checker(source: str, places: ModelPlaces = NOWHERE) -> Path | None:
    """The checker's directory: that of the model at `source`, a directory or hub id, else the one below the data
    directory's `models` or in the hub's cache.

    None without any.
    """
    for model in (home_expanded(source), find_cached(source)):
        if model is not None and os.path.isfile(model / FOLDER / "config.json"):
            return model / FOLDER
    return find_files(SAFETY_CHECKER, TRANSFORMERS, places)


def load_safety_checker(directory: Path, device: torch.device, dtype: torch.dtype) -> SafetyChecker:
    """Load a checker. Raises `ModelUnavailable` when files are missing, pickled or broken, or are of something else."""
    made: Any = importlib.import_module(f"{diffusers.__name__}.pipelines.stable_diffusion.safety_checker")
    try:
        model, report = made.StableDiffusionSafetyChecker.from_pretrained(
            directory,
            local_files_only=True,
            output_loading_info=True,
            dtype=dtype,
            **opening(directory, TRANSFORMERS[1]),
        )
    except CANNOT_LOAD as error:
        raise ModelUnavailable(f"the safety checker in {directory} cannot be loaded: {first_line(error)}") from error
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise ModelUnavailable(f"the safety checker in {directory} lacks {len(missing)} weights, such as {missing[0]}")
    place(model, device)
    finite: Any = torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()
    if not finite:
        raise ModelUnavailable(f"the safety checker in {directory} holds weights that are not finite numbers")
    return SafetyChecker(model)


def _scores(view: torch.Tensor, concepts: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """By how much each concept is above its threshold, float32 [S, concepts]."""
    return view @ functional.normalize(concepts.float()).t() - thresholds.float()


__all__ = [
    "ABSENT",
    "CheckRunner",
    "Cover",
    "SafetyChecker",
    "SafetyGuard",
    "find_safety_checker",
    "load_safety_checker",
]
