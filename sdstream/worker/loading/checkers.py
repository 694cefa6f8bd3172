"""The safety checkers in memory, and what is shown in place of the pictures that they hide."""

import threading
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from sdstream.diffusion.capture import cuda_capture
from sdstream.diffusion.safety import CheckRunner, find_safety_checker, load_safety_checker
from sdstream.directories import ModelPlaces

BACKGROUND = (15, 18, 24)
INK = (158, 167, 181)


class CheckerShelf:
    """Checkers in memory, each once for all streams of a device. Threads may call at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: dict[tuple[Path, str, torch.dtype], CheckRunner] = {}
        self._given: dict[tuple[str, str, torch.dtype], CheckRunner] = {}
        """By the model that one was asked for last."""

    def get(self, source: str, device: torch.device, dtype: torch.dtype, places: ModelPlaces) -> CheckRunner | None:
        """The checker for the model at `source`; None where the machine has none. Raises `ModelUnavailable`.

        One that is in memory stays in force though its files have vanished: nobody asked for pictures unchecked.
        """
        directory = find_safety_checker(source, places)
        asked = (source, str(device), dtype)
        if directory is None:
            with self._lock:
                return self._given.get(asked)
        key = (directory.resolve(), str(device), dtype)
        with self._lock:
            if key not in self._runners:
                capture = cuda_capture(device) if device.type == "cuda" else None
                self._runners[key] = CheckRunner(load_safety_checker(directory, device, dtype), capture)
            self._given[asked] = self._runners[key]
            return self._runners[key]


_placards: dict[tuple[int, int, str], torch.Tensor] = {}


def placard(image: torch.Tensor) -> torch.Tensor:
    """The cover of an unsafe picture, float [1, 3, H, W] of 0 to 1; drawn once for each size, and not to be changed."""
    height, width = image.shape[-2:]
    key = (width, height, str(image.device))
    if key not in _placards:
        canvas = Image.new("RGB", (width, height), BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        unit = min(width, height) / 100
        font = ImageFont.load_default(size=5 * unit)
        draw.text((width / 2, height / 2), "hidden by the safety checker", fill=INK, font=font, anchor="mm")
        pixels = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(height, width, 3)
        _placards[key] = (pixels.permute(2, 0, 1)[None].float() / 255).contiguous().to(image.device)
    return _placards[key]


__all__ = ["CheckerShelf", "placard"]
