"""What a profile may take whose model is not here: a guess from the tables, near what was measured."""

import pytest

from builder import command
from builder.estimates import RATES
from builder.guesses import CONTROLNET, UNET, guess, guesses
from builder.profiles import Choice, find_profile
from sdstream.engines.cache import EngineCache


def test_the_guess_for_sd_turbo_is_near_what_was_measured(tmp_path_factory: pytest.TempPathFactory) -> None:
    profile = find_profile("sd-turbo-512", Choice(None, None, None))
    told = guess(profile, "tensorrt-rtx", EngineCache(tmp_path_factory.mktemp("engines")))
    assert told.count == 3
    # docs/engines.md: 60 s, 6.6 GB of memory, 5.2 GB of disk.
    assert told.estimate.seconds == pytest.approx(60, rel=0.2)
    assert told.estimate.memory == pytest.approx(6.6e9, rel=0.1)
    assert told.estimate.disk == pytest.approx(5.2e9, rel=0.1)
    assert told.estimate.basis == "guessed"


def test_more_sizes_and_larger_models_take_more(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    profile = find_profile("sd-turbo-512", Choice(None, None, None))
    (small,) = guesses(profile, None, cache)
    (more,) = guesses(profile.model_copy(update={"sizes": ("512x512", "640x384")}), None, cache)
    assert more.count == 6
    assert more.estimate.seconds == pytest.approx(2 * small.estimate.seconds)
    (large,) = guesses(find_profile("sdxl-turbo-512", Choice(None, None, None)), None, cache)
    assert large.estimate.memory - small.estimate.memory == pytest.approx(
        3.3 * (UNET["sdxl-turbo"] - UNET["sd-turbo"]), rel=0.01
    )
    assert guesses(profile, "compiled", cache) == []


def test_weights_of_several_controlnets_lie_on_the_disk_each_and_those_of_a_network_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    profile = find_profile("dreamshaper-512-controlnets", Choice(None, None, None))
    assert len(profile.controlnets) == 3

    def disk(**changed: object) -> float:
        return guess(profile.model_copy(update=changed), "tensorrt-rtx", cache).estimate.disk

    rate, one = RATES["tensorrt-rtx"], CONTROLNET["sd15"]
    engine = rate.disk + rate.disk_per_gigabyte * one / 1e9
    assert disk() - disk(controlnets=profile.controlnets[:1]) == pytest.approx(2 * (engine + one), rel=1e-6)
    engine = rate.disk + rate.disk_per_gigabyte * UNET["sd15"] / 1e9
    forms = tuple(name for name in profile.components if not name.endswith("control-tokens"))
    assert disk() - disk(components=forms) == pytest.approx(engine, rel=1e-6)


def test_plan_without_the_model_guesses_and_says_what_is_not_here(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDSTREAM_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    assert command.run(["plan", "--profile", "sd-turbo-512"]) == command.EXIT_NOT_HERE
    said = capsys.readouterr()
    assert "a guess" in said.out
    assert "not on this machine: the model stabilityai/sd-turbo" in said.err
