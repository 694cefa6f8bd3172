"""What the worker says reaches people without the directories of the server's disk."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sdstream.settings import Settings
from sdstream.worker.messages import Ending, LaneReport, Warm
from sdstream.worker.ports import ProcessorState
from sdstream.worker.server_end.wording import REMEMBERED, Wording, roots_of, without_directories

ROOT = Path("/srv/my data")
MISSING = "/srv/my data/models/turbo/unet/config.json is missing"


def report(**fields: object) -> LaneReport:
    given = {"detail": "", "percent": None, "error_code": None, "error_message": None, "refused_revision": None}
    return LaneReport(lane=1, phase="failed", revision=1, effective_sequence=None, **given | fields)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (MISSING, "models/turbo/unet/config.json is missing"),
        ("/srv/my data holds no model", "my data holds no model"),
        ("/srv/my data-old/x.json is missing", "my data-old/x.json is missing"),
        ("nothing in '/srv/my data/models'", "nothing in 'models'"),
        ("/opt/net/a.safetensors: is not whole", "a.safetensors: is not whole"),
        ("[Errno 2] No such file: '/home/a b/c d.bin'", "[Errno 2] No such file: 'c d.bin'"),
        ("put it into ~/models/mine/, or /m.", "put it into mine, or m."),
        ("cannot read file:///opt/x/y.json", "cannot read y.json"),
        (r"C:\Users\me\turbo\unet.bin is missing", "unet.bin is missing"),
        (r"no 'C:\\Users\\a b\\unet.bin'", "no 'unet.bin'"),
        (r"\\nas\models\unet.bin is missing", "unet.bin is missing"),
    ],
)
def test_a_path_is_told_from_a_known_place_on_or_by_its_last_name(said: str, told: str) -> None:
    assert without_directories(said, (ROOT,)) == told


@pytest.mark.parametrize(
    "said",
    [
        "stabilityai/sd-turbo lacks unet/config.json",
        "https://huggingface.co/a/b?x=c and http://[::1]/d answer 503",
        "see ./here and ../there, and/or 3/4 of </s>",
        "the device has too little memory: 1 / 2 GiB",
        "",
    ],
)
def test_what_is_no_path_of_this_disk_is_told_as_it_was_said(said: str) -> None:
    assert without_directories(said, (ROOT,)) == said


def test_every_sentence_of_a_report_and_of_an_end_is_shortened() -> None:
    wording = Wording([ROOT])
    state = ProcessorState("controlnets[0]", "canny", "left_out", problem=MISSING, note=MISSING)
    told = wording.of_message(report(detail=MISSING, error_message=MISSING, processors=[state]))
    assert (told.phase, told.revision) == ("failed", 1)
    (processor,) = told.processors
    said = told.detail, told.error_message, processor.problem, processor.note
    assert [*said, wording.of_message(Ending("X", MISSING)).message, *wording.of_lines([MISSING])] == [
        "models/turbo/unet/config.json is missing"
    ] * 6
    assert wording.of_message(other := Warm()) is other


def test_the_log_has_what_was_said_once_for_each_sentence() -> None:
    wording = Wording([ROOT])
    with capture_logs() as lines:
        for _ in range(3):
            wording.of_message(report(error_message=MISSING, detail="no path"))
        wording.of_message(report(error_message="/a/b"))
    assert [line["sentence"] for line in lines] == [MISSING, "/a/b"]


def test_no_more_than_so_many_sentences_are_remembered() -> None:
    wording = Wording([])
    with capture_logs() as lines:
        for number in (*range(REMEMBERED + 1), 0):
            wording.of_message(report(error_message=f"/a/{number}"))
    assert len(lines) == REMEMBERED + 2


def test_known_places_are_the_data_directory_and_what_the_models_of_the_settings_are_in(tmp_path: Path) -> None:
    models = {"a/near": str(tmp_path / "near" / "model"), "a/hub": "somebody/model", "a/top": "/model"}
    settings = Settings.model_validate({"data_dir": tmp_path / "data", "models": models})
    assert set(roots_of(settings)) == {tmp_path / "data", tmp_path / "near"}
