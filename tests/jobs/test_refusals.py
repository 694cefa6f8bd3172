"""Short jobs that cannot be done, with the worker's end made up: which error they end with."""

from types import SimpleNamespace
from typing import Any

import pytest

from sdstream.clock import SystemClock
from sdstream.errors import InvalidParams, NoFace, OutOfMemory, RequestError
from sdstream.jobs.control import ControlActions
from sdstream.jobs.directory import MemoryDirectory
from sdstream.jobs.inputs import Job, UpdateInput, WarmInput
from sdstream.jobs.warm import WarmAction
from sdstream.model_errors import LoraUnusable, ModelAccessDenied
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


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"seed": float("nan")}, r"params\.seed: must be a finite number"),
        ({"delta": float("inf")}, r"params\.delta: must be a finite number"),
        ({"prompt": "\ud800"}, r"params\.prompt: .*half of a surrogate pair"),
        ({"\ud800": 1}, r"params: .*half of a surrogate pair"),
        ({"seed": 10**30}, r"params\.seed: must lie between"),
    ],
)
async def test_an_update_that_json_cannot_carry_is_refused_by_its_field(params: Any, problem: str) -> None:
    async def call(*given: Any, **members: Any) -> Any:
        raise AssertionError("nobody may be called for it")

    router: Any = SimpleNamespace(call=call)
    wanted = UpdateInput(action="update", session_id="session-1", params=params)
    with pytest.raises(InvalidParams, match=problem):
        _ = [event async for event in ControlActions(router, MemoryDirectory()).update(Job("1", wanted), wanted)]
