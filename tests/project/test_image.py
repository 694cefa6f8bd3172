"""The image and RunPod's project files: each is read by its own parser and agrees with the settings and the others."""

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import jsonschema_rs
import pytest
import yaml

from sdstream.commands.flags import variable_name
from sdstream.deployment import LEAST_CUDA, POOLS
from sdstream.engines.cache import EngineCache
from sdstream.media.mediamtx.process import version_problem
from sdstream.media.mediamtx.release import VERSION
from sdstream.settings import PREFIX, Settings
from tests.engines.stored import key, store

ROOT = Path(__file__).parents[2]
DEFAULTS = Settings()
SERVERLESS = ("handler.py",)
"""Files of the serverless half."""


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", read("Dockerfile"), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", "", text)
    lines = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in lines]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def build_arguments() -> dict[str, str]:
    pairs = [argument.partition("=") for argument in arguments("ARG")]
    return {name: value for name, _, value in pairs}


def image_environment() -> dict[str, str]:
    found: list[tuple[str, str]] = [
        pair for line in arguments("ENV") for pair in re.findall(r'(\w+)=("[^"]*"|\S+)', line)
    ]
    return dict(found)


def check_settings(variables: dict[str, Any]) -> None:
    """Insist that each `SDSTREAM_*` variable is a setting and its value a good one."""
    names = {name for name in variables if name.startswith(PREFIX)}
    assert names <= {variable_name(name) for name in Settings.model_fields}
    values = {name.removeprefix(PREFIX).lower(): str(variables[name]) for name in names}
    Settings.model_validate({name: value for name, value in values.items() if value != ""})


def unquoted(value: Any) -> Any:
    """What python-hcl2 gives, without the quotes it keeps."""
    if isinstance(value, str):
        return value.strip('"')
    if isinstance(value, list):
        return [unquoted(item) for item in value]
    if isinstance(value, dict):
        return {unquoted(name): unquoted(item) for name, item in value.items()}
    return value


def bake_blocks(kind: str) -> dict[str, Any]:
    blocks = unquoted(hcl2.loads(read("docker-bake.hcl")))[kind]
    return {name: body for block in blocks for name, body in block.items()}


# The Dockerfile


def test_it_is_for_the_one_platform_that_runpod_runs() -> None:
    external = [line for line in arguments("FROM") if line.startswith("--platform") or "/" in line.split(" AS ")[0]]
    assert len(external) == 2
    assert all(line.startswith("--platform=linux/amd64 ") for line in external)


TORCH_BUILDS = {"2.13.0": {"cu126", "cu130"}}
"""What PyTorch's own index has of a version, by the words of projects that install it; 2.12 was the first without 12.8.
Another version of torch needs another look."""


def cuda_arguments() -> list[dict[str, str]]:
    """`CUDA_VERSION` and `TORCH_CUDA` of the Dockerfile and of each target of the bake file."""
    blocks = bake_blocks("target")
    return [build_arguments(), *(blocks[name]["args"] for name in blocks if name != "base")]


def test_each_image_has_a_torch_that_exists_for_its_cuda() -> None:
    pinned = re.search(r"^torch==(.*)$", read("constraints.txt"), re.MULTILINE)
    assert pinned
    assert len(cuda_arguments()) == 3
    for given in cuda_arguments():
        assert given["TORCH_CUDA"] in TORCH_BUILDS[pinned[1]]
        assert given["TORCH_CUDA"] == "cu" + "".join(given["CUDA_VERSION"].split(".")[:2])


def test_an_image_too_old_for_blackwell_says_so_and_is_not_the_default() -> None:
    blocks = bake_blocks("target")
    versions = {name: blocks[name]["args"]["CUDA_VERSION"] for name in blocks if name != "base"}
    too_old = {name for name, version in versions.items() if tuple(map(int, version.split("."))) < (12, 8, 0)}
    for name in too_old:
        assert re.search(rf"^# docker buildx bake {name} .*no Blackwell", read("docker-bake.hcl"), re.MULTILINE)
    assert not too_old & set(bake_blocks("group")["default"]["targets"])
    assert "-runtime-" in next(line for line in arguments("FROM") if "nvidia/cuda" in line)


def test_no_image_is_taken_by_a_tag_that_moves() -> None:
    images = [value for name, value in build_arguments().items() if name.endswith("_IMAGE")]
    assert images
    for image in images:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", image), image


