"""The workflow that bakes in continuous integration calls what there is."""

import json
import re
from pathlib import Path

import yaml

from builder import command
from builder.profiles import shipped_profiles
from sdstream.commands.flags import variable_name
from sdstream.settings import Settings

WORKFLOW = Path(__file__).parents[2] / ".github/workflows/bake.yml"


def test_it_bakes_shipped_profiles() -> None:
    text = WORKFLOW.read_text("utf-8")
    lists = re.findall(r"\[\"[^\]]*\"\]", text)
    assert lists
    for written in lists:
        assert set(json.loads(written)) <= set(shipped_profiles())


def test_its_commands_exist_and_its_settings_are_settings() -> None:
    content = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    job = content["jobs"]["bake"]
    steps = " ".join(step.get("run", "") for step in job["steps"])
    called = set(re.findall(r"python -m builder (\w+)", steps))
    assert {"plan", "bake", "verify", "push", "pull"} <= called
    for name in called:
        assert callable(getattr(command, name))
    known = {variable_name(name) for name in Settings.model_fields}
    assert {name for name in job["env"] if name.startswith("SDSTREAM_")} <= known
    assert "secrets" not in steps, "secrets go through the environment, never into a command line"
