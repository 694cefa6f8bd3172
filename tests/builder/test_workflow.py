"""The workflow that bakes in continuous integration: it calls what there is, and its steps do what they say."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml

from builder import command
from builder.command import application
from builder.profiles import shipped_profiles
from sdstream.cli import make_application
from sdstream.commands.flags import variable_name
from sdstream.engines.cache import EngineCache
from sdstream.engines.mirror import EngineMirror
from sdstream.engines.tensorrt_library import is_installed
from sdstream.settings import Settings
from tests.builder.upstream import ADAPTER, CONTROLNETS, LORA, MODEL, offer_upstream
from tests.project.commands import environment, sdstream
from tests.support.hub import FakeHub

WORKFLOW = Path(__file__).parents[2] / ".github/workflows/bake.yml"
JOB = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]["bake"]
TINY = """
family = "sd15"
model = "{model}"
sizes = ["64x64"]
slots = [1]
components = ["decoder"]
controlnets = ["{controlnet}"]
adapter = "{adapter}"
loras = [{{ source = "{lora}" }}]
[targets]
tensorrt-rtx = [86, 89, 120]
"""


def commands(variables: Mapping[str, str]) -> list[list[str]]:
    """Every call of one of our programs in the steps, split as a shell does where `variables` are set."""
    found: list[list[str]] = []
    for step in JOB["steps"]:
        text = step.get("run", "").replace("\\\n", " ").replace("||\n", "||")
        for name, value in variables.items():
            text = re.sub(rf"\$\{{{name}:\+([^}}]*)\}}", r"\1" if value else "", text)
            text = text.replace(f'"${name}"', f'"{value}"').replace(f"${name}", value)
        for line in text.splitlines():
            words = shlex.split(line.partition("||")[0])
            if words[:3] == ["python", "-m", "builder"] or words[:1] == ["sdstream"]:
                found.append(words)
    return found


def test_it_bakes_all_shipped_profiles() -> None:
    lists = re.findall(r"\[\"[^\]]*\"\]", WORKFLOW.read_text("utf-8"))
    assert len(lists) == 2, "for those who start it by hand, and for releases"
    for written in lists:
        assert json.loads(written) == shipped_profiles()


@pytest.mark.parametrize("sm", ["", "89,120"])
def test_its_command_lines_are_read_by_the_real_programs(sm: str) -> None:
    called = commands({"PROFILE": "sd-turbo-512", "SM": sm})
    for words in called:
        program, arguments = (make_application(), words[1:]) if words[0] == "sdstream" else (application, words[3:])
        program.parse_args(arguments, exit_on_error=False, print_error=False)
    verbs = [words[3] if words[0] == "python" else " ".join(words[1:]) for words in called]
    assert verbs == ["models pull --for profile:sd-turbo-512", "pull", "plan", "bake", "verify", "push"]
    assert sum("--sm" in words for words in called) == (4 if sm else 0)


def test_its_settings_are_settings_and_its_secrets_stay_out_of_command_lines() -> None:
    known = {variable_name(name) for name in Settings.model_fields}
    assert {name for name in JOB["env"] if name.startswith("SDSTREAM_")} <= known
    assert not any("secrets" in step.get("run", "") for step in JOB["steps"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="TensorRT-RTX is not installed")
def test_its_commands_bring_a_profile_from_the_hub_to_the_bucket(
    upstream: Path,
    tmp_path: Path,
    mirror: Callable[..., EngineMirror],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second run takes from the bucket what it has."""
    pytest.importorskip("onnxscript", reason="the bake extra is not installed")
    profile, data, bucket = tmp_path / "tiny.toml", tmp_path / "data", mirror()
    profile.write_text(
        TINY.format(model=MODEL, controlnet=CONTROLNETS[0], adapter="/".join(ADAPTER), lora=LORA), encoding="utf-8"
    )
    mirroring = {
        "engine_mirror": bucket.address,
        "engine_mirror_endpoint": bucket.address.endpoint,
        "engine_mirror_region": bucket.address.region,
    }
    around = environment(data, shipped_pins=False, **mirroring) | {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    fetching, *baking = commands({"PROFILE": str(profile), "SM": "86,89"})
    hub = FakeHub()
    offer_upstream(hub, upstream)
    with hub.run():
        fetched = sdstream(*fetching[1:], environment=around | {"HF_ENDPOINT": hub.url}, seconds=120)
    assert fetched.returncode == 0, fetched.stderr
    assert str(data / "models" / MODEL) in fetched.stdout
    assert not (data / "models" / MODEL / "dreamshaper.safetensors").exists()

    def said(words: list[str]) -> str:
        assert command.run(words[3:]) == 0, words
        return capsys.readouterr().out

    told = {words[3]: said(words) for words in baking}
    cache = EngineCache(data / "engines")
    (entry,) = cache.entries()
    assert "--decoder--" in entry.name
    assert "sm86+sm89" in entry.name
    assert told["pull"] == ""
    assert [told["plan"].count("MISSING"), told["bake"].count("built"), told["verify"].count("good")] == [1, 1, 1]
    assert told["push"] == f"pushed  {entry.name}\n"
    cache.remove(entry)
    assert said(baking[0]) == f"pulled  {entry.name}\n"
    assert said(baking[2]).startswith("present ")
    torch.set_grad_enabled(False)