def test_mediamtx_is_the_one_that_is_installed_elsewhere_and_that_is_used() -> None:
    assert build_arguments()["MEDIAMTX_IMAGE"].partition("@")[0].rpartition(":")[2] == VERSION
    assert version_problem(VERSION) is None


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_no_release_is_built_without_the_digest_of_mediamtx(tmp_path: Path) -> None:
    workflow = yaml.safe_load(read(".github/workflows/image.yml"))
    steps = workflow["jobs"]["image"]["steps"]
    (number,) = [number for number, step in enumerate(steps) if "MEDIAMTX_IMAGE" in step.get("run", "")]
    assert steps[number]["if"] == "github.event_name == 'release'"
    assert all("bake" not in step.get("run", "") for step in steps[:number])

    def released(image: str) -> bool:
        text = re.sub(r"(?m)^ARG MEDIAMTX_IMAGE=.*$", f"ARG MEDIAMTX_IMAGE={image}", read("Dockerfile"))
        (tmp_path / "Dockerfile").write_text(text)
        done = subprocess.run(
            ["bash", "-e", "-c", steps[number]["run"]], cwd=tmp_path, capture_output=True, check=False
        )
        return done.returncode == 0

    image = build_arguments()["MEDIAMTX_IMAGE"].partition("@")[0]
    assert not released(image)
    assert not released(f"{image}@sha256:abc")
    assert released(f"{image}@sha256:{'0123456789abcdef' * 4}")


def test_the_driver_is_asked_for_the_video_encoder() -> None:
    assert image_environment()["NVIDIA_DRIVER_CAPABILITIES"] == "compute,video,utility"


def test_its_variables_are_good_settings() -> None:
    check_settings(image_environment())
    assert image_environment()["SDSTREAM_HOST"] == "0.0.0.0"


def test_it_starts_by_the_entrypoint_under_an_init() -> None:
    (entrypoint,) = arguments("ENTRYPOINT")
    assert json.loads(entrypoint) == ["/usr/bin/tini", "--", "/opt/sdstream/docker/entrypoint.sh"]
    assert ("WORKDIR", "/opt/sdstream") in instructions()
    if os.name == "posix":
        assert (ROOT / "docker/entrypoint.sh").stat().st_mode & stat.S_IXUSR


def test_it_holds_what_the_settings_start() -> None:
    installed = " ".join(arguments("RUN"))
    assert re.search(r"\bcoturn\b", installed)
    assert re.search(r"\btini\b", installed)
    assert re.search(r"\bffmpeg\b", installed)
    assert any(line.startswith("--from=mediamtx /mediamtx ") for line in arguments("COPY"))


def test_it_can_bake_engines_on_its_card_and_run_them() -> None:
    installed = " ".join(arguments("RUN"))
    (extras,) = re.findall(r"\"\.\[([a-z,]+)\]\"", installed)
    assert {"runpod", "bake"} <= set(extras.split(","))
    assert "sdstream[gpu]" in tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]["bake"]
    assert re.search(r"\bg\+\+ ", installed), "what the compiled back end makes is C++"


def test_tensorrt_goes_in_by_the_same_name_everywhere() -> None:
    assert build_arguments()["TENSORRT_PACKAGE"] == ""
    assert "TENSORRT_PACKAGE" in bake_blocks("variable")
    assert "TENSORRT_PACKAGE" in bake_blocks("target")["base"]["args"]


