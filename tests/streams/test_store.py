"""Stream records on disk, through kills, full disks and foreign files."""

import asyncio
import base64
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from sdstream.clock import SystemClock
from sdstream.errors import ConfigurationError, StreamNotFound, Unavailable
from sdstream.params import Delivery, StyleImage, wire_params
from sdstream.streams.migrations import SCHEMA_VERSION, migrate
from sdstream.streams.store import StreamStore
from sdstream.streams.views import StreamRecord
from tests.streams.conftest import SceneMaker
from tests.support.waiting import eventually

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX users, limits or signals")


def make_record(number: int = 0, **changes: Any) -> StreamRecord:
    record = StreamRecord(
        id=f"str_{number}",
        stream_key=f"stk_{number}",
        output_playback_id=f"pb_{number}",
        created_at=datetime(2026, 1, 1, 12, 0, number % 60, 123456, tzinfo=UTC),
        name="name, ünïcode",
        author="ann",
        params=None,  # type: ignore[arg-type]  # the store takes params as text
        delivery=Delivery("rtmp://example.org/app/key", ("rtmps://other.example/a/b",), True),
        from_playground=True,
    )
    return replace(record, **changes)


async def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "a.sqlite", SystemClock())
    record = make_record()
    await store.insert(record, '{"prompt":"x"}')
    await store.close()
    again = StreamStore(tmp_path / "a.sqlite", SystemClock())
    (row,), _ = again.load()
    await again.close()
    for name in ("id", "stream_key", "output_playback_id", "created_at", "name", "author", "revision"):
        assert getattr(row, name) == getattr(record, name)
    assert (row.params, row.delivery) == ('{"prompt":"x"}', record.delivery)
    assert (row.from_playground, row.is_smoke_test) == (True, False)


def make_image(letter: str, length: int = 2000) -> StyleImage:
    return StyleImage("data:image/png;base64," + letter * length)


async def images_after_restart(file: Path) -> list[str]:
    """The style images that a new server finds, each checked against its name."""
    store = StreamStore(file, SystemClock())
    _, images = store.load()
    await store.close()
    assert {digest: image.digest for digest, image in images.items()} == {digest: digest for digest in images}
    return sorted(image[-1] for image in images.values())


