"""The image's layers of Python packages: each is made of what concerns it alone, so that an update is small."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.project.image import ROOT, arguments, bake_blocks, build_arguments, cut, parents, read, stage

GIGABYTES = ("torch", "tensorrt")
"""Stages whose layers a release of the project must not change."""
LAYERS = ("torch", "tensorrt", "packages", "project")
"""Stages that each make one layer, in a directory of their name, which stands for the image's root."""
IMAGES = {13: ("13.0.2", "cu130"), 12: ("12.6.3", "cu126")}


def names(text: str) -> set[str]:
    return {Requirement(line).name for line in text.splitlines() if not line.startswith("-")}


def sources(name: str) -> set[str]:
    """What a stage and those below it copy."""
    return {rest for each in parents(name) for instruction, rest in stage(each) if instruction in ("COPY", "ADD")}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def edit(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text("utf-8"), count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    file.write_text(text, "utf-8")


@pytest.mark.parametrize("name", GIGABYTES)
def test_nothing_of_the_project_but_cut_pins_gets_into_the_layers_of_gigabytes(name: str) -> None:
    assert sources(name) == {"docker/seal.sh /usr/local/bin/", "--from=cut /cut/torch.txt ./"}
    mounted = " ".join(rest for each in parents(name) for instruction, rest in stage(each) if instruction == "RUN")
    assert "type=bind" not in mounted


def test_the_project_is_a_layer_of_its_own_that_needs_no_torch() -> None:
    assert not {"torch", "packages"} & set(parents("project"))
    assert "--no-deps" in " ".join(rest for instruction, rest in stage("project") if instruction == "RUN")
    assert not [line for line in sources("packages") if "sdstream" in line]


def test_each_layer_is_copied_for_itself_and_the_rarest_change_comes_first() -> None:
    """Without --link, a layer is made anew when one below it is."""
    copied = [rest for instruction, rest in stage("runtime") if instruction == "COPY" and rest.endswith(" /")]
    assert copied == [f"--link --from={name} /{name} /" for name in LAYERS]


@pytest.mark.parametrize("line", [r"^(transformers)==.*$", r"^(nvidia-ml-py)==.*$", r"^(torchvision)==.*$"])
def test_a_pin_that_has_nothing_to_do_with_torch_leaves_its_layer_alone(project: Path, line: str) -> None:
    before = cut(*IMAGES[13], project, project)
    edit(project / "constraints.txt", line, r"\g<1>==99.9")
    edit(project / "pyproject.toml", r"^version = .*$", 'version = "99.9"')
    assert cut(*IMAGES[13], project, project) == before


@pytest.mark.parametrize("name", ["torch", "nvidia-cuda-cccl"])
def test_a_pin_of_torch_and_its_cuda_makes_that_layer_anew(project: Path, name: str) -> None:
    before, packages = cut(*IMAGES[13], project, project)
    edit(project / "constraints.txt", rf"^({name})==.*$", r"\g<1>==99.9")
    after, same = cut(*IMAGES[13], project, project)
    assert f"{name}==99.9" in after
    assert after != before
    assert same == packages


def test_the_layer_of_torch_has_the_build_and_its_index(tmp_path: Path) -> None:
    for cuda, build in IMAGES.values():
        text, _ = cut(cuda, build, ROOT, tmp_path)
        assert f"--extra-index-url https://download.pytorch.org/whl/{build}\n" in text
        assert re.search(rf"^torch==[\d.]+\+{build}$", text, re.MULTILINE)


def test_together_they_hold_all_that_the_server_needs_to_bake_and_run_engines(tmp_path: Path) -> None:
    torch, packages = cut(*IMAGES[13], ROOT, tmp_path)
    data = tomllib.loads(read("pyproject.toml"))["project"]
    extras = data["optional-dependencies"]
    lines = [*data["dependencies"], *extras["runpod"], *extras["bake"], *extras["gpu"], *extras["onnx"]]
    wanted = {Requirement(line).name for line in lines} - {"sdstream"}
    assert wanted <= names(packages)
    assert "sdstream" not in names(packages)
    assert {name for name in wanted if name.startswith("nvidia-cuda-")} <= names(torch)


def test_an_image_of_cuda_12_holds_its_own_headers_and_nothing_made_for_13(tmp_path: Path) -> None:
    torch, packages = cut(*IMAGES[12], ROOT, tmp_path)
    assert "nvidia-cuda-nvcc-cu12==12.6.*" in torch
    assert "nvidia-cuda-cccl-cu12==12.6.*" in torch
    found = names(torch) | names(packages)
    assert not [name for name in found if "cu13" in name]
    assert not [name for name in found if re.fullmatch("nvidia-cuda-(cccl|crt|runtime)", name)]
    assert {"onnx", "onnxscript", "onnxruntime", "runpod"} <= found, "TENSORRT_PACKAGE needs them"


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform != "linux", reason="GNU's touch is the image's")
def test_a_sealed_directory_is_the_same_whenever_its_packages_were_installed(tmp_path: Path) -> None:
    """The same bytes and dates, and bytecode that Python takes as it is: it has the date of its source in it."""

    def installed(name: str, seconds: int) -> dict[str, tuple[int, bytes]]:
        folder = tmp_path / name
        package = folder / "opt/venv/lib/package"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("THREE = 1 + 2\n")
        (package / "link").symlink_to("__init__.py")
        for path in (package / "__init__.py", package, folder):
            os.utime(path, (seconds, seconds))
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(["bash", str(ROOT / "docker/seal.sh"), str(folder)], env=environment, check=True, timeout=150)
        return {
            str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in (folder, *folder.rglob("*"))
        }

    first, second = installed("first", 1_700_000_000), installed("second", 1_800_000_000)
    assert first == second
    (bytecode,) = [content for name, (_, content) in first.items() if name.endswith(".pyc")]
    source = first["opt/venv/lib/package/__init__.py"][0] // 10**9
    assert (bytecode[4:8], bytecode[8:12]) == (bytes(4), source.to_bytes(4, "little"))
    assert b"/opt/venv/lib/package" in bytecode


