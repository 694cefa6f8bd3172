"""Profiles: the shipped ones are good, and what is wrong in one is named, with what was probably meant."""

from pathlib import Path
from typing import get_args

import pytest

from builder.profiles import Choice, Profile, apply_choice, find_profile, parse_size, read_profile, shipped_profiles
from sdstream.engines.targets import (
    GENERATIONS,
    RTX_CAPABILITIES,
    bake_command,
    choose_backends,
    parse_capabilities,
    refuse_capabilities,
)
from sdstream.errors import ConfigurationError
from sdstream.params import CONTROLNETS, PUBLIC_MODELS
from sdstream.settings import Family

GOOD = """
family = "sd-turbo"
model = "stabilityai/sd-turbo"
sizes = ["512x512"]
[targets]
tensorrt-rtx = [89]
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", shipped_profiles())
def test_the_shipped_profiles_name_what_daydream_has(name: str) -> None:
    profile = find_profile(name)
    assert profile.name == name
    assert PUBLIC_MODELS[profile.model] == profile.family
    assert set(profile.controlnets) <= set(CONTROLNETS)
    assert profile.targets["tensorrt-rtx"]


def test_every_family_is_shipped() -> None:
    assert {find_profile(name).family for name in shipped_profiles()} == set(get_args(Family))
    assert "sdxl-turbo-1024" in shipped_profiles()


def test_a_profile_of_ones_own_is_taken_by_its_path(tmp_path: Path) -> None:
    profile = find_profile(str(written(tmp_path, GOOD)))
    assert profile.pictures == ((512, 512),)
    assert profile.streams.most == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (GOOD.replace("family", "familyx"), "familyx is not a field of a profile; did you mean family?"),
        (GOOD.replace("model =", "modelx ="), "did you mean model?"),
        (GOOD.replace("tensorrt-rtx", "tensorrt-rxt"), "did you mean tensorrt-rtx?"),
        (GOOD.replace("512x512", "500x500"), "multiples of 64"),
        (GOOD.replace('family = "sd-turbo"', 'family = "sd-turboo"'), "did you mean sd-turbo?"),
        (GOOD.replace("[targets]", 'components = ["unet-tokens"]\n[targets]'), "needs `adapter`"),
        (GOOD.replace("[targets]", 'components = ["unet-recall"]\n[targets]'), "needs `recalled`"),
        (GOOD.replace("[targets]", 'components = ["frame"]\n[targets]'), "whole frames are for `compiled` only"),
        (GOOD.replace("512x512", "large"), "not a size such as 512x512"),
        (GOOD.replace("[89]", "[90]"), "TensorRT-RTX has no engines for SM 9.0"),
        (GOOD.replace("[89]", "[]"), "names no compute capability"),
        (GOOD.replace("[targets]", 'components = ["unte"]\n[targets]'), "did you mean unet?"),
        (GOOD.replace("[targets]", 'components = ["controlnet"]\n[targets]'), "needs `controlnets`"),
        (GOOD.replace("[targets]", "streams = { best = 4, most = 2 }\n[targets]"), "best (4) is above most (2)"),
        (GOOD.replace("[targets]", "slots = [0]\n[targets]"), "denoising steps are 1 to 50"),
        (GOOD.replace("[targets]", 'processors = ["depth_tensort"]\n[targets]'), "did you mean depth_tensorrt?"),
        (GOOD.replace("stabilityai/sd-turbo", ""), "unet, encoder, decoder needs `model`"),
        ("family =", "is not TOML"),
        ("sizes = " + "[" * 20_000, "nested too deeply"),
        (GOOD.replace("[targets]", f"tiny = {2**63}\n[targets]"), "tiny: "),
    ],
)
def test_what_is_wrong_in_a_profile_is_named(tmp_path: Path, changed: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_profile(written(tmp_path, changed))
    assert words in raised.value.message
    assert "mine.toml" in raised.value.message


def test_a_profile_of_image_processors_alone_names_no_model_and_any_size(tmp_path: Path) -> None:
    text = 'processors = ["depth_tensorrt"]\nsizes = ["500x283"]\n[targets]\ncompiled = []\n'
    profile = read_profile(written(tmp_path, text))
    assert (profile.components, profile.pictures) == ((), ((500, 283),))
    assert apply_choice(profile, Choice(backend="tensorrt-rtx", capabilities=(89,))).components == ()
    with pytest.raises(ConfigurationError, match="sides are from 14 to 2048"):
        read_profile(written(tmp_path, text.replace("500x283", "500x8")))


def test_an_unknown_profile_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no profile sd-trubo-512; did you mean sd-turbo-512\?"):
        find_profile("sd-trubo-512")


def test_the_command_line_changes_model_back_end_and_cards(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path, GOOD))
    changed = apply_choice(profile, Choice("/models/mine", "tensorrt", (90,)))
    assert (changed.model, dict(changed.targets)) == ("/models/mine", {"tensorrt": (90,)})
    assert profile.model == "stabilityai/sd-turbo"
    with pytest.raises(ConfigurationError, match=r"no engines for SM 9\.0"):
        apply_choice(profile, Choice(capabilities=(90,)))
    assert apply_choice(profile, Choice(backend="compiled")).targets == {"compiled": (89,)}


def test_a_profile_without_a_known_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="family"):
        read_profile(written(tmp_path, GOOD.replace("sd-turbo", "sd3", 1)))
    with pytest.raises(ValueError, match="multiples of 64 from 64 to 2048"):
        parse_size("4096x512", 64)


@pytest.mark.parametrize(
    ("capability", "installed", "wanted"),
    [
        (89, ("compiled", "tensorrt-rtx", "tensorrt"), ("tensorrt-rtx", "tensorrt", "compiled")),
        (90, ("compiled", "tensorrt-rtx", "tensorrt"), ("tensorrt", "compiled")),
        (90, ("compiled", "tensorrt-rtx"), ("compiled",)),
        (200, ("tensorrt", "compiled"), ("tensorrt", "compiled")),
        (None, ("compiled", "tensorrt-rtx"), ("compiled",)),
    ],
)
def test_each_card_has_its_back_ends(capability: int | None, installed: tuple, wanted: tuple) -> None:
    assert choose_backends(capability, installed) == wanted


def test_the_table_of_generations_agrees_with_the_choice() -> None:
    for generation in GENERATIONS:
        best = choose_backends(generation.capability, ("compiled", "tensorrt", "tensorrt-rtx"))[0]
        assert best == generation.best
        assert (generation.best == "tensorrt-rtx") == (generation.capability in RTX_CAPABILITIES)
        refused = refuse_capabilities("tensorrt-rtx", [generation.capability])
        assert (refused is None) == (generation.best == "tensorrt-rtx")


@pytest.mark.parametrize(("text", "wanted"), [("89", (89,)), ("8.9, 12.0", (89, 120)), ("sm86,sm86", (86,))])
def test_compute_capabilities_are_read_as_people_write_them(text: str, wanted: tuple[int, ...]) -> None:
    assert parse_capabilities(text) == wanted


@pytest.mark.parametrize("text", ["", "8", "ada", "89;120", "-89"])
def test_what_is_no_compute_capability_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a compute capability"):
        parse_capabilities(text)


def test_the_command_that_bakes_is_one_that_can_be_typed() -> None:
    assert bake_command("sd-turbo-512", "tensorrt-rtx", 89).endswith(
        "--profile sd-turbo-512 --backend tensorrt-rtx --sm 89"
    )
    assert "--sm" not in bake_command(None, "compiled", None)
    assert Profile.model_fields["components"].default == ("unet", "encoder", "decoder")


@pytest.mark.parametrize("text", ["²x512", "\u0665\u0661\u0662x512", f"{'1' * 5000}x512", "-64x512", "512", "512x", ""])
def test_what_is_no_size_is_told_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as 512x512"):
        parse_size(text)


def test_a_name_that_no_file_can_have_is_no_profile() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no profile x+$"):
        find_profile("x" * 5000)
