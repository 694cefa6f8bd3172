"""Pictures to a device and back, and resizing, in torch.

The plain way of every picture: upload planes, crop and resize them, convert, process, convert back, download. The
conversions are exact inverses (`diffusion.planes`), so a picture that nothing changes comes back as it was, and a chain
of programs does not wash its colours out.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from sdstream.diffusion.planes import LUMA_WEIGHTS, packed, packed_from_rgb, rgb_from_planes, to_bytes
from sdstream.frames import I420Frame, PictureSize, Plane, split_planes


@dataclass(frozen=True, slots=True)
class CropBox:
    """The part of a picture that is used, in pixels, all even."""

    left: int
    top: int
    width: int
    height: int


def crop_to_fill(source: PictureSize, target: PictureSize) -> CropBox:
    """The largest centred part of `source` with the shape of `target`: nothing is distorted, no bars are added.

    Sides are rounded to even pixels, so the shape is kept to within two pixels.
    """
    if source.width * target.height > source.height * target.width:
        width = _even(source.height * target.width / target.height, source.width)
        height = source.height
    else:
        width = source.width
        height = _even(source.width * target.height / target.width, source.height)
    return CropBox((source.width - width) // 4 * 2, (source.height - height) // 4 * 2, width, height)


def upload(frame: I420Frame, size: PictureSize, device: torch.device) -> torch.Tensor:
    """The picture as RGB of `size` on `device`: float32 [1, 3, height, width], 0 to 1 (a little outside for colours
    that I420 can hold and RGB cannot).

    Another shape is cropped at its centre to fill `size` (see `crop_to_fill`).
    """
    luma, chroma = _sized_planes(frame, size, device)
    return rgb_from_planes(luma, chroma, frame.matrix, frame.full_range)


def upload_planes(frame: I420Frame, size: PictureSize, device: torch.device) -> torch.Tensor:
    """The picture as packed I420 of `size` on `device`: uint8 [1, 3 height/2, width], BT.601, limited range.

    Differs from `upload` by the rounding to eight bits where the picture has another size or another range of colours.
    """
    if frame.size == size and frame.matrix == "bt601" and not frame.full_range:
        return packed(*_cut_planes(frame, CropBox(0, 0, size.width, size.height), device))
    luma, chroma = _sized_planes(frame, size, device)
    if frame.matrix == "bt601" and not frame.full_range:
        return packed(to_bytes(luma), to_bytes(chroma))
    return packed_from_rgb(rgb_from_planes(luma, chroma, frame.matrix, frame.full_range))


def scale(frame: I420Frame, size: PictureSize, target: Plane, device: torch.device) -> PictureSize:
    """Write the picture in another size into `target`, as `download` does, without a way over RGB.

    Only for BT.601 limited range; what `upload` and `download` would make of it differs by one level at most.
    """
    luma, chroma = _sized_planes(frame, size, device)
    return _store(to_bytes(luma), to_bytes(chroma), target)


def download(image: torch.Tensor, target: Plane) -> PictureSize:
    """Write RGB, float [1, 3, height, width] of 0 to 1, into `target` as packed I420, BT.601, limited range.

    `target` is uint8 [at least width * height * 3 / 2] in host memory. Returns the size. Values outside 0..1 are
    clipped to what eight bits can hold.
    """
    begun = Download(image, target)
    begun.finish()
    return begun.size


class Download:
    """`download` in two parts: making one begins it, and no more than begins it where the picture is on a GPU.

    There the planes go to pinned memory while the host does other things; `finish`, once the device has come past this
    point, takes them on to `target`. Elsewhere all is done at once. Packed I420, uint8 [1, 3 height/2, width], is taken
    as it is.
    """

    def __init__(self, image: torch.Tensor, target: Plane) -> None:
        planes = image if image.dtype == torch.uint8 else packed_from_rgb(image.float())
        _, rows, width = planes.shape
        self.size = PictureSize(width, rows * 2 // 3)
        self._target = target
        self._staged: torch.Tensor | None = None
        if planes.device.type == "cuda":
            self._staged = torch.empty(planes.numel(), dtype=torch.uint8, pin_memory=True)
            self._staged.copy_(planes.flatten(), non_blocking=True)
        else:
            _tensor(target[: self.size.byte_count]).copy_(planes.flatten())

    def finish(self) -> None:
        """The result is in `target` when this returns."""
        if self._staged is not None:
            _tensor(self._target[: self.size.byte_count]).copy_(self._staged)
            self._staged = None


def resize(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Bilinear, with a low pass when it shrinks. float [N, C, H, W]; the same tensor when the size fits already."""
    if image.shape[3] == width and image.shape[2] == height:
        return image
    shrinks = width < image.shape[3] or height < image.shape[2]
    return functional.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=shrinks)


def _even(value: float, limit: int) -> int:
    return max(2, min(limit, round(value / 2) * 2))


def _sized_planes(frame: I420Frame, size: PictureSize, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma float [1, 1, height, width] and chroma float [1, 2, height/2, width/2] of 0 to 255, cropped and resized."""
    luma, chroma = _cut_planes(frame, crop_to_fill(frame.size, size), device)
    return resize(luma.float(), size.width, size.height), resize(chroma.float(), size.width // 2, size.height // 2)


def _cut_planes(frame: I420Frame, box: CropBox, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma uint8 [1, 1, height, width] and chroma uint8 [1, 2, height/2, width/2] of a part."""
    y = _cut(frame.y, box.left, box.top, box.width, box.height, device)
    u = _cut(frame.u, box.left // 2, box.top // 2, box.width // 2, box.height // 2, device)
    v = _cut(frame.v, box.left // 2, box.top // 2, box.width // 2, box.height // 2, device)
    return y[None, None], torch.stack((u, v)).unsqueeze(0)


def _store(luma: torch.Tensor, chroma: torch.Tensor, target: Plane) -> PictureSize:
    size = PictureSize(luma.shape[3], luma.shape[2])
    y, u, v = (_tensor(plane) for plane in split_planes(target, size))
    y.copy_(luma[0, 0])
    u.copy_(chroma[0, 0])
    v.copy_(chroma[0, 1])
    return size


def _cut(plane: Plane, left: int, top: int, width: int, height: int, device: torch.device) -> torch.Tensor:
    cut = _tensor(plane[top : top + height, left : left + width])
    if device.type != "cuda":
        return cut.to(device)
    staged = torch.empty(cut.shape, dtype=cut.dtype, pin_memory=True)  # from pageable memory the copy would wait
    staged.copy_(cut)
    return staged.to(device, non_blocking=True)


def _tensor(plane: Plane) -> torch.Tensor:
    """The same memory as a tensor."""
    return torch.from_numpy(plane)  # pyright: ignore[reportUnknownMemberType] - torch does not type its argument


__all__ = [
    "LUMA_WEIGHTS",
    "CropBox",
    "Download",
    "crop_to_fill",
    "download",
    "resize",
    "scale",
    "upload",
    "upload_planes",
]