def test_it_shows_the_ports_of_the_settings() -> None:
    (exposed,) = arguments("EXPOSE")
    assert {f"{DEFAULTS.port}/tcp", f"{DEFAULTS.turn_port}/tcp"} <= set(exposed.split())


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = {
        source.removeprefix("./")
        for line in arguments("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    missing = {source for source in copied if not (ROOT / source).exists()}
    assert missing <= set(SERVERLESS)
    allowed = {line.removeprefix("!") for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert copied <= allowed
    assert "*" in read(".dockerignore").splitlines()


def test_every_package_is_built_in() -> None:
    packages = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {f"{name} ./{name}" for name in packages} <= set(arguments("COPY"))


def test_nothing_secret_is_built_in() -> None:
    assert not re.search(r"(?i)(api_key|token|secret|password)\s*=", " ".join(arguments("ENV") + arguments("ARG")))


@pytest.mark.skipif(
    shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is None,
    reason="hadolint is not installed",
)
def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or ""
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [ROOT / "docker/entrypoint.sh", ROOT / ".ci/run", ROOT / ".ci/environment.sh"]
    done = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


# What builds and starts it


def test_each_target_of_the_bake_file_can_be_built() -> None:
    targets = bake_blocks("target")
    known = {name.partition("=")[0] for name in arguments("ARG")}
    stages = {line.rpartition(" AS ")[2] for line in arguments("FROM")}
    for name, body in targets.items():
        assert set(body.get("args", {})) <= known, name
        assert set(body.get("inherits", [])) <= set(targets), name
    assert targets["base"]["platforms"] == ["linux/amd64"]
    assert targets["base"]["target"] in stages
    assert (ROOT / targets["base"]["dockerfile"]).exists()
    for group in bake_blocks("group").values():
        assert set(group["targets"]) <= set(targets)


def test_the_default_target_is_what_a_plain_build_makes() -> None:
    (name,) = bake_blocks("group")["default"]["targets"]
    for argument, value in bake_blocks("target")[name]["args"].items():
        assert build_arguments()[argument] == value


def test_the_workflow_builds_the_default_target_and_pushes_releases_only() -> None:
    workflow = yaml.safe_load(read(".github/workflows/image.yml"))
    (build,) = [step for step in workflow["jobs"]["image"]["steps"] if "buildx bake" in step.get("run", "")]
    assert build["run"].split()[3] in bake_blocks("group")["default"]["targets"]
    assert set(build["env"]) <= set(bake_blocks("variable"))
    assert "'release' && '--push'" in build["run"]
    changed = workflow[True]["pull_request"]["paths"]  # YAML reads the key `on` as true
    assert {"Dockerfile", "docker-bake.hcl", ".dockerignore"} <= set(changed)


def test_compose_has_good_settings_and_their_ports() -> None:
    service = yaml.safe_load(read("docker-compose.yml"))["services"]["sdstream"]
    variables = {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in service["environment"].items()
    }
    check_settings(variables | {"SDSTREAM_HOST": "0.0.0.0"})
    assert set(service["ports"]) == {f"{port}:{port}" for port in (DEFAULTS.port, DEFAULTS.turn_port)}
    assert service["build"]["target"] in {line.rpartition(" AS ")[2] for line in arguments("FROM")}
    assert f":{DEFAULTS.port}/health" in service["healthcheck"]["test"][-1]
    assert any(volume.endswith(f":{variables['SDSTREAM_DATA_DIR']}") for volume in service["volumes"])


# RunPod's files


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


# The entrypoint


@contextlib.contextmanager
def stage() -> Iterator[Path]:
    """A copy of the entrypoint with programs that print how they were called; every user may read it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("bin", "docker", "data"):
            (folder / part).mkdir()
        shutil.copy(ROOT / "docker/entrypoint.sh", folder / "docker/entrypoint.sh")
        for program in ("sdstream", "python"):
            path = folder / "bin" / program
            path.write_text(
                f'#!/bin/sh\n[ "$1" = -c ] && {{ echo {folder}/data; exit 0; }}\n'
                f'echo "{program} $* as $(id -un) in $(pwd)"\n'
            )
            path.chmod(0o755)
        yield folder


def enter(folder: Path, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "RUN_AS": "root",
        "SHELL_PROFILE": str(folder / "profile.sh"),
        "SDSTREAM_DATA_DIR": str(folder / "data"),
    }
    return subprocess.run(
        ["bash", str(folder / "docker/entrypoint.sh"), *command],
        env=environment | variables,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


posix = pytest.mark.skipif(os.name != "posix" or sys.platform != "linux", reason="the image is Linux's")


@posix
@pytest.mark.parametrize(
    ("variables", "command", "started"),
    [
        ({}, (), "sdstream serve "),
        ({"RUNPOD_WEBHOOK_GET_JOB": "https://x"}, (), "python -u handler.py "),
        ({"RUNPOD_WEBHOOK_GET_JOB": "https://x", "MODE": "pod"}, (), "sdstream serve "),
        ({"MODE": "serverless"}, ("--rp_serve_api",), "python -u handler.py --rp_serve_api "),
        ({"MODE_TO_RUN": "serverless"}, (), "python -u handler.py "),
        ({"MODE": "pod"}, ("--port", "9000"), "sdstream serve --port 9000 "),
        ({"MODE": "serverless"}, ("sdstream", "doctor"), "sdstream doctor "),
    ],
)
def test_the_mode_decides_what_is_started(variables: dict[str, str], command: tuple[str, ...], started: str) -> None:
    with stage() as folder:
        done = enter(folder, *command, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{started}as ")
    if "handler.py" in started:
        assert done.stdout.rstrip().endswith(str(folder)), "RunPod's SDK looks for its files where it is started"


@posix
@pytest.mark.parametrize(("name", "value"), [("MODE", "both"), ("RUN_AS", "nobody")])
def test_an_unknown_mode_is_refused(name: str, value: str) -> None:
    if name == "RUN_AS" and os.geteuid() != 0:
        pytest.skip("only root may become another user")
    with stage() as folder:
        done = enter(folder, **{name: value})
    assert done.returncode == 2
    assert f"{name} is '{value}'" in done.stderr


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_root_hands_the_data_over_and_becomes_the_images_user() -> None:
    with stage() as folder:
        done = enter(folder, RUN_AS="auto", IMAGE_USER="daemon")
        owner = (folder / "data").stat().st_uid
    assert " as daemon " in done.stdout, done.stderr
    assert owner != 0


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become another user")
def test_root_stays_where_its_user_cannot_write_and_says_so() -> None:
    with stage() as folder:
        (folder / "bin/python").write_text('#!/bin/sh\n[ "$(id -u)" -eq 0 ]\n')
        done = enter(folder, RUN_AS="auto", IMAGE_USER="daemon")
    assert " as root " in done.stdout
    assert "cannot write the data directory, so root runs it" in done.stderr


def test_engines_of_a_build_context_are_put_where_the_entrypoint_looks_for_them() -> None:
    """`--build-context engines=DIR` takes the place of the stage of this name."""
    text = read("Dockerfile")
    assert re.search(r"^FROM scratch AS engines$", text, flags=re.MULTILINE)
    runtime = text[text.index(" AS runtime") :]
    assert "WORKDIR /opt/sdstream" in runtime
    assert re.search(r"^COPY --from=engines / \./engines/$", runtime, flags=re.MULTILINE)
    assert "COPY docker ./docker" in runtime, "so the home of the entrypoint is that directory"
    assert "--build-context engines=" in read("docs/engines.md")


@posix
def test_engines_of_the_image_come_into_the_cache_whole_and_once() -> None:
    """Real entries of a cache, of which the volume has one for the same network and another card."""
    with stage() as folder:
        image, volume = EngineCache(folder / "engines"), EngineCache(folder / "data/engines")
        for target in ("sm86", "sm89"):
            store(image, key(target=target))
        there = store(volume, key(target="sm86"))
        inode = there.folder.stat().st_ino
        (folder / "engines/.drafts/half").mkdir(parents=True)
        done = enter(folder)
        assert done.returncode == 0, done.stderr
        assert [entry.key.target for entry in volume.entries()] == ["sm86", "sm89"]
        assert all(volume.verify(entry) for entry in volume.entries())
        assert there.folder.stat().st_ino == inode, "what is in the cache is left alone"
        assert list((folder / "data/engines/.drafts").iterdir()) == []


@posix
def test_engines_of_the_image_that_cannot_be_copied_are_told_and_the_server_starts() -> None:
    with stage() as folder:
        store(EngineCache(folder / "engines"))
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data/engines").write_text("no directory")
        done = enter(folder)
    assert done.returncode == 0
    assert "could not copy the engines of the image" in done.stderr


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="the profile is root's")
def test_shells_get_the_addresses_and_no_key() -> None:
    with stage() as folder:
        enter(
            folder,
            RUNPOD_POD_ID="abc",
            RUNPOD_TCP_PORT_3478="21478",
            RUNPOD_API_KEY="secret",
            RUNPOD_PUBLIC_IP="1.2.3.4",
        )
        lines = (folder / "profile.sh").read_text().splitlines()
    assert sorted(line for line in lines if "RUNPOD" in line) == [
        "export RUNPOD_POD_ID=abc",
        "export RUNPOD_PUBLIC_IP=1.2.3.4",
        "export RUNPOD_TCP_PORT_3478=21478",
    ]
