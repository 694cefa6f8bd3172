"""`sdstream models pull`: the real command line against a hub on loopback."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdstream.cli import EXIT_FAILED, EXIT_USAGE, run
from sdstream.commands import models
from sdstream.commands.download_bar import DownloadBar
from sdstream.commands.pulling import sources_of
from sdstream.directories import ModelPlaces
from sdstream.errors import ConfigurationError
from sdstream.params import ModelEntry, ModelTable
from sdstream.settings import Family
from sdstream.worker.files.published import needed_for
from tests.project.commands import environment, sdstream
from tests.support.hollow import EMPTY, write_hollow_model
from tests.support.hub import FakeHub

TURBO, DREAM = "stabilityai/sd-turbo", "Lykon/dreamshaper-8"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub whose models are of the right names and have no weights: `pull` opens none."""
    made = FakeHub()
    families: tuple[tuple[str, Family], ...] = ((TURBO, "sd-turbo"), (DREAM, "sd15"))
    for name, family in families:
        made.add(name, write_hollow_model(tmp_path / "upstream" / name, family))
    for name, files in (
        ("madebyollin/taesd", ("config.json", "diffusion_pytorch_model.safetensors")),
        ("latent-consistency/lcm-lora-sdv1-5", ("pytorch_lora_weights.safetensors",)),
    ):
        folder = tmp_path / "upstream" / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_bytes(EMPTY if file.endswith(".safetensors") else b"{}")
        made.add(name, folder)
    with made.run():
        yield made


@pytest.mark.slow
def test_models_are_pulled_with_what_they_need_and_listed(tmp_path: Path, hub: FakeHub) -> None:
    data = tmp_path / "data"
    around = environment(data) | {
        "HF_ENDPOINT": hub.url,
        "SDSTREAM_SHIPPED_PINS": "false",  # tiny files under the published ones' names
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN": hub.token,
        "SDSTREAM_DATA_DIR": str(data),
    }
    hub.repositories[TURBO].gated = True
    done = sdstream("models", "pull", "all", environment=around)
    assert done.returncode == 1, "two of the four are not on this hub"
    for name in (TURBO, DREAM):
        assert f"{name}: {data / 'models' / name} at aaaaaaaaaa" in done.stdout
    for name in ("stabilityai/sdxl-turbo", "prompthero/openjourney-v4"):
        assert f"the hub has no repository {name}, or it is private" in done.stderr
    assert "2 of 4 models were not fetched" in done.stderr
    assert f"downloading {DREAM}: {UNET}" in done.stderr
    assert (data / "models/madebyollin/taesd/config.json").is_file()
    assert (data / "loras/latent-consistency/lcm-lora-sdv1-5/pytorch_lora_weights.safetensors").is_file()
    assert hub.token not in done.stdout + done.stderr
    shown = sdstream("models", "list", environment=around | {"HF_HUB_OFFLINE": "1"}).stdout
    (line,) = [line for line in shown.splitlines() if line.split()[:1] == [DREAM]]
    assert line.split()[1:] == ["sd15", "0.0", "MB", "aaaaaaaaaa", str(data / "models" / DREAM)]


@pytest.mark.parametrize(
    ("names", "revision", "said"),
    [
        (["mine"], None, "mine has a directory or file for its source"),
        (["nothing"], None, "neither the id of a model nor that of a hub repository"),
        ([TURBO, DREAM], "main", "a revision belongs to one ID"),
        (["all"], "main", "a revision belongs to one ID"),
        ([f"{TURBO}@v1"], "main", "a revision belongs to one ID"),
    ],
)
def test_what_cannot_be_pulled_is_refused(tmp_path: Path, names: list[str], revision: str | None, said: str) -> None:
    entries = [ModelEntry("mine", "sd15", str(tmp_path))]
    table = ModelTable(entries, places=ModelPlaces(tmp_path / "models", tmp_path / "loras"))
    with pytest.raises(ConfigurationError, match=said):
        sources_of(names, table, revision)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("nothing",), "sdstream: nothing is neither the id of a model"),
        (("--for", "nothing"), "sdstream: --for: 'nothing' is nothing"),
    ],
)
def test_nothing_is_fetched_where_the_last_word_is_wrong(
    wrong: tuple[str, ...], said: str, tmp_path: Path, hub: FakeHub
) -> None:
    around = environment(tmp_path / "data") | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    done = sdstream("models", "pull", "--for", "hed", *wrong, environment=around)
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith(said)
    assert hub.requests == []


def test_the_builder_is_asked_for_its_profiles_before_anything_is_fetched(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDSTREAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(models, "pull_profiles", lambda profiles, _: EXIT_USAGE if profiles == ["nothing"] else 0)
    hub.be_the_hub(monkeypatch, tmp_path / "cache")
    assert run(["models", "pull", "--for", "hed", "--for", "profile:nothing"]) == EXIT_USAGE
    assert hub.requests == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks5://me:secret@127.0.0.1:1"), ("HTTP_PROXY", "foo://me:secret@x"), ("SSL_CERT_FILE", "/none")],
)
def test_a_variable_that_keeps_the_hub_from_being_asked_is_named(
    variable: str, value: str, tmp_path: Path, hub: FakeHub
) -> None:
    around = environment(tmp_path / "data") | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", variable: value}
    done = sdstream("models", "pull", TURBO, environment=around)
    assert done.returncode == EXIT_FAILED
    assert variable in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.slow
def test_what_a_controlnet_needs_is_pulled_with_its_preprocessor(tmp_path: Path, hub: FakeHub) -> None:
    needed = dict(needed_for("controlnet:hed"))
    for name, files in needed.items():
        folder = tmp_path / "upstream" / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text("{}")
        (folder / "of_no_use.pth").write_text("{}")
        hub.add(name, folder)
    data = tmp_path / "data"
    around = environment(data) | {
        "HF_ENDPOINT": hub.url,
        "SDSTREAM_SHIPPED_PINS": "false",  # tiny files under the published ones' names
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "SDSTREAM_DATA_DIR": str(data),
    }
    done = sdstream("models", "pull", "--for", "controlnet:hed", environment=around)
    assert done.returncode == 0, done.stderr
    for name, files in needed.items():
        assert all((data / "models" / name / file).is_file() for file in files)
        assert not (data / "models" / name / "of_no_use.pth").exists()
    refused = sdstream("models", "pull", "--for", "controlnet:hedd", environment=around)
    assert refused.returncode != 0
    assert "did you mean 'controlnet:hed'?" in refused.stderr


def test_the_bar_begins_anew_with_each_file_and_shows_no_percent_where_none_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for the library
    monkeypatch.setenv("COLUMNS", "100")

    def last_line(*told: tuple[str, float | None]) -> str:
        with DownloadBar() as bar:
            for detail, percent in told:
                bar.tell(detail, percent)
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        return [line for line in re.split(r"[\r\n]+", shown) if line.strip()][-1]

    first = (("downloading one", 50.0), ("downloading one", 100.0), ("asking for two", None))
    shown = last_line(*first, ("downloading two", 40.0))
    assert ("downloading two" in shown, "40%" in shown, "-:--:--" in shown) == (True, True, True), shown
    assert "%" not in last_line(*first)
