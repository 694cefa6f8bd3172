"""RunPod's queue is out of reach of a real worker under the real SDK: first for a while, then for good."""

from pathlib import Path

import httpx
import pytest

from sdstream.client import RunPodClient
from tests.jobs.platform import API_KEY, ENDPOINT, FakePlatform
from tests.jobs.worker import JobWorker
from tests.support.rest import SMALL
from tests.support.waiting import eventually

FAILED = '"Failed to get job'
LIMIT = 0.5
"""Seconds. Before the fifth failure in a row a worker has waited for 1.8 s at least."""


@pytest.mark.slow
async def test_an_outage_ends_a_worker_that_is_idle_and_no_session(tmp_path: Path) -> None:
    platform = FakePlatform().start()
    worker = JobWorker(tmp_path, platform, "cut-off", platform_timeout=LIMIT).start()
    try:
        async with RunPodClient(ENDPOINT, API_KEY, url=platform.url, poll_seconds=0.02) as client:
            job = platform.jobs[await client.start(params=SMALL)]
            (ready, *_) = await eventually(lambda: job.history, seconds=60, what=worker.log)
            assert ready["event"] == "ready"

            platform.vanish()
            await eventually(lambda: worker.log().count(FAILED) >= 5, seconds=60, what=worker.log)
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {ready['control']['token']}"}) as http:
                stream = await http.get(f"{ready['control']['url']}/v1/streams/{ready['session_id']}")
            assert stream.status_code == 200, "the session is untouched"

            platform.come_back()
            answer = await client.update(ready["session_id"], {"prompt": "after the outage"})
            assert answer["params"]["prompt"] == "after the outage"
            await client.stop(ready["session_id"])
            await eventually(lambda: job.ended_at, what="the session's last event")

        failures = worker.log().count(FAILED)
        platform.vanish()
        assert worker.wait_end(60) == 1
        assert "\nhandler: nothing has connected to RunPod's queue for" in worker.log()
        assert worker.log().count(FAILED) - failures < 20
    finally:
        worker.stop()
        platform.stop()
