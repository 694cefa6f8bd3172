"""Whether a model can fit a device at all: numbers, no device."""

import pytest

from sdstream.errors import OutOfMemory
from sdstream.worker.loading.room import MemoryReport, most_room, refuse_what_cannot_fit

GIB = 2**30


def test_a_device_that_does_not_tell_its_memory_refuses_nothing() -> None:
    assert most_room(MemoryReport(None)) is None
    refuse_what_cannot_fit("a/b", 10**15, None)


def test_what_this_process_holds_counts_as_room() -> None:
    assert most_room(MemoryReport(total=24 * GIB, free=2 * GIB, held=20 * GIB, before=4 * GIB)) == 22 * GIB


def test_memory_that_torch_does_not_know_of_counts_as_room_where_it_was_free_at_the_start() -> None:
    assert most_room(MemoryReport(total=24 * GIB, free=2 * GIB, held=10 * GIB, before=GIB)) == 23 * GIB


def test_what_others_hold_from_the_start_is_no_room() -> None:
    assert most_room(MemoryReport(total=24 * GIB, free=4 * GIB, held=0, before=20 * GIB)) == 4 * GIB


def test_a_system_that_tells_its_limit_alone_gives_all_of_it() -> None:
    assert most_room(MemoryReport(8 * GIB)) == 8 * GIB


def test_weights_that_just_fit_are_not_refused() -> None:
    refuse_what_cannot_fit("a/b", 8 * GIB, 8 * GIB)


def test_a_refusal_says_what_is_needed_and_what_there_is() -> None:
    with pytest.raises(OutOfMemory) as raised:
        refuse_what_cannot_fit("a/b", 8 * GIB + 1, 8 * GIB)
    error = raised.value
    assert error.details == {"need_bytes": 8 * GIB + 1, "free_bytes": 8 * GIB}
    assert "a/b" in error.message
    assert f"({8 * GIB + 1} bytes)" in error.message
    assert f"({8 * GIB} bytes)" in error.message
    assert "smaller model" in error.hint
