"""The coturn child: how it is told its secret, started again, and ended with its parent."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from sdstream.clock import SystemClock
from sdstream.errors import ConfigurationError
from sdstream.media.child_program import STEADY_SECONDS, RestartDelay
from sdstream.media.embedded.addresses import interface_addresses
from sdstream.media.turn import coturn as module
from sdstream.media.turn.coturn import Coturn, CoturnConfig
from sdstream.media.turn.desk import IceDesk
from sdstream.platform.shared_memory import shared_memory_directory
from sdstream.settings import Settings
from tests.support.ports import free_port
from tests.support.waiting import eventually, eventually_sync

ADDRESSES = [address for address in interface_addresses() if ":" not in address]
installed = pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn is not installed")
connected = pytest.mark.skipif(not ADDRESSES, reason="this machine has no address but loopback")


def ended_process() -> int:
    """The id of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait(10)
    return gone.pid


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Coturn]:
    child = Coturn("turnserver", free_port("0.0.0.0"), ADDRESSES[0], 3600, SystemClock())
    await child.start()
    try:
        yield child
    finally:
        await child.close()


def test_only_the_address_of_this_machine_may_be_relayed_to() -> None:
    lines = CoturnConfig(3478, "10.0.0.5", Path("/run/x")).text("the-secret").splitlines()
    assert [line for line in lines if "allowed-peer" in line] == ["allowed-peer-ip=10.0.0.5"]
    assert "denied-peer-ip=0.0.0.0-255.255.255.255" in lines
    assert {"no-udp", "no-tcp-relay", "no-cli", "use-auth-secret", "no-multicast-peers"} <= set(lines)


def test_delays_double_up_to_a_limit_and_a_long_life_ends_the_row() -> None:
    delay, seen = RestartDelay(), list[float]()
    for _ in range(7):
        delay = delay.after(0.1)
        seen.append(delay.seconds)
    assert seen == [0.5, 1, 2, 4, 8, 8, 8]
    assert delay.after(STEADY_SECONDS) == RestartDelay()


async def test_a_program_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="not installed"):
        await Coturn("no-such-turnserver", 3478, "127.0.0.1", 60, SystemClock()).start()


async def test_a_program_that_ends_at_once_is_told_with_its_words(tmp_path: Path) -> None:
    program = tmp_path / "turnserver"
    program.write_text("#!/bin/sh\necho no relay today\nexit 3\n")
    program.chmod(0o755)
    child = Coturn(str(program), free_port("0.0.0.0"), "127.0.0.1", 60, SystemClock())
    with pytest.raises(ConfigurationError, match=r"status 3.*no relay today"):
        await child.start()


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"{port} is in use"):
            await Coturn(sys.executable, port, "127.0.0.1", 60, SystemClock()).start()


@installed
@connected
async def test_the_secret_is_in_no_command_line_no_environment_and_no_log() -> None:
    with capture_logs() as lines:
        async with running() as child:
            assert child.process_id is not None
            process = psutil.Process(child.process_id)
            secret = child._secret
            assert secret not in " ".join(process.cmdline())
            assert secret not in "".join(process.environ().values())
            folder = Path(process.cmdline()[-1]).parent
            assert folder.stat().st_mode & 0o077 == 0
            assert (folder / "turnserver.conf").stat().st_mode & 0o077 == 0
            server = child.servers("host:1")
            assert server.credential is not None
            assert server.credential not in str(lines)
    assert secret not in str(lines)
    assert not folder.exists()


@installed
@connected
async def test_it_is_started_again_and_its_passwords_stay_good() -> None:
    async with running() as child:
        first, before = child.process_id, child._secret
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: child.process_id not in (None, first), what="a new coturn")
        await eventually(child._answers, what="its port answering")
        assert child._secret == before


@installed
@connected
async def test_the_folder_of_a_server_that_was_killed_is_removed() -> None:
    place = shared_memory_directory()
    leftover = place / f"{module.FOLDER}{ended_process()}-x"
    ours = place / f"{module.FOLDER}{os.getpid()}-x"
    leftover.mkdir()
    ours.mkdir()
    try:
        async with running():
            assert not leftover.exists()
            assert ours.exists()
    finally:
        ours.rmdir()


@installed
@connected
@pytest.mark.parametrize(("host", "place"), [("box.example", "box.example"), ("2001:db8::1", "[2001:db8::1]")])
async def test_without_a_mapped_address_clients_use_the_host_that_they_call(host: str, place: str) -> None:
    desk = IceDesk(Settings(webrtc_mode="turn-local", turn_port=free_port("0.0.0.0")), SystemClock())
    await desk.start(ADDRESSES[0])
    try:
        (server,) = await desk.for_client(host)
        assert server.urls == (f"turn:{place}:{desk._settings.turn_port}?transport=tcp",)
        assert await desk.for_us() is None
    finally:
        await desk.close()


@installed
@connected
async def test_closing_ends_it() -> None:
    async with running() as child:
        process_id = child.process_id
    assert process_id is not None
    assert not psutil.pid_exists(process_id)
    await child.close()


@installed
@connected
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_it_ends_when_its_parent_is_killed() -> None:
    program = f"""
import asyncio
from sdstream.clock import SystemClock
from sdstream.media.turn.coturn import Coturn
async def main():
    child = Coturn("turnserver", {free_port("0.0.0.0")}, {ADDRESSES[0]!r}, 60, SystemClock())
    await child.start()
    print(child.process_id, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(next(line for line in parent.stdout if line.strip().isdigit())))
        assert child.is_running()
        parent.kill()
        eventually_sync(
            lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE,
            what="coturn ending with its parent",
        )