def test_what_pip_installs_is_sealed_and_not_compiled_before() -> None:
    for name in LAYERS:
        (line,) = [rest for instruction, rest in stage(name) if instruction == "RUN"]
        assert "--no-compile" in line
        assert line.endswith(f"&& seal.sh /{name}")


def test_a_layer_holds_opt_so_that_no_copy_makes_it_with_a_date_of_its_own() -> None:
    *_, (_, made) = [line for line in stage("tools") if line[0] == "RUN"]
    assert made.startswith("python3 -m venv /opt/venv ")
    assert made.endswith("&& mv /opt/venv /torch/opt/ && ln -s /torch/opt/venv /opt/venv")
    for name in set(LAYERS) - {"torch"}:
        installed = " ".join(rest for instruction, rest in stage(name) if instruction == "RUN")
        assert f" --prefix /{name}/opt/venv " in installed


def test_a_release_leaves_its_layers_for_the_next_one_beside_the_image() -> None:
    """In one repository of the registry, which holds a layer once."""
    steps = yaml.safe_load(read(".github/workflows/image.yml"))["jobs"]["image"]["steps"]
    (build,) = [step for step in steps if "buildx bake" in step.get("run", "")]
    assert build["env"]["KEEP_CACHE"] == "${{ github.event_name == 'release' && 'yes' || '' }}"
    assert "KEEP_CACHE" in bake_blocks("variable")
    functions = bake_blocks("function")
    for name, use in (("cache_from", ""), ("cache_to", ",mode=min")):
        result = str(functions[name]["result"])
        assert f"type=registry,ref=${{REGISTRY}}/${{IMAGE}}:cache-${{build}}{use}" in result
    for name, target in bake_blocks("target").items():
        if name != "base":
            build_name = target["args"]["TORCH_CUDA"]
            assert [target["cache-from"], target["cache-to"]] == [
                f'${{cache_{way}("{build_name}")}}' for way in ("from", "to")
            ]


def test_the_arguments_of_a_build_do_not_reach_the_layer_of_torch_but_by_its_file() -> None:
    used = {rest.partition("=")[0] for instruction, rest in stage("torch") if instruction == "ARG"}
    assert used == set()
    assert {"CUDA_VERSION", "TORCH_CUDA"} <= {line.partition("=")[0] for line in arguments("ARG")}
    assert build_arguments()["TORCH_CUDA"] == IMAGES[13][1]
