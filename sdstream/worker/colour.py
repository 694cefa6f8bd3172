"""I420 planes to RGB and back, and resizing, in torch on any device.

The plain way of every picture: upload planes, crop and resize them, convert, process, convert back, download. Chroma
is doubled by repetition and halved by averaging, which are exact inverses, so a picture that nothing changes comes
back as it was, and a chain of programs does not wash its colours out.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

from sdstream.frames import ColourMatrix, I420Frame, PictureSize, Plane, split_planes

LUMA_WEIGHTS: dict[ColourMatrix, tuple[float, float, float]] = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
}
"""The shares of red, green and blue in luma, by ITU-R BT.601 and BT.709."""


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


def scale(frame: I420Frame, size: PictureSize, target: Plane, device: torch.device) -> PictureSize:
    """Write the picture in another size into `target`, as `download` does, without a way over RGB.

    Only for BT.601 limited range; what `upload` and `download` would make of it differs by one level at most.
    """
    luma, chroma = _sized_planes(frame, size, device)
    return _store(_to_bytes(luma), _to_bytes(chroma), target)


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
    point, takes them on to `target`. Elsewhere all is done at once.
    """

    def __init__(self, image: torch.Tensor, target: Plane) -> None:
        luma, chroma = planes_from_rgb(image.float())
        self.size = PictureSize(luma.shape[3], luma.shape[2])
        self._target = target
        self._staged: torch.Tensor | None = None
        if luma.device.type == "cuda":
            packed = torch.cat((luma.flatten(), chroma.flatten()))
            self._staged = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
            self._staged.copy_(packed, non_blocking=True)
        else:
            _store(luma, chroma, target)

    def finish(self) -> None:
        """The result is in `target` when this returns."""
        if self._staged is not None:
            _tensor(self._target[: self.size.byte_count]).copy_(self._staged)
            self._staged = None


def rgb_from_planes(luma: torch.Tensor, chroma: torch.Tensor, matrix: ColourMatrix, full_range: bool) -> torch.Tensor:
    """RGB of planes that hold 0 to 255: `luma` float [N, 1, H, W], `chroma` float [N, 2, H/2, W/2] (U, V).

    Returns float [N, 3, H, W]; 0 to 1 for every colour that RGB has.
    """
    count, _, height, width = luma.shape
    weights = _to_rgb(matrix, full_range, str(luma.device))
    offset = 0.0 if full_range else 16.0
    scale = 1.0 / 255.0 if full_range else 1.0 / 219.0
    colour = torch.einsum("rc,nchw->nrhw", weights, chroma - 128.0)
    grey = (luma - offset) * scale
    halves = grey.view(count, 1, height // 2, 2, width // 2, 2)
    return (halves + colour.view(count, 3, height // 2, 1, width // 2, 1)).view(count, 3, height, width)


def planes_from_rgb(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `rgb_from_planes` for BT.601 limited range, rounded: uint8 [N, 1, H, W] and [N, 2, H/2, W/2]."""
    weights = _from_rgb(str(image.device))
    luma = torch.einsum("yr,nrhw->nyhw", weights[:1], image) + 16.0
    rows = image[:, :, ::2] + image[:, :, 1::2]  # ten times as fast as avg_pool2d on a CPU
    squares = (rows[:, :, :, ::2] + rows[:, :, :, 1::2]) * 0.25
    chroma = torch.einsum("cr,nrhw->nchw", weights[1:], squares) + 128.0
    return _to_bytes(luma), _to_bytes(chroma)


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
    box = crop_to_fill(frame.size, size)
    y = _cut(frame.y, box.left, box.top, box.width, box.height, device)
    u = _cut(frame.u, box.left // 2, box.top // 2, box.width // 2, box.height // 2, device)
    v = _cut(frame.v, box.left // 2, box.top // 2, box.width // 2, box.height // 2, device)
    luma = y[None, None].float()
    chroma = torch.stack((u, v)).unsqueeze(0).float()
    return resize(luma, size.width, size.height), resize(chroma, size.width // 2, size.height // 2)


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


def _to_bytes(plane: torch.Tensor) -> torch.Tensor:
    return plane.round_().clamp_(0, 255).to(torch.uint8)


@cache
def _to_rgb(matrix: ColourMatrix, full_range: bool, device: str) -> torch.Tensor:
    """float [3, 2]: what a step of U and of V adds to red, green and blue."""
    red, green, blue = LUMA_WEIGHTS[matrix]
    scale = 255.0 if full_range else 224.0
    red_from_v = 2 * (1 - red) / scale
    blue_from_u = 2 * (1 - blue) / scale
    rows = [
        [0.0, red_from_v],
        [-blue_from_u * blue / green, -red_from_v * red / green],
        [blue_from_u, 0.0],
    ]
    return torch.tensor(rows, device=device)


@cache
def _from_rgb(device: str) -> torch.Tensor:
    """float [3, 3]: luma, U and V of BT.601 limited range from red, green and blue of 0 to 1, without offsets."""
    red, green, blue = LUMA_WEIGHTS["bt601"]
    u = [-red / (1 - blue) / 2, -green / (1 - blue) / 2, 0.5]
    v = [0.5, -green / (1 - red) / 2, -blue / (1 - red) / 2]
    return torch.tensor(
        [[219.0 * share for share in (red, green, blue)], [224.0 * x for x in u], [224.0 * x for x in v]],
        device=device,
    )


__all__ = [
    "LUMA_WEIGHTS",
    "CropBox",
    "Download",
    "crop_to_fill",
    "download",
    "planes_from_rgb",
    "resize",
    "rgb_from_planes",
    "scale",
    "upload",
]
