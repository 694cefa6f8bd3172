"""Short jobs that cannot be done, with the worker's end made up: which error they end with."""

from types import SimpleNamespace
from typing import Any

import pytest

from sdstream.clock import SystemClock
from sdstream.errors import LoraUnusable, ModelAccessDenied, NoFace, OutOfMemory, RequestError
from sdstream.jobs.inputs import Job, WarmInput
from sdstream.jobs.warm import WarmAction
from sdstream.params import ModelTable
from sdstream.settings import Settings
from sdstream.worker.ports import LanePhase, LaneStatus


class FailingLanes:
    """A worker all of whose lanes fail at once."""

    def __init__(self, code: str, message: str) -> None:
        self.closed = 0
        self._status = LaneStatus(LanePhase.FAILED, 1, error_code=code, error_message=message)

    async def wait_ready(self, seconds: float) -> bool:
        return True

    async def open_lane(self, name: str, params: Any, revision: int, listener: Any) -> Any:
        listener.on_lane_status(self._status)
        return self

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("kind", [LoraUnusable, ModelAccessDenied, NoFace, OutOfMemory])
async def test_a_warm_that_fails_says_what_the_worker_says(kind: type[RequestError]) -> None:
    lanes, settings = FailingLanes(kind.code, "the reason"), Settings()
    host: Any = SimpleNamespace(
        settings=settings, clock=SystemClock(), models=ModelTable.from_settings(settings), worker=lanes
    )
    wanted = WarmInput(action="warm")
    with pytest.raises(kind, match="the reason"):
        _ = [event async for event in WarmAction(host).run(Job("1", wanted), wanted)]
    assert lanes.closed == 1
