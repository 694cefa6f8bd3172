"""The image's entrypoint: what it starts, as whom, and what it puts in place before."""

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdstream.engines.cache import EngineCache
from tests.engines.stored import key, store
from tests.project.image import ROOT, read


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
        timeout=60,
    )


posix = pytest.mark.skipif(os.name != "posix" or sys.platform != "linux", reason="the image is Linux's")
as_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root may become another user, by setpriv",
)


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
@as_root
def test_root_hands_the_data_over_and_becomes_the_images_user() -> None:
    with stage() as folder:
        done = enter(folder, RUN_AS="auto", IMAGE_USER="daemon")
        owner = (folder / "data").stat().st_uid
    assert " as daemon " in done.stdout, done.stderr
    assert owner != 0


@posix
@as_root
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


@posix
@as_root
def test_a_login_shell_finds_the_programs_and_the_data() -> None:
    """`/etc/profile` sets another PATH, and a shell by SSH sees none of the container's variables."""
    with stage() as folder:
        enter(folder, SDSTREAM_API_KEYS="secret", SDSTREAM_PORT="9000", SDSTREAM_TURN_CREDENTIAL="secret")
        shell = subprocess.run(
            ["sh", "-c", f'. {folder}/profile.sh; command -v sdstream; echo "$SDSTREAM_DATA_DIR $SDSTREAM_PORT"'],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert shell.stdout.splitlines() == [f"{folder}/bin/sdstream", f"{folder}/data 9000"]
        assert "secret" not in (folder / "profile.sh").read_text()


@posix
@as_root
def test_a_data_directory_that_nobody_can_use_is_no_reason_for_root() -> None:
    """A setting that is wrong, say: the server itself says so, and better as a user."""
    with stage() as folder:
        (folder / "bin/python").write_text("#!/bin/sh\nexit 1\n")
        done = enter(folder, RUN_AS="auto", IMAGE_USER="daemon")
    assert " as daemon " in done.stdout
    assert done.stderr == ""


@posix
@as_root
def test_a_data_directory_that_root_makes_for_the_user_is_the_users_alone() -> None:
    with stage() as folder:
        place = folder / "data/sdstream"
        enter(folder, RUN_AS="auto", IMAGE_USER="daemon", SDSTREAM_DATA_DIR=str(place))
        status = place.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid != 0


@posix
@as_root
def test_an_engine_that_root_baked_is_given_to_the_user_who_will_put_it_aside() -> None:
    with stage() as folder:
        entry = folder / "data/engines/BASE/PLACE"
        entry.mkdir(parents=True)
        enter(folder, RUN_AS="auto", IMAGE_USER="daemon")
        moved = subprocess.run(
            ["setpriv", "--reuid", "daemon", "--clear-groups", "mv", str(entry), f"{folder}/data/engines/aside"],
            check=False,
        )
    assert moved.returncode == 0


@posix
@as_root
def test_a_link_that_root_left_in_the_data_and_that_leads_nowhere_is_no_reason_for_root() -> None:
    with stage() as folder:
        (folder / "data/models").mkdir()
        (folder / "data/models/gone").symlink_to(folder / "nothing")
        (folder / "outside").write_text("root's")
        (folder / "data/models/away").symlink_to(folder / "outside")
        done = enter(folder, RUN_AS="auto", IMAGE_USER="daemon")
        owner = (folder / "outside").stat().st_uid
    assert " as daemon " in done.stdout, done.stderr
    assert owner == 0, "what lies outside the data directory stays as it is"


@posix
@as_root
def test_data_behind_a_link_is_handed_over() -> None:
    with stage() as folder:
        (folder / "volume/models").mkdir(parents=True)
        (folder / "linked").symlink_to(folder / "volume")
        done = enter(folder, RUN_AS="auto", IMAGE_USER="daemon", SDSTREAM_DATA_DIR=str(folder / "linked"))
        owners = {(folder / name).stat().st_uid for name in ("volume", "volume/models")}
    assert " as daemon " in done.stdout, done.stderr
    assert 0 not in owners
