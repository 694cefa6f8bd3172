"""Each image processor against a reference written apart in numpy, loop by loop where that is clearest."""

import math
from collections.abc import Mapping
from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray

from sdstream.params import IMAGE_PROCESSORS
from sdstream.worker.processors import (
    LEARNED,
    PROCESSORS,
    ProcessorContext,
    changes_nothing,
    filters,
    run_processor,
    scaling,
)
from sdstream.worker.processors.filters import gaussian
from sdstream.worker.processors.scaling import lanczos

NOTHING = ProcessorContext()
Array = NDArray[numpy.float64]


def picture(width: int = 48, height: int = 40, seed: int = 0) -> torch.Tensor:
    """Smooth random colours with a bright box: float [1, 3, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 6, generator=generator)
    image = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    image[:, :, height // 4 : height // 2, width // 4 : width // 2] = 0.95
    return (image * 255).round() / 255


def run(name: str, image: torch.Tensor, context: ProcessorContext = NOTHING, /, **params: Any) -> torch.Tensor:
    return run_processor(name, image, IMAGE_PROCESSORS[name].defaults | params, context)


def array(image: torch.Tensor) -> Array:
    return image[0].numpy().astype(float)


def reference_gaussian(channel: Array, sigma: float, radius: int) -> Array:
    """A two-dimensional kernel over a mirrored border, for one channel."""
    offsets = range(-radius, radius + 1)
    kernel = numpy.array([[math.exp(-(x * x + y * y) / (2 * sigma * sigma)) for x in offsets] for y in offsets])
    kernel /= kernel.sum()
    padded = numpy.pad(channel, radius, mode="reflect")
    result = numpy.zeros_like(channel)
    for y in range(2 * radius + 1):
        for x in range(2 * radius + 1):
            result += kernel[y, x] * padded[y : y + channel.shape[0], x : x + channel.shape[1]]
    return result


def reference_sobel(grey: Array) -> tuple[Array, Array]:
    kernel = numpy.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = numpy.pad(grey, 1, mode="edge")
    right, down = numpy.zeros_like(grey), numpy.zeros_like(grey)
    for y in range(3):
        for x in range(3):
            part = padded[y : y + grey.shape[0], x : x + grey.shape[1]]
            right += kernel[y, x] * part
            down += kernel[x, y] * part
    return right, down


def reference_canny(rgb: Array, low: float, high: float) -> NDArray[numpy.bool_]:
    """Canny's method as textbooks write it, pixel by pixel; the gradient's length is the sum of its parts."""
    grey = numpy.round((rgb * 255 * numpy.array([0.299, 0.587, 0.114])[:, None, None]).sum(0))
    right, down = reference_sobel(grey)
    size = numpy.pad(abs(right) + abs(down), 1)
    height, width = grey.shape
    candidates: set[tuple[int, int]] = set()
    strong: list[tuple[int, int]] = []
    for y in range(height):
        for x in range(width):
            angle = math.degrees(math.atan2(down[y, x], right[y, x])) % 180
            step = {0: (0, 1), 1: (1, 1), 2: (1, 0), 3: (1, -1), 4: (0, 1)}[int((angle + 22.5) // 45)]
            here = size[y + 1, x + 1]
            before, after = size[y + 1 - step[0], x + 1 - step[1]], size[y + 1 + step[0], x + 1 + step[1]]
            upright = 0 in step
            if here > low and here > before and (here >= after if upright else here > after):
                candidates.add((y, x))
                if here > high:
                    strong.append((y, x))
    edges = set(strong)
    while strong:
        y, x = strong.pop()
        for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            if near in candidates and near not in edges:
                edges.add(near)
                strong.append(near)
    result = numpy.zeros(grey.shape, bool)
    for y, x in edges:
        result[y, x] = True
    return result


def test_every_processor_is_either_here_or_looks_with_a_network() -> None:
    assert not set(PROCESSORS) & set(LEARNED)
    assert set(PROCESSORS) | set(LEARNED) == {kind.name for kind in IMAGE_PROCESSORS.values()}
    assert not any(IMAGE_PROCESSORS[name].needs_model for name in PROCESSORS)


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_keep_to_the_range_leave_their_input_alone_and_take_batches(name: str) -> None:
    batch = torch.cat((picture(seed=1), picture(seed=2)))
    before = batch.clone()
    both = run(name, batch, ProcessorContext(torch.zeros_like(batch)))
    assert torch.equal(batch, before)
    assert both.shape[:2] == (2, 3)
    assert both.dtype == torch.float32
    assert 0 <= float(both.min()) <= float(both.max()) <= 1
    alone = run(name, batch[1:], ProcessorContext(torch.zeros_like(batch[1:])))
    assert torch.allclose(both[1:], alone, atol=1e-6)


@pytest.mark.parametrize("name", ["passthrough", "external"])
def test_some_change_nothing(name: str) -> None:
    image = picture()
    assert changes_nothing(name)
    assert run(name, image, image_width=16, image_height=16) is image


def test_blur_is_a_gaussian_cut_to_its_kernel() -> None:
    image = picture()
    result = array(run("blur", image, blur_intensity=2.5, kernel_size=9))
    for channel in range(3):
        assert abs(result[channel] - reference_gaussian(array(image)[channel], 2.5, 4)).max() < 1e-5


def test_a_blur_wider_than_the_picture_is_no_error() -> None:
    image = picture(8, 4)
    assert run("blur", image, blur_intensity=10.0, kernel_size=51).shape == image.shape


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("low", "high"), [(100, 200), (20, 60), (200, 100)])
def test_canny_is_canny(seed: int, low: int, high: int) -> None:
    image = picture(seed=seed)
    result = array(run("canny", image, low_threshold=low, high_threshold=high))
    expected = reference_canny(array(image), min(low, high), max(low, high))
    assert expected.any()
    assert numpy.mean((result[0] > 0.5) != expected) < 0.002, "rounding may decide a tie, no more"
    assert set(numpy.unique(result)) <= {0.0, 1.0}
    assert (result[0] == result[1]).all()
    assert (result[0] == result[2]).all()


def test_canny_follows_a_weak_edge_from_a_strong_one_and_not_alone() -> None:
    image = torch.full((1, 3, 64, 64), 0.2)
    ramp = torch.linspace(0.9, 0.3, 64)
    image[:, :, :, 32:] = ramp.view(1, 1, 64, 1)  # an edge that weakens downwards
    long = run("canny", image, low_threshold=60, high_threshold=300)
    short = run("canny", image, low_threshold=299, high_threshold=300)
    alone = run("canny", image[:, :, 48:], low_threshold=60, high_threshold=300)
    assert int(short.sum()) < int(long.sum())
    assert int(long.any(3).sum()) == 3 * 64
    assert int(alone.sum()) == 0


def test_soft_edge_is_bright_at_edges_and_black_in_flat_parts() -> None:
    image = torch.full((1, 3, 64, 64), 0.1)
    image[:, :, :, 32:] = 0.9
    result = run("soft_edge", image)
    assert float(result[..., 31:33].min()) > 0.5
    assert float(result[..., :16].max()) < 0.02
    half = torch.full((1, 3, 64, 64), 0.3)
    half[:, :, :, 32:] = 0.5
    assert 0 < float(run("soft_edge", half)[..., 31:33].max()) < float(result[..., 31:33].max())


@pytest.mark.parametrize(("sigma", "threshold"), [(6.0, 8), (2.0, 1), (3.0, 50)])
def test_standard_lineart_scales_what_is_darker_than_its_surroundings(sigma: float, threshold: int) -> None:
    image = picture(64, 64, seed=4)
    rgb = array(image) * 255
    radius = max(1, round(3 * sigma))
    blurred = numpy.stack([reference_gaussian(channel, sigma, radius) for channel in rgb])
    darker = (blurred - rgb).min(0).clip(0, 255)
    counted = numpy.sort(darker[darker > threshold])
    median = counted[(len(counted) - 1) // 2] if len(counted) else 0
    expected = (darker / max(16, median) * 127).clip(0, 255) / 255
    result = array(run("standard_lineart", image, gaussian_sigma=sigma, intensity_threshold=threshold))
    assert abs(result[0] - expected).max() < 1e-3
    assert result[0].max() > 0.1


def test_feedback_mixes_the_previous_output_in() -> None:
    image, previous = picture(seed=1), picture(seed=2)
    result = run("feedback", image, ProcessorContext(previous), feedback_strength=0.3)
    assert torch.allclose(result, 0.7 * image + 0.3 * previous, atol=1e-6)


def test_feedback_without_a_previous_output_is_the_picture() -> None:
    image = picture()
    assert torch.equal(run("feedback", image), image)


def test_feedback_fits_a_previous_output_of_another_size() -> None:
    result = run("feedback", torch.zeros(1, 3, 16, 16), ProcessorContext(torch.ones(1, 3, 64, 32)))
    assert torch.allclose(result, torch.full((1, 3, 16, 16), 0.5))


def test_sharpening_steepens_edges_and_leaves_flat_parts() -> None:
    image = torch.full((1, 3, 32, 32), 0.4)
    image[..., 16:] = 0.6
    result = run("sharpen", image)
    assert torch.allclose(result[..., :4], image[..., :4], atol=1e-3)
    assert float(result[..., 15].mean()) < 0.39
    assert float(result[..., 16].mean()) > 0.61


@pytest.mark.parametrize(
    ("name", "less", "more"),
    [
        ("sharpen_intensity", 0.1, 5.0),
        ("unsharp_radius", 0.5, 5.0),
        ("edge_enhancement", 0.0, 2.0),
        ("detail_boost", 0.0, 1.0),
    ],
)
def test_each_strength_of_sharpen_steepens(name: str, less: float, more: float) -> None:
    image = torch.full((1, 3, 32, 32), 0.45)
    image[..., 16:] = 0.55

    def contrast(value: float) -> float:
        result = run("sharpen", image, **{name: value})
        return float(result[..., 16].mean() - result[..., 15].mean())

    assert contrast(more) > contrast(less)


def test_noise_reduction_and_scales_of_sharpen_have_an_effect() -> None:
    noisy = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    quiet, loud = (run("sharpen", noisy, noise_reduction=value).std() for value in (0.5, 0.0))
    assert float(quiet) < float(loud)
    image = picture()
    assert not torch.allclose(run("sharpen", image, multi_scale=True), run("sharpen", image, multi_scale=False))


@pytest.mark.parametrize("algorithm", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize(("factor", "width", "height"), [(2.0, 96, 80), (1.5, 72, 60), (1.25, 60, 50)])
def test_upscale_enlarges_and_keeps_the_picture(algorithm: str, factor: float, width: int, height: int) -> None:
    image = picture()
    result = run("upscale", image, scale_factor=factor, algorithm=algorithm)
    assert result.shape == (1, 3, height, width)
    back = torch.nn.functional.interpolate(result, (40, 48), mode="bilinear", antialias=True)
    assert float((back - image).abs().mean()) < 0.02


def test_lanczos_keeps_a_flat_picture_and_a_slope() -> None:
    slope = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(1, 3, 32, 32)
    large = lanczos(slope, 64, 64)
    assert torch.allclose(lanczos(torch.full((1, 3, 8, 8), 0.3), 24, 20), torch.full((1, 3, 20, 24), 0.3), atol=1e-5)
    middle = large[0, 0, 32, 10:-10]
    assert torch.allclose(middle.diff(), torch.full_like(middle.diff(), 0.5 / 31), atol=2e-3)


@pytest.mark.parametrize(
    "params", [{"detect_resolution": 24}, {"image_width": 24, "image_height": 20}, {"image_resolution": 24}]
)
def test_a_working_size_gives_a_coarser_result_of_the_same_size(params: Mapping[str, int]) -> None:
    image = picture(96, 80)
    result = run("blur", image, blur_intensity=0.5, kernel_size=3, **params)
    assert result.shape == image.shape
    fine = run("blur", image, blur_intensity=0.5, kernel_size=3)
    assert float(result.diff(dim=3).abs().max()) < float(fine.diff(dim=3).abs().max())


def test_a_gaussian_keeps_the_mean_and_adds_no_brightness() -> None:
    image = picture()
    assert float(gaussian(torch.ones(1, 1, 20, 20), 3.0).sub(1).abs().max()) < 1e-6
    assert float(gaussian(image, 2.0).mean()) == pytest.approx(float(image.mean()), abs=0.01)


def test_weights_of_values_that_are_used_no_more_go() -> None:
    image = torch.rand(1, 3, 16, 16)
    for number in range(300):
        filters.gaussian_weights(1.0 + number / 100, 3)
        scaling.lanczos(image, 16 + number % 30, 16)
    for function in (filters.gaussian_weights, scaling._lanczos_weights):
        kept = function.cache_info()
        assert kept.maxsize is not None
        assert kept.currsize <= kept.maxsize <= 256
    assert (scaling._lanczos_weights.cache_info().maxsize or 0) <= 8
