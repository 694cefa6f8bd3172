"""What earlier runs left: one stream that nobody understands keeps no other from coming back, and the doctor says what
a start would meet."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from sdstream.api.keys import FILE_NAME as KEYS
from sdstream.clock import SystemClock
from sdstream.commands.checks import Verdict
from sdstream.commands.kept_checks import check_keys, check_streams
from sdstream.errors import ConfigurationError
from sdstream.params import ModelTable, dump_params, parse_create
from sdstream.settings import Settings
from sdstream.streams.database import FILE_NAME
from sdstream.streams.migrations import SCHEMA_VERSION
from sdstream.streams.rows import INSERT, row_of
from sdstream.streams.store import UNRESTORED, StreamStore
from tests.streams.conftest import SceneMaker
from tests.streams.test_store import make_record

Spoil = Callable[[Path], object]


async def keep_streams(directory: Path, count: int = 40) -> Path:
    file = directory / FILE_NAME
    params = parse_create({}, ModelTable.from_settings(Settings(data_dir=directory))).params
    store = StreamStore(file, SystemClock())
    for number in range(count):
        await store.insert(make_record(number), dump_params(params))
    await store.close()
    return file


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement)
        database.commit()


def overwrite_pages(file: Path) -> None:
    pages = bytearray(file.read_bytes())
    pages[4096 * 3 : 4096 * 9] = os.urandom(4096 * 6)
    file.write_bytes(pages)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: change(file, f"PRAGMA user_version = {SCHEMA_VERSION + 1}"),
        overwrite_pages,
        lambda file: file.write_bytes(file.read_bytes()[:20_000]),
        lambda file: file.write_bytes(b"no database" * 500),
    ],
    ids=["of a newer version", "damaged", "cut off", "no database"],
)
async def test_the_doctor_tells_of_streams_with_which_no_server_starts(tmp_path: Path, spoil: Spoil) -> None:
    file = await keep_streams(tmp_path)
    settings = Settings(data_dir=tmp_path)
    good = check_streams(settings)
    assert good is not None
    assert (good.verdict, good.finding) == (Verdict.GOOD, "40 kept")
    spoil(file)
    content = file.read_bytes()
    with pytest.raises(ConfigurationError) as refusal:
        StreamStore(file, SystemClock())
    file.write_bytes(content)
    check = check_streams(settings)
    assert check is not None
    assert (check.verdict, check.finding) == (Verdict.BAD, refusal.value.message)
    assert "doctor" not in check.remedy
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "change_row",
    ["created_at = 'yesterday'", "delivery = '[]'", "delivery = '{\"outputs\": 3}'", "params = 'nothing'"],
)
async def test_one_unreadable_stream_is_told_and_left_and_the_others_come_back(tmp_path: Path, change_row: str) -> None:
    file = await keep_streams(tmp_path, count=3)
    change(file, f"UPDATE streams SET {change_row} WHERE id = 'str_1'")
    check = check_streams(Settings(data_dir=tmp_path))
    assert check is not None
    assert (check.verdict, "1 of 3 cannot be restored: str_1: " in check.finding) == (Verdict.NOTE, True)
    with structlog.testing.capture_logs() as said:
        store = StreamStore(file, SystemClock())
    rows, _ = store.load()
    await store.close()
    if not change_row.startswith("params"):  # which the service reads
        assert [row.id for row in rows] == ["str_0", "str_2"]
        assert [(line["event"], line["stream_id"]) for line in said] == [(UNRESTORED, "str_1")]
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM streams").fetchone() == (3,)


async def test_what_a_stream_comes_back_without_is_in_the_log(make_scene: SceneMaker, tmp_path: Path) -> None:
    before = await make_scene()
    record = await before.create(prompt="kept")
    await before.service.close()
    change(tmp_path / FILE_NAME, "UPDATE streams SET params = json_set(params, '$.later', 1)")
    with structlog.testing.capture_logs() as said:
        again = await make_scene()
    assert again.service.get(record.id) == record
    told = [line for line in said if line["event"] == "stream restored in part"]
    assert [(line["stream_id"], line["problems"]) for line in told] == [
        (record.id, ("params.later is not known and was ignored",))
    ]


def test_streams_of_an_older_schema_are_looked_at_and_left_as_they_are(tmp_path: Path) -> None:
    from sdstream.streams import migrations

    file = tmp_path / FILE_NAME
    params = parse_create({}, ModelTable.from_settings(Settings(data_dir=tmp_path))).params
    with closing(sqlite3.connect(file)) as database:
        for statement in migrations._STEPS[0]:  # pyright: ignore[reportPrivateUsage]
            database.execute(statement)
        database.execute("PRAGMA user_version = 1")
        names = INSERT.partition("(")[2].partition(")")[0].split(", ")
        row = dict(zip(names, row_of(make_record(), dump_params(params), None), strict=True))
        del row["delivery"], row["style_image"]
        database.execute(
            f"INSERT INTO streams ({', '.join(row)}) VALUES ({', '.join(len(row) * '?')})", tuple(row.values())
        )
        database.commit()
    content = file.read_bytes()
    check = check_streams(Settings(data_dir=tmp_path))
    assert check is not None
    assert (check.verdict, check.finding) == (Verdict.GOOD, "1 kept")
    assert file.read_bytes() == content


def test_where_nothing_is_kept_nothing_is_made(tmp_path: Path) -> None:
    none = check_streams(Settings(data_dir=tmp_path / "not" / "made"))
    assert none is not None
    assert (none.verdict, none.finding) == (Verdict.GOOD, "none kept")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("content", ["", "{", '{"keys": [{"digest": "short"}]}'])
def test_the_doctor_tells_of_keys_with_which_no_server_starts(tmp_path: Path, content: str) -> None:
    settings = Settings(data_dir=tmp_path)
    assert check_keys(settings).verdict is Verdict.GOOD
    (tmp_path / KEYS).write_text(content)
    check = check_keys(settings)
    assert (check.verdict, KEYS in check.finding) == (Verdict.BAD, True)