async def test_a_style_image_is_kept_once_and_as_long_as_a_stream_names_it(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite"
    store = StreamStore(file, SystemClock())
    for number in range(3):
        await store.insert(make_record(number), "x", make_image("A"))
    await store.update("str_0", "x", 2, make_image("B"))
    await store.close()
    assert await images_after_restart(file) == ["A", "B"]
    store = StreamStore(file, SystemClock())
    await store.update("str_1", "x", 2, None)
    assert await store.delete("str_2")
    await store.update("str_0", "y", 3, make_image("B"))
    await store.close()
    assert await images_after_restart(file) == ["B"]
    store = StreamStore(file, SystemClock())
    assert await store.delete("str_0")
    await store.close()
    assert await images_after_restart(file) == []


async def test_the_image_of_an_update_that_changes_nothing_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite"
    store = StreamStore(file, SystemClock())
    await store.insert(make_record(), "x", make_image("A"))
    assert not await store.update("str_0", "x", 1, make_image("B"))
    assert not await store.update("str_9", "x", 5, make_image("C"))
    await store.close()
    assert await images_after_restart(file) == ["A"]


async def test_of_updates_that_wait_together_the_last_image_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite"
    store = StreamStore(file, SystemClock())
    inserted = asyncio.ensure_future(store.insert(make_record(), "x"))
    updates = [
        asyncio.ensure_future(store.update("str_0", "x", revision, image))
        for revision, image in ((2, make_image("A")), (3, make_image("B")), (4, make_image("B")))
    ]
    await asyncio.gather(inserted, *updates)
    await store.close()
    assert await images_after_restart(file) == ["B"]


async def test_a_change_beside_a_large_style_image_writes_little(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite"
    store = StreamStore(file, SystemClock())
    image = make_image("A", 5_000_000)
    await store.insert(make_record(), "x", image)
    log = tmp_path / "a.sqlite-wal"
    await eventually(lambda: _is_moved(file, len(image)), what="the image in the database file")
    await store.update("str_0", "y", 2, image)  # begins the log anew
    before = log.stat().st_mtime_ns, _frames(log)
    for revision in range(3, 23):
        await store.update("str_0", "y" * 400, revision, image)
    assert log.stat().st_mtime_ns > before[0]
    assert (_frames(log) - before[1]) * 4096 <= 20 * 4 * 4096
    await store.close()


async def test_a_stream_with_a_style_image_survives_a_restart_and_forgets_it_with_its_last_stream(
    make_scene: SceneMaker, tmp_path: Path
) -> None:
    scene = await make_scene()
    image = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(9000) + b"IEND").decode()
    given = {"model_id": "stabilityai/sdxl-turbo", "ip_adapter_style_image_url": image}
    record = await scene.create(**given)
    await scene.service.update(record.id, {"params": {"prompt": "other"}})
    await scene.service.close()
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        assert connection.execute("SELECT max(length(params)) < 5000 FROM streams").fetchone() == (1,)
        assert connection.execute("SELECT count(*), sum(length(uri)) FROM style_images").fetchone() == (1, len(image))
    again = await make_scene()
    restored = again.service.get(record.id).params
    assert wire_params(restored)["ip_adapter_style_image_url"] == image
    await again.service.delete(record.id)
    await again.service.close()
    assert await images_after_restart(tmp_path / "state.sqlite") == []


def _is_moved(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def _frames(log: Path) -> int:
    """Pages in the log since it was begun anew: frames that carry the salt of its header."""
    data = log.read_bytes()
    salt = data[16:24]
    return sum(data[start + 8 : start + 16] == salt for start in range(32, len(data), 4096 + 24))


async def test_updates_rise_and_deletes_are_final(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "a.sqlite", SystemClock())
    await store.insert(make_record(), "one")
    assert await store.update("str_0", "three", 3)
    assert not await store.update("str_0", "two", 2)
    assert await store.delete("str_0")
    assert not await store.delete("str_0")
    assert not await store.update("str_0", "four", 4)
    await store.close()


async def test_writes_that_wait_share_a_transaction(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "a.sqlite", SystemClock())
    await store.insert(make_record(), "0")
    kept = await asyncio.gather(*(store.update("str_0", str(revision), revision) for revision in range(2, 302)))
    assert all(kept)
    assert store.statistics.writes == 301
    assert store.statistics.commits < 150
    await store.close()
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        assert database.execute("SELECT params, revision FROM streams").fetchall() == [("301", 301)]


async def test_a_waiting_update_is_replaced_by_the_next_but_not_across_a_delete(tmp_path: Path) -> None:
    store, come = StreamStore(tmp_path / "a.sqlite", SystemClock()), threading.Event()
    store._connection.create_function("nap", 0, lambda: come.wait(60))
    store._connection.execute("CREATE TEMP TRIGGER slow AFTER INSERT ON streams BEGIN SELECT nap(); END")
    store._connection.execute("CREATE TEMP TABLE written (params)")
    store._connection.execute(
        "CREATE TEMP TRIGGER note AFTER UPDATE ON streams BEGIN INSERT INTO written VALUES (new.params); END"
    )
    writes = [
        asyncio.ensure_future(write)
        for write in (
            store.insert(make_record(), "1"),  # holds the writer while the others come
            store.update("str_0", "2", 2),
            store.update("str_0", "3", 3),
            store.delete("str_0"),
            store.update("str_0", "4", 4),
            store.update("str_0", "5", 5),
        )
    ]
    await asyncio.sleep(0)
    come.set()
    assert await asyncio.gather(*writes) == [None, True, True, True, False, False]
    assert store._connection.execute("SELECT params FROM written").fetchall() == [("3",)]
    await store.close()


async def test_one_bad_write_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "a.sqlite", SystemClock())
    await store.insert(make_record(1), "x")
    results = await asyncio.gather(
        *(store.insert(make_record(number), "x") for number in (1, 2, 3)), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == ["Unavailable", "NoneType", "NoneType"]
    await store.close()


async def test_writes_that_wait_are_committed_by_close(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "a.sqlite", SystemClock())
    writes = [asyncio.ensure_future(store.insert(make_record(number), "x")) for number in range(40)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(Unavailable):
        await store.insert(make_record(99), "x")
    again = StreamStore(tmp_path / "a.sqlite", SystemClock())
    assert len(again.load()[0]) == 40
    await again.close()


async def test_the_log_is_moved_in_a_quiet_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdstream.streams.store.QUIET_SECONDS", 0.05)
    store = StreamStore(tmp_path / "a.sqlite", SystemClock())
    await store.insert(make_record(), "x" * 50_000)
    await eventually(lambda: (tmp_path / "a.sqlite").stat().st_size >= 50_000, what="moving the log")
    await store.close()


async def test_the_log_does_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdstream.streams.store.MOST_UNMOVED_BYTES", 80_000)
    store = StreamStore(tmp_path / "a.sqlite", SystemClock())
    await store.insert(make_record(), "x")
    for revision in range(2, 402):
        await store.update("str_0", "y" * 4000, revision)
    assert (tmp_path / "a.sqlite-wal").stat().st_size < 1_000_000
    await store.close()


async def test_the_loop_turns_while_the_disk_is_slow(tmp_path: Path) -> None:
    store, turned = StreamStore(tmp_path / "a.sqlite", SystemClock()), threading.Event()
    naps: list[bool] = []
    store._connection.create_function("nap", 0, lambda: naps.append(turned.wait(60)))
    store._connection.execute("CREATE TEMP TRIGGER slow AFTER INSERT ON streams BEGIN SELECT nap(); END")
    writing = asyncio.ensure_future(store.insert(make_record(), "x"))
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert not writing.done()
    turned.set()
    await writing
    assert naps == [True], "the disk was not waited for"
    await store.close()


def fails_at_start(file: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        StreamStore(file, SystemClock())
    return caught.value.message


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite"
    file.write_bytes(b"this is not a database, and it is long enough to have a header of its own" * 20)
    content = file.read_bytes()
    message = fails_at_start(file)
    assert str(file) in message
    assert "not a database" in message
    assert file.read_bytes() == content


async def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite"
    store = StreamStore(file, SystemClock())
    for number in range(50):
        await store.insert(make_record(number), "x" * 2000)
    await store.close()
    pages = bytearray(file.read_bytes())
    pages[4096 * 3 : 4096 * 9] = os.urandom(4096 * 6)
    file.write_bytes(pages)
    assert "damaged" in fails_at_start(file)


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert "newer" in fails_at_start(file)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "data" in fails_at_start(tmp_path / "data" / "state.sqlite")


async def test_a_second_server_on_the_same_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdstream.streams.database.LOCK_SECONDS", 0.1)
    first = StreamStore(tmp_path / "state.sqlite", SystemClock())
    assert "another sdstream" in await asyncio.to_thread(fails_at_start, tmp_path / "state.sqlite")
    await first.insert(make_record(), "x")
    await first.close()


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


OPEN = """
    import sys
    from pathlib import Path
    from sdstream.clock import SystemClock
    from sdstream.errors import ConfigurationError
    from sdstream.streams.store import StreamStore

    {before}
    try:
        StreamStore(Path(sys.argv[1]), SystemClock())
    except ConfigurationError as error:
        print(error.message)
"""


def test_a_full_disk_is_named_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_and_migrate(connection: sqlite3.Connection, version: int) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite's own way to run out of space
        migrate(connection, version)

    monkeypatch.setattr("sdstream.streams.database.migrate", fill_and_migrate)
    assert fails_at_start(tmp_path / "state.sqlite") == f"The disk of {tmp_path} is full."


@posix
def test_a_quota_is_named_at_start(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    done = run_script(OPEN.format(before=limit), tmp_path / "state.sqlite")
    assert "over its quota" in done.stdout, done.stdout + done.stderr


@posix
def test_a_read_only_directory_is_named_at_start() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o555)
        drop = "import os; os.geteuid() == 0 and os.setuid(65534)"
        done = run_script(OPEN.format(before=drop), folder / "state.sqlite")
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert "cannot be written" in done.stdout, done.stderr


async def test_a_disk_that_fills_up_loses_no_record_and_fails_the_change(make_scene: SceneMaker) -> None:
    scene = await make_scene()
    record = await scene.create_live(prompt="before")
    store = scene.service._store
    assert store is not None
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")

    async def fill() -> None:
        for number in range(50):
            await scene.service.update(record.id, {"params": {"prompt": f"{number} {'much ' * 1500}"}})

    with structlog.testing.capture_logs() as said, pytest.raises(Unavailable, match="cannot be stored"):
        await fill()
    assert [line["problem"] for line in said if "refuses" in line["event"]] == ["database or disk is full"]
    kept = scene.service.get(record.id)
    store._connection.execute("PRAGMA max_page_count = 1000000")
    outcome = await scene.service.update(record.id, {"params": {"prompt": "after"}})
    assert outcome.record.revision > kept.revision
    assert scene.lane_of(record).params.prompt == "after"
    assert scene.service.get(record.id) == outcome.record


async def test_an_update_that_cannot_be_stored_changes_nothing(make_scene: SceneMaker) -> None:
    scene = await make_scene()
    record = await scene.create_live(prompt="before")
    store = scene.service._store
    assert store is not None
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable):
        await scene.service.update(record.id, {"params": {"prompt": "lost", "seed": 4}})
    with pytest.raises(Unavailable):
        await scene.create()
    with pytest.raises(Unavailable):
        await scene.service.delete(record.id)
    assert scene.service.list_streams(None) == [record]
    assert scene.lane_of(record).updates == []
    store._connection.execute("PRAGMA query_only = OFF")
    outcome = await scene.service.update(record.id, {"params": {"delta": 0.2}})
    assert (outcome.record.params.prompt, outcome.record.params.seed) == ("before", 789)
    await scene.service.delete(record.id)
    with pytest.raises(StreamNotFound):
        scene.service.get(record.id)


def test_a_migration_step_happens_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "CREATE NONSENSE"))
    monkeypatch.setattr("sdstream.streams.migrations._STEPS", steps)
    monkeypatch.setattr("sdstream.streams.migrations.SCHEMA_VERSION", 2)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        with pytest.raises(sqlite3.Error):
            migrate(database, 0)
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        assert tables == {"a"}
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


KILLED = """
    import asyncio, sys
    from pathlib import Path
    from sdstream.clock import SystemClock
    from tests.streams.fakes import FakeMedia, FakeWorker
    from sdstream.params import ModelTable
    from sdstream.settings import load_settings
    from sdstream.streams.service import StreamService

    async def main():
        settings = load_settings({"max_streams": 10000, "log_level": "error"}, {})
        clock = SystemClock()
        service = StreamService(settings, media=FakeMedia(), worker=FakeWorker(clock),
            models=ModelTable.from_settings(settings), data_dir=Path(sys.argv[1]), clock=clock)
        await service.start()
        body = {"params": {"model_id": "stabilityai/sd-turbo"}}
        number = 0
        while True:
            record = (await service.create(body, "ann")).record
            number += 1
            outcome = await service.update(record.id, {"params": {"prompt": f"prompt {number}"}})
            print(record.id, record.stream_key, record.output_playback_id, number, flush=True)

    import structlog
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main())
"""


async def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path, make_scene: SceneMaker) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(KILLED),
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    lines = [await asyncio.wait_for(process.stdout.readline(), 60) for _ in range(25)]
    process.kill()
    lines += (await process.stdout.read()).splitlines()  # what it had written when it was hit
    await process.wait()
    scene = await make_scene(data_dir=tmp_path)
    for line in lines:
        parts = line.decode().split()
        if len(parts) == 4 and line:
            record = scene.service.get(parts[0])
            assert (record.stream_key, record.output_playback_id) == (parts[1], parts[2])
            assert (record.params.prompt, record.revision) == (f"prompt {parts[3]}", 2)
