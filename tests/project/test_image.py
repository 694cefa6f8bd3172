"""The image: its Dockerfile, and what builds and starts it, read by their own parsers, agree with the settings."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from sdstream.media.mediamtx.process import version_problem
from sdstream.media.mediamtx.release import VERSION
from sdstream.platform import LINUX
from tests.project.image import (
    DEFAULTS,
    ROOT,
    SERVERLESS,
    arguments,
    bake_blocks,
    build_arguments,
    check_settings,
    image_environment,
    instructions,
    read,
)

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


def test_the_headers_that_engines_are_compiled_with_are_of_the_images_cuda() -> None:
    """torch's wheels ask for the very same version of one of them, so pip would refuse another."""
    pinned = re.findall(r"^nvidia-cuda-(?:cccl|crt|runtime)==(\d+\.\d+)\.", read("constraints.txt"), re.MULTILINE)
    assert pinned == [build_arguments()["CUDA_VERSION"].rpartition(".")[0]] * 3


def test_an_image_too_old_for_blackwell_says_so_and_is_not_the_default() -> None:
    blocks = bake_blocks("target")
    versions = {name: blocks[name]["args"]["CUDA_VERSION"] for name in blocks if name != "base"}
    too_old = {name for name, version in versions.items() if tuple(map(int, version.split("."))) < (12, 8, 0)}
    for name in too_old:
        assert re.search(rf"^# docker buildx bake {name} .*no Blackwell", read("docker-bake.hcl"), re.MULTILINE)
    assert not too_old & set(bake_blocks("group")["default"]["targets"])


def test_nvidias_image_is_the_smallest_as_torchs_wheels_bring_its_libraries() -> None:
    assert "-base-" in next(line for line in arguments("FROM") if "nvidia/cuda" in line)


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
    assert any("--from=mediamtx /mediamtx " in line for line in arguments("COPY"))


def test_it_has_the_compiler_of_compiled_engines() -> None:
    assert re.search(r"\bg\+\+ ", " ".join(arguments("RUN"))), "what the compiled back end makes is C++"


def test_tensorrt_goes_in_by_the_same_name_everywhere() -> None:
    assert build_arguments()["TENSORRT_PACKAGE"] == ""
    assert "TENSORRT_PACKAGE" in bake_blocks("variable")
    assert "TENSORRT_PACKAGE" in bake_blocks("target")["base"]["args"]


def test_it_shows_the_ports_of_the_settings() -> None:
    (exposed,) = arguments("EXPOSE")
    assert {f"{DEFAULTS.port}/tcp", f"{DEFAULTS.turn_port}/tcp"} <= set(exposed.split())


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = {
        source.removeprefix("./") for line in arguments("COPY") if "--from=" not in line for source in line.split()[:-1]
    }
    missing = {source for source in copied if not (ROOT / source).exists()}
    assert missing <= set(SERVERLESS)
    allowed = {line.removeprefix("!") for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert {source.partition("/")[0] for source in copied} <= allowed
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
    words = build["run"].split()
    assert words[words.index("bake") + 1] in bake_blocks("group")["default"]["targets"]
    assert {*build["env"], words[0].partition("=")[0]} <= set(bake_blocks("variable"))
    assert "'release' && '--push'" in build["run"]
    changed = workflow[True]["pull_request"]["paths"]  # YAML reads the key `on` as true
    assert {"Dockerfile", "docker-bake.hcl", ".dockerignore"} <= set(changed)


@pytest.mark.skipif(not LINUX or shutil.which("bash") is None, reason="the step runs on Ubuntu; macOS has bash 3")
def test_an_owner_with_capital_letters_can_push_the_image() -> None:
    workflow = yaml.safe_load(read(".github/workflows/image.yml"))
    (build,) = [step for step in workflow["jobs"]["image"]["steps"] if "buildx bake" in step.get("run", "")]
    line = re.sub(r"\$\{\{.*?\}\}", "--push", build["run"])
    done = subprocess.run(
        ["bash", "-e", "-c", f'docker() {{ echo "$REGISTRY $*"; }}\n{line}'],
        env={"PATH": os.environ["PATH"], "GITHUB_REPOSITORY_OWNER": "SomeBody"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "ghcr.io/somebody buildx bake cuda13 --push\n"


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
