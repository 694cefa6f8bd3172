"""The `warm` job: a model is loaded before anybody waits for it, and stays loaded."""

import asyncio
from collections.abc import AsyncGenerator

from sdstream.jobs.inputs import Job, WarmInput
from sdstream.jobs.outputs import Event, make_event
from sdstream.jobs.ports import Host
from sdstream.jobs.render import make_params, wait_for_worker
from sdstream.worker.ports import Lane, LanePhase, LaneStatus, ProcessedPicture
from sdstream.worker.server_end.submission import failure

PROGRESS_SECONDS = 2.0


class WarmAction:
    """Keeps the lane of the newest `warm` open: the worker frees a model when its last lane closes."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lane: Lane | None = None

    async def run(self, job: Job, wanted: WarmInput) -> AsyncGenerator[Event]:
        """Events: `progress` while it loads, then `warm`. Raises what keeps the model from loading."""
        params, warnings = make_params(self._host, wanted.params, None)
        started = self._host.clock.monotonic()
        await wait_for_worker(self._host)
        listener = _Listener()
        lane = await self._host.worker.open_lane(f"warm {job.id}", params, 1, listener)
        try:
            while not await listener.settled(PROGRESS_SECONDS):
                status = listener.status
                yield make_event(
                    "progress", detail=status.detail if status else "", percent=status.percent if status else None
                )
            status = listener.status
            if status is not None and status.phase is LanePhase.FAILED:
                raise failure(status.error_code, status.error_message or "the model cannot be loaded")
        except BaseException:
            await lane.close()
            raise
        before, self._lane = self._lane, lane
        if before is not None:
            await before.close()
        seconds = round(self._host.clock.monotonic() - started, 2)
        yield make_event("warm", model_id=params.model_id, seconds=seconds, warnings=warnings)

    async def close(self) -> None:
        """Let the model go."""
        lane, self._lane = self._lane, None
        if lane is not None:
            await lane.close()


class _Listener:
    def __init__(self) -> None:
        self.status: LaneStatus | None = None
        self._settled = asyncio.Event()

    def on_picture(self, picture: ProcessedPicture) -> None:
        """None comes: none is sent."""

    def on_lane_status(self, status: LaneStatus) -> None:
        self.status = status
        if status.phase in (LanePhase.READY, LanePhase.FAILED):
            self._settled.set()

    async def settled(self, seconds: float) -> bool:
        """Whether the lane is ready or failed, after `seconds` at most."""
        try:
            await asyncio.wait_for(self._settled.wait(), seconds)
        except TimeoutError:
            return False
        return True


__all__ = ["WarmAction"]
