"""A manifest that somebody or something has changed: whatever it holds, it is broken and nothing else."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sdstream.engine_errors import EngineBroken
from sdstream.engines.manifest import FileRecord, Manifest
from tests.engines.stored import KEY

JUNK = [
    None,
    True,
    -1,
    0,
    float("inf"),
    float("nan"),
    10**40,
    "9" * 5000,
    "x",
    "../..",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
]
GOOD = json.loads(Manifest(KEY, {"engine.plan": FileRecord(3, "a" * 64)}, "2026-01-01T00:00:00").dump())


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every member of a document."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield (*before, name)
        yield from places(member, (*before, name))


@pytest.mark.parametrize("place", list(places(GOOD)), ids=lambda place: ".".join(map(str, place)))
def test_a_member_that_was_exchanged_is_read_or_told_as_broken(place: tuple[Any, ...]) -> None:
    for junk in JUNK:
        document = copy.deepcopy(GOOD)
        holder = document
        for name in place[:-1]:
            holder = holder[name]
        holder[place[-1]] = junk
        try:
            manifest = Manifest.parse(json.dumps(document).encode(), "it")
        except EngineBroken:
            continue
        assert manifest.key.digest == GOOD["digest"]
        assert all(record.size >= 0 for record in manifest.files.values())


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"key":' * 50_000, b"\xff", b"", b"null", b"1", b'"x"', b"[]"])
def test_what_is_no_document_is_no_manifest(data: bytes) -> None:
    with pytest.raises(EngineBroken, match="is not an engine's manifest"):
        Manifest.parse(data, "it")
