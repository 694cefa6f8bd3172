"""Log lines: one form for all, and no secret in any."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sdstream.clock import ManualClock
from sdstream.logs import REDACTED, FoldedReporter, Redactor, configure_logging, unasked
from sdstream.settings import load_settings

Writer = Callable[..., io.StringIO]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def write_to() -> Iterator[Writer]:
    """Configures logging to a string."""

    def configure(**settings: Any) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(load_settings(settings, {}), stream)
        return stream

    yield configure
    structlog.contextvars.clear_contextvars()


SECRETS = {
    "bearer": ("Authorization: Bearer eyJhbGciOi.abc-_~+/=", "eyJhbGciOi"),
    "server key": ("key sds_4fGh-_23aa was used", "4fGh"),
    "stream key": ("POST /live/video-to-video/stk_p3Xw81LbRe_-x/whip", "p3Xw81"),
    "playback id": ("POST /playback/pb_7Yc0dN-_a/whep", "7Yc0dN"),
    "rtmp": ("pushing to rtmp://a.example.org/app/live_1234?x=1 now", "live_1234"),
    "rtmps": ("pushing to RTMPS://user:pw@a.example.org/app/live_1234", "live_1234"),
    "data": ("style data:image/png;base64,iVBORw0KGgo= set", "iVBORw0KGgo"),
    "plain data": ("style data:,hello%20darling set", "darling"),
    "link": ("Open http://127.0.0.1:8080/#key=abcdef123", "abcdef123"),
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_written_wherever_it_stands(write_to: Writer, name: str, log_format: str) -> None:
    text, secret = SECRETS[name]
    stream = write_to(log_format=log_format)
    log = structlog.get_logger("sdstream.test")
    log.warning(text)
    log.warning("member", value=text)
    log.warning("nested", value={"inner": [text]})
    logging.getLogger("uvicorn.access").warning("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("raised")
        logging.getLogger("aiortc").exception("raised")
    written = stream.getvalue()
    assert written.count(REDACTED) >= 6
    assert secret not in written


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_members_named_like_secrets_are_never_written(write_to: Writer, log_format: str) -> None:
    stream = write_to(log_format=log_format)
    structlog.get_logger().warning("x", stream_key="hidden1", headers={"Authorization": "hidden2"}, token="hidden3")
    assert "hidden" not in stream.getvalue()


def test_configured_keys_are_never_written(write_to: Writer) -> None:
    stream = write_to(api_keys="correct-horse,battery.staple*")
    structlog.get_logger().warning("called with correct-horse and battery.staple*")
    assert "horse" not in stream.getvalue()
    assert "staple" not in stream.getvalue()


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"',;"), min_size=1))
def test_no_bearer_key_is_left(key: str) -> None:
    assert Redactor()(f"Authorization: Bearer {key} end") == f"Authorization: Bearer {REDACTED} end"


@given(st.text(alphabet="abcdefghijklmnop XYZ.,:;/=_-0123456789", max_size=80).filter(lambda text: "ata:" not in text))
def test_harmless_lines_stay(text: str) -> None:
    if any(word in text for word in ("stk_", "pb_", "sds_", "key=", "earer")):
        return
    assert Redactor()(text) == text


def test_a_json_line_has_the_stream_of_its_context(write_to: Writer) -> None:
    stream = write_to(log_format="json")
    with structlog.contextvars.bound_contextvars(stream_id="str_1"):
        logging.getLogger("aioice").error("candidate pair failed")
    line = json.loads(stream.getvalue())
    assert (line["stream_id"], line["event"], line["logger"], line["level"]) == (
        "str_1",
        "candidate pair failed",
        "aioice",
        "error",
    )


def test_a_traceback_is_one_json_line(write_to: Writer) -> None:
    stream = write_to(log_format="json")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: boom" in json.loads(line)["exception"]


def test_the_level_is_kept(write_to: Writer) -> None:
    stream = write_to(log_level="warning")
    structlog.get_logger("sdstream").info("quiet")
    logging.getLogger("uvicorn.error").info("quiet")
    structlog.get_logger("sdstream").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_configuring_twice_writes_each_line_once(write_to: Writer) -> None:
    write_to()
    stream = write_to()
    structlog.get_logger().info("once")
    assert stream.getvalue().count("once") == 1


class ListLogger:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **members: Any) -> None:
        self.lines.append((event, members))


def test_a_repeated_fault_is_one_line_a_second_with_its_number() -> None:
    clock, logger = ManualClock(), ListLogger()
    reporter = FoldedReporter(logger, clock)
    for _ in range(96):
        reporter.report("decode", "cannot decode", codec="h264")
        clock.advance(1 / 32)
    assert len(logger.lines) == 3
    assert [members.get("repeated", 0) for _, members in logger.lines] == [0, 31, 31]


def test_different_faults_are_not_folded_together() -> None:
    clock, logger = ManualClock(), ListLogger()
    reporter = FoldedReporter(logger, clock)
    assert reporter.report("a", "one")
    assert reporter.report("b", "two")
    assert not reporter.report("a", "one")


def test_the_reporter_forgets_old_keys() -> None:
    clock, logger = ManualClock(), ListLogger()
    reporter = FoldedReporter(logger, clock, remembered=4)
    for number in range(100):
        reporter.report(str(number), "fault")
    assert len(reporter._folds) == 4


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_no_request_caused_has_no_request_s_name(write_to: Writer, log_format: str) -> None:
    stream = write_to(log_format=log_format)
    log = structlog.get_logger("sdstream.test")
    structlog.contextvars.bind_contextvars(request_id="of-a-poll")
    log.info("asked", stream_id="str_1")
    unasked(log.info, "noticed", stream_id="str_1")
    asked, noticed = stream.getvalue().splitlines()
    assert "of-a-poll" in asked
    assert "noticed" in noticed
    assert "str_1" in noticed
    assert "of-a-poll" not in noticed


TWO_TESTS = """
import logging
import sys

import pytest
import structlog

from sdstream.cli import run


def test_one_configures_logging(capsys):
    assert run(["serve", "--port", "0", "--data-dir", "/dev/null/data"]) == 2
    assert logging.getLogger().handlers[-1].stream is sys.stderr


def test_the_next_one_logs(capfd):
    logging.getLogger("uvicorn").warning("from a library")
    structlog.get_logger("mine").warning("from us")
    assert "Logging error" not in capfd.readouterr().err
"""


def test_what_one_test_configured_is_over_with_it(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(TWO_TESTS, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", os.devnull]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
