"""RunPod's project files: they have the shape that RunPod documents, and agree with the settings and the image."""

import json
import re
import tomllib
from typing import Any

import jsonschema_rs

from sdstream.deployment import LEAST_CUDA, POOLS
from sdstream.settings import PREFIX, Settings
from tests.project.image import DEFAULTS, ROOT, SERVERLESS, build_arguments, check_settings, read


def test_runpod_toml_agrees_with_the_settings() -> None:
    project = tomllib.loads(read("runpod.toml"))
    ports = {port.strip() for port in project["project"]["ports"].split(",")}
    assert {f"{DEFAULTS.port}/http", f"{DEFAULTS.turn_port}/tcp", "7270/http"} <= ports
    check_settings(project["project"]["env_vars"])
    assert all(isinstance(value, str) for value in project["project"]["env_vars"].values())
    assert re.fullmatch(r"[0-9a-f]{8}", project["project"]["uuid"])
    assert project["runtime"]["handler_path"] in SERVERLESS
    assert (ROOT / project["runtime"]["requirements_path"]).exists()
    version = tuple(map(int, project["runtime"]["python_version"].split(".")))
    least = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert version >= tuple(map(int, least.split(".")))


VARIABLE = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "value": {"type": "string"},
        "input": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "type": {"enum": ["string", "number", "boolean", "huggingface"]},
                "description": {"type": "string"},
                "default": {},
                "options": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"label": {"type": "string"}, "value": {"type": "string"}},
                        "required": ["label", "value"],
                        "additionalProperties": False,
                    },
                },
                "min": {"type": "number"},
                "max": {"type": "number"},
                "required": {"type": "boolean"},
                "advanced": {"type": "boolean"},
            },
            "required": ["name", "type", "description"],
            "additionalProperties": False,
        },
    },
    "required": ["key"],
    "oneOf": [{"required": ["value"]}, {"required": ["input"]}],
    "additionalProperties": False,
}
HUB = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "description": {"type": "string", "maxLength": 200},
        "type": {"const": "serverless"},
        "category": {"enum": ["audio", "embedding", "language", "video", "image"]},
        "iconUrl": {"type": "string"},
        "config": {
            "type": "object",
            "properties": {
                "runsOn": {"enum": ["GPU", "CPU"]},
                "endpointType": {"const": "LB"},
                "containerDiskInGb": {"type": "integer", "minimum": 10},
                "gpuCount": {"type": "integer", "minimum": 1},
                "gpuIds": {"type": "string"},
                "allowedCudaVersions": {"type": "array", "items": {"pattern": r"^\d+\.\d+$"}},
                "presets": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "defaults": {"type": "object"}},
                        "required": ["name", "defaults"],
                        "additionalProperties": False,
                    },
                },
                "env": {"type": "array", "items": VARIABLE},
            },
            "required": ["runsOn", "containerDiskInGb", "gpuCount", "gpuIds", "env"],
            "additionalProperties": False,
        },
    },
    "required": ["title", "description", "type", "category", "config"],
    "additionalProperties": False,
}
TESTS = {
    "type": "object",
    "properties": {
        "tests": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "input": {"type": "object"},
                    "timeout": {"type": "integer", "minimum": 1000},
                },
                "required": ["name", "input"],
                "additionalProperties": False,
            },
        },
        "config": {
            "type": "object",
            "properties": {
                "gpuTypeId": {"type": "string"},
                "gpuCount": {"type": "integer"},
                "env": {"type": "array", "items": VARIABLE},
                "allowedCudaVersions": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["gpuTypeId", "gpuCount"],
            "additionalProperties": False,
        },
    },
    "required": ["tests", "config"],
    "additionalProperties": False,
}


def hub() -> Any:
    return json.loads(read(".runpod/hub.json"))


def test_the_hub_files_have_the_shape_that_the_hub_documents() -> None:
    jsonschema_rs.validate(HUB, hub())
    jsonschema_rs.validate(TESTS, json.loads(read(".runpod/tests.json")))


def test_the_hub_offers_good_settings_only() -> None:
    for variable in hub()["config"]["env"]:
        given = variable.get("input", {})
        choices = [option["value"] for option in given.get("options", ())]
        choices = choices or [variable.get("value", given.get("default"))]
        if "default" in given:
            assert not given.get("options") or given["default"] in choices
        for value in choices:
            # a mode that needs more settings is a good one all the same
            check_settings({variable["key"]: value, "SDSTREAM_HOST": "0.0.0.0", "SDSTREAM_API_KEYS": "key"})
    keys = {variable["key"] for variable in hub()["config"]["env"]}
    for preset in hub()["config"]["presets"]:
        assert set(preset["defaults"]) <= keys
        check_settings(preset["defaults"])


def test_the_hubs_defaults_are_those_of_the_settings() -> None:
    for variable in hub()["config"]["env"]:
        name = variable["key"].removeprefix(PREFIX).lower()
        if "input" in variable and name in Settings.model_fields:
            assert variable["input"]["default"] == getattr(DEFAULTS, name)


def test_neither_hub_nor_deploy_takes_a_host_with_an_older_cuda_than_the_image() -> None:
    image = tuple(map(int, build_arguments()["CUDA_VERSION"].split(".")[:2]))
    assert tuple(map(int, LEAST_CUDA.split("."))) == image
    for config in (hub()["config"], json.loads(read(".runpod/tests.json"))["config"]):
        versions = config["allowedCudaVersions"]
        assert min(tuple(map(int, version.split("."))) for version in versions) == image


def test_the_hubs_cards_and_those_of_the_documentation_are_pools_that_deploy_knows() -> None:
    named = {pool for pool in hub()["config"]["gpuIds"].split(",") if not pool.startswith("-")}
    priced = set(re.findall(r"^\|.*\| `([A-Z]+_[A-Z0-9_]+)` \|", read("docs/runpod.md"), re.MULTILINE))
    assert named <= priced <= set(POOLS)


def test_the_hub_asks_for_what_limits_a_worker_under_a_queue() -> None:
    # SDSTREAM_MAX_STREAMS is a server's; behind a queue a session is a job, and jobs have a limit of their own
    keys = {variable["key"] for variable in hub()["config"]["env"]}
    assert {"SDSTREAM_WORKER_SESSIONS", "SDSTREAM_MAX_STREAMS"} & keys == {"SDSTREAM_WORKER_SESSIONS"}


def test_the_hub_tests_the_job_that_anybody_can_run_here() -> None:
    tests = json.loads(read(".runpod/tests.json"))
    assert tests["tests"][0]["input"] == json.loads(read("test_input.json"))["input"]
    check_settings({variable["key"]: variable["value"] for variable in tests["config"]["env"]})
