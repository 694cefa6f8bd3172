"""Trials beside running streams: what is tried when, what is kept of it, and whose turn it is at the card."""

import threading
from pathlib import Path

import pytest
import torch

from sdstream.diffusion.trials.memory import versions
from sdstream.diffusion.trials.planning import Asked, Standing, Step, next_step, numbers_of_streams
from sdstream.diffusion.trials.store import Known, Origin, Subject, TrialStore, read_known
from sdstream.platform.libraries import cuda_driver_version
from sdstream.worker.scheduling.card_turns import CardTurns, may_slice

ORIGIN = Origin("NVIDIA H100", ("2.11", "3.6"))
ONE, OTHER = Subject("convolutions", "one"), Subject("eight_bit", "other")
ASKED = (Asked("later", 9, 1), Asked("small", 1, 0), Asked("large", 5, 0))


@pytest.mark.parametrize(
    ("standing", "step"),
    [
        (Standing(ASKED, limit=30.0), Step("try", "large", 30.0)),
        (Standing(ASKED, frozenset({"large"}), seconds=10.0, limit=30.0), Step("try", "small", 20.0)),
        (Standing(ASKED, remembered=frozenset({"later"}), limit=30.0), Step("prove", "later")),
        (Standing(ASKED, remembered=frozenset({"later"})), Step("prove", "later")),
        (Standing(ASKED, remembered=frozenset({"later"}), seconds=11.0), None),
        (Standing(ASKED, seconds=29.9, limit=30.0), None),
        (Standing(ASKED, frozenset({"large"}), frozenset({"small", "later"}), limit=30.0), None),
    ],
)
def test_what_the_next_frame_computes_most_is_tried_first_and_what_is_remembered_proved(
    standing: Standing, step: Step | None
) -> None:
    assert next_step(standing) == step


@pytest.mark.parametrize(
    ("seated", "most", "buckets", "numbers"),
    [
        (0, 8, (1, 2, 4, 8), (1,)),
        (2, 8, (1, 2, 4, 8), (1, 4, 2)),
        (9, 8, (1, 2, 4, 8), (1, 8, 4, 2)),
        (9, 20, (1, 2, 4, 8), (1, 16, 8, 4, 2)),
        (2, 8, None, (1, 3, 2)),
        (5, 1, (1, 2, 4, 8), (1,)),
    ],
)
def test_all_numbers_of_streams_that_will_ride_together_are_prepared(
    seated: int, most: int, buckets: tuple[int, ...] | None, numbers: tuple[int, ...]
) -> None:
    assert numbers_of_streams(seated, most, buckets) == numbers


def test_processes_add_to_what_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "trials" / ORIGIN.file_name
    one, other = TrialStore(file, ORIGIN), TrialStore(file, ORIGIN)
    one.begin(ONE)
    other.settle({OTHER: {"a": 1}})
    one.settle({ONE: {"b": 2}})
    assert read_known(file, ORIGIN) == Known({ONE: {"b": 2}, OTHER: {"a": 1}})
    assert one.finding(OTHER) == {"a": 1}
    assert Origin(ORIGIN.card, ("2.12", "3.6")).file_name != ORIGIN.file_name


def test_versions_are_told_without_a_driver() -> None:
    assert cuda_driver_version(("no-such-driver.so",)) == 0
    assert versions()[0] == torch.__version__


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "card": "other", "versions": []}'])
def test_a_damaged_or_foreign_file_says_nothing_and_is_written_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / ORIGIN.file_name
    file.write_text(text)
    with pytest.warns(RuntimeWarning, match="says nothing of trials"):
        store = TrialStore(file, ORIGIN)
    with pytest.warns(RuntimeWarning, match="says nothing of trials"):
        store.settle({ONE: {}})
    assert read_known(file, ORIGIN) == Known({ONE: {}})


def test_a_folder_that_cannot_be_written_is_borne(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="says nothing of trials"):
        store = TrialStore(tmp_path / "file" / "card.json", ORIGIN)
    with pytest.warns(RuntimeWarning, match="is not kept"):
        store.settle({ONE: {"a": 1}})
    assert store.finding(ONE) == {"a": 1}


def test_frames_and_slices_have_the_card_by_turns() -> None:
    turns = CardTurns()
    turns.take()
    order: list[str] = []

    def tried() -> None:
        with turns.slice():
            order.append("slice")

    thread = threading.Thread(target=tried)
    thread.start()
    while not turns.are_wanted:
        pass
    order.append("frame")
    while thread.is_alive() and "slice" not in order:
        turns.give_way()
    thread.join(10.0)
    assert order == ["frame", "slice"]


def test_frames_have_most_of_the_card() -> None:
    assert not may_slice(1.02, ended=1.0, took=0.01)
    assert may_slice(1.04, ended=1.0, took=0.01)
