"""The workflow that bakes in continuous integration: it calls what there is, and its steps do what they say."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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


STUB = """#!/bin/bash
{ printf '%s\\t' "$(basename "$0")" "$@"; echo; } >>"$CALLS"
echo "said on stdout"
echo "said on stderr" >&2
for end in $ENDS; do
    if [ "${end%%=*}" = "$3" ]; then exit "${end##*=}"; fi
done
"""
"""Stands in for a program: notes how it is called, and ends with what `ENDS` says of its third word."""


@dataclass
class Run:
    """A job, run step by step as a runner does it, by the shell that a step gets there."""

    folder: Path
    steps: dict[str, int]
    """The exit codes of the steps that were run, by their names."""
    calls: list[list[str]]

    @property
    def verbs(self) -> list[str]:
        """What was asked of our own programs."""
        return [words[3] if words[0] == "python" else " ".join(words[1:]) for words in self.ours]

    @property
    def ours(self) -> list[list[str]]:
        return [words for words in self.calls if words[:3] == ["python", "-m", "builder"] or words[0] == "sdstream"]


def run_job(folder: Path, *, profile: str = "sd-turbo-512", sm: str = "", mirror: str = "", ends: str = "") -> Run:
    """Run the steps where every program is a stub; `ends` such as `bake=1` has one fail."""
    stubs, calls = folder / "stubs", folder / "calls"
    stubs.mkdir(parents=True)
    for name in ("python", "sdstream", "pip", "sudo"):
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    shutil.copy(WORKFLOW.parents[2] / "constraints.txt", folder)
    (folder / "data").mkdir()
    known = {
        "github.workspace": str(folder),
        "vars.ENGINE_MIRROR": mirror,
        "matrix.profile": profile,
        "github.event.inputs.sm": sm,
    }
    variables = {name: filled(text, known) for name, text in JOB["env"].items()}
    around = {"PATH": f"{stubs}:{os.environ['PATH']}", "CALLS": str(calls), "ENDS": ends, **variables}
    assert yaml.safe_load(WORKFLOW.read_text("utf-8"))["defaults"]["run"]["shell"] == "bash"
    done: dict[str, int] = {}
    for step in JOB["steps"]:
        if "run" not in step or not is_due(step.get("if", ""), variables, failed=any(done.values())):
            continue
        script = folder / "step.sh"
        script.write_text(filled(step["run"], {}))
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        done[step["name"]] = subprocess.run(command, cwd=folder, env=around, check=False, timeout=200).returncode
    return Run(folder, done, [line.split("\t")[:-1] for line in calls.read_text().splitlines()])


def filled(text: str, known: Mapping[str, str]) -> str:
    """`text` with its expressions; one that is not known is empty, as it is on a runner."""
    return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda found: known.get(found[1], ""), text)


def is_due(condition: str, variables: Mapping[str, str], *, failed: bool) -> bool:
    """Whether a step with this `if` is run. Only the forms that the workflow has."""
    if condition == "always()":
        return True
    found = re.fullmatch(r"env\.(\w+) != ''", condition)
    assert found or condition in ("", "runner.environment == 'github-hosted'"), condition
    return not failed and (found is None or variables[found[1]] != "")


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Run]:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    return partial(run_job, tmp_path / "runner")


def test_it_bakes_all_shipped_profiles() -> None:
    lists = re.findall(r"\[\"[^\]]*\"\]", WORKFLOW.read_text("utf-8"))
    assert len(lists) == 2, "for those who start it by hand, and for releases"
    for written in lists:
        assert json.loads(written) == shipped_profiles()


@pytest.mark.parametrize("mirror", ["", "s3://bucket/engines"])
@pytest.mark.parametrize("sm", ["", "89,120"])
def test_its_command_lines_are_read_by_the_real_programs(job: Callable[..., Run], sm: str, mirror: str) -> None:
    done = job(sm=sm, mirror=mirror)
    assert set(done.steps.values()) == {0}
    for words in done.ours:
        program, arguments = (make_application(), words[1:]) if words[0] == "sdstream" else (application, words[3:])
        program.parse_args(arguments, exit_on_error=False, print_error=False)
    pulls = ["pull"] if mirror else []
    assert done.verbs == ["models pull --for profile:sd-turbo-512", *pulls, "plan", "bake", "verify"]
    assert sum("--sm" in words for words in done.ours) == (3 + len(pulls) if sm else 0)
    assert [("--push" in words) for words in done.ours if words[3] == "bake"] == [mirror != ""]
    torch_is = [word for words in done.calls if words[0] == "pip" for word in words if word.startswith("torch==")]
    assert len(torch_is) == 1, "the one of constraints.txt"


@pytest.mark.parametrize(
    ("verb", "after"), [("pull", ["plan", "bake", "verify"]), ("plan", []), ("bake", []), ("verify", [])]
)
def test_a_step_that_fails_ends_the_job_but_for_the_pull_and_the_log_is_kept(
    job: Callable[..., Run], verb: str, after: list[str]
) -> None:
    """Though its words go through a pipe to a file."""
    done = job(mirror="s3://bucket/engines", ends=f"{verb}=3")
    assert done.verbs[done.verbs.index(verb) + 1 :] == after
    assert any(done.steps.values()) == (verb != "pull")
    assert not (done.folder / "data").exists(), "nothing is left behind on a runner of one's own"
    if verb in ("plan", "bake", "verify"):
        assert (done.folder / f"logs/{verb}.txt").read_text() == "said on stdout\nsaid on stderr\n"
    (keeping,) = (step for step in JOB["steps"] if "upload-artifact" in step.get("uses", ""))
    assert (keeping["if"], keeping["with"]["path"]) == ("always()", "logs")


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
    job: Callable[..., Run],
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
    fetching, *baking = job(profile=str(profile), sm="86,89", mirror=str(bucket.address)).ours
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
    assert f"pushed  {entry.name}\n" in told["bake"]
    cache.remove(entry)
    assert said(baking[0]) == f"pulled  {entry.name}\n"
    assert said(baking[2]).startswith("present ")
    torch.set_grad_enabled(False)
