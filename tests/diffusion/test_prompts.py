"""Prompts, against the pipelines of diffusers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdstream.diffusion import prompts
from sdstream.diffusion.blending import slerp
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.loading.models import Model
from sdstream.settings import Family

Load = Callable[..., Model]


@pytest.mark.parametrize("family", ["sd-turbo", "sd15", "sdxl-turbo"])
@pytest.mark.parametrize("negative", ["an hat", ""])
def test_prompts_are_encoded_as_diffusers_does(
    tiny_model: Load, tiny_directory: Callable[..., Path], family: Family, negative: str
) -> None:
    name = "StableDiffusionXLPipeline" if family == "sdxl-turbo" else "StableDiffusionPipeline"
    pipeline = getattr(diffusers, name).from_pretrained(tiny_directory(family))
    theirs = pipeline.encode_prompt(
        prompt="the cat",
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative or None,
    )
    encoder = tiny_model(family).prompts
    ours = encoder.encode("the cat"), encoder.encode_negative(negative)
    for mine, tokens in zip(ours, theirs[:2], strict=True):
        torch.testing.assert_close(mine.conditioning.tokens, tokens[0])
        assert mine.notes == ()
    for mine, pooled in zip(ours, theirs[2:], strict=False):
        torch.testing.assert_close(mine.conditioning.pooled, pooled[0])


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo"])
def test_weighted_prompts_are_blended(tiny_model: Load, family: Family) -> None:
    encoder = tiny_model(family).prompts
    texts = ["the cat", "an hat", "in rain"]
    parts = [encoder.encode(text).conditioning for text in texts]
    weights = [0.5, 0.3, 0.2]
    sphere = encoder.encode([(text, 10 * weight) for text, weight in zip(texts, weights, strict=True)])
    for index in range(2):
        torch.testing.assert_close(sphere.conditioning[index], slerp([part[index] for part in parts], weights))
    straight = encoder.encode([("the cat", 2.0), ("an hat", -0.5)], method="linear", normalise=False)
    torch.testing.assert_close(straight.conditioning.tokens, 2 * parts[0].tokens - 0.5 * parts[1].tokens)
    with pytest.raises(ValueError, match="sum above 0"):
        encoder.encode([("the cat", 1.0), ("an hat", -1.0)])


def test_a_text_is_encoded_once(tiny_model: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = prompts.PromptEncoder(tiny_model("sd-turbo").prompts.encoders)
    first = encoder.encode("the cat")
    assert encoder.encode("the cat") is first
    monkeypatch.setattr(prompts, "REMEMBERED", 2)
    encoder.encode("one")
    assert encoder.encode("the cat") is first, "used lately, so not forgotten"
    encoder.encode("two")
    encoder.encode("the cat")
    assert len(encoder._known) == 2
    encoder.encode("three")
    encoder.encode("four")
    again = encoder.encode("the cat")
    assert again is not first
    assert torch.equal(again.conditioning.tokens, first.conditioning.tokens)


def test_text_beyond_the_models_reach_is_cut_and_reported(tiny_model: Load) -> None:
    encoder = tiny_model("sd-turbo").prompts
    long = "the " * 75 + "cat dog"
    encoded = encoder.encode(long)
    assert encoded.conditioning.tokens.shape == (77, 32)
    assert torch.equal(encoded.conditioning.tokens, encoder.encode("the " * 75).conditioning.tokens)
    assert len(encoded.notes) == 1
    assert "model reads 75" in encoded.notes[0]
    assert "dog" in encoded.notes[0].replace(" ", "")
    assert encoder.encode("the " * 75).notes == ()
    assert encoder.encode([(long, 1.0), ("the cat", 1.0)]).notes == encoded.notes


@pytest.mark.parametrize("text", ["", " ", "日本語 🎥", "\x00", "<|endoftext|> the cat", "(the cat:1.5)"])
def test_any_text_gives_finite_numbers(tiny_model: Load, text: str) -> None:
    encoded = tiny_model("sdxl-turbo").prompts.encode(text)
    assert encoded.conditioning.tokens.isfinite().all()
    assert encoded.conditioning.pooled.isfinite().all()
