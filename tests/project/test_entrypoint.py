"""What the built image showed about its entrypoint, once a real builder had made it."""

import os
import shutil
import stat
import subprocess

import pytest

from tests.project.test_image import enter, posix, stage

pytestmark = [
    posix,
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become another user"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed"),
]


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


def test_a_data_directory_that_nobody_can_use_is_no_reason_for_root() -> None:
    """A setting that is wrong, say: the server itself says so, and better as a user."""
    with stage() as folder:
        (folder / "bin/python").write_text("#!/bin/sh\nexit 1\n")
        done = enter(folder, RUN_AS="auto", IMAGE_USER="daemon")
    assert " as daemon " in done.stdout
    assert done.stderr == ""


def test_a_data_directory_that_root_makes_for_the_user_is_the_users_alone() -> None:
    with stage() as folder:
        place = folder / "data/sdstream"
        enter(folder, RUN_AS="auto", IMAGE_USER="daemon", SDSTREAM_DATA_DIR=str(place))
        status = place.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid != 0


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
