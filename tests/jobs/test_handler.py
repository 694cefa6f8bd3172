"""`handler.py` without RunPod: the test job, and the SDK's own local API."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdstream import serverless
from tests.jobs.worker import ROOT
from tests.support.ports import free_port
from tests.support.waiting import eventually_sync


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SDSTREAM_", "RUNPOD_"))}
    return kept | {
        "SDSTREAM_PORT": "0",
        "SDSTREAM_DATA_DIR": str(folder / "data"),
        "SDSTREAM_WORKER_SPARE": "false",
        "SDSTREAM_LOG_LEVEL": "warning",
    }


def is_picture(result: dict[str, Any]) -> bool:
    return base64.b64decode(result["data"]).startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_test_job_is_run_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "handler.py", "--test"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "rendered"
    assert is_picture(events[-1]["result"])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--tset"], 2, "unknown: --tset"),
        (["--test", "no-such-job.json"], 1, "cannot read the job in no-such-job.json"),
        (["--test_input", "[]"], 1, "must be an object with `input`"),
        (["--test_input", '{"input": {"action": "rendre"}}'], 1, '"error": "JOBS/UNKNOWN_ACTION: there is no action'),
        (["--help"], 0, "--rp_serve_api"),
    ],
)
def test_wrong_arguments_and_jobs_are_told_and_run_nothing(
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in os.environ if name.startswith(("SDSTREAM_", "RUNPOD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(serverless, "configure_logging", lambda settings: None)  # of this process
    try:
        ended = serverless.main(arguments)
    except SystemExit as exit_:
        ended = exit_.code
    said = capsys.readouterr()
    assert ended == code
    assert words in said.out + said.err


@pytest.mark.slow
def test_the_sdks_local_api_takes_one_shot_jobs(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "handler.py", "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log)
    try:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/", timeout=5).status_code < 500
            except httpx.TransportError:
                return False

        eventually_sync(answers, seconds=60, what="the local API")
        job = json.loads((ROOT / "test_input.json").read_text())
        answer = httpx.post(f"http://127.0.0.1:{port}/runsync", json=job, timeout=90).json()
        assert answer["status"] == "COMPLETED", answer
        assert is_picture(answer["output"][-1]["result"])
        wrong = httpx.post(f"http://127.0.0.1:{port}/runsync", json={"input": {"action": "x"}}, timeout=30).json()
        assert "JOBS/UNKNOWN_ACTION" in json.dumps(wrong)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)
