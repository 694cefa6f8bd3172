"""Pictures of a file that several lanes make at once: each gets its own result, and as many are under way as may be."""

import asyncio
from collections import deque

import numpy
import pytest

from sdstream.errors import WorkerUnavailable
from sdstream.frames import I420Frame
from sdstream.job_errors import InvalidJob
from sdstream.jobs.inputs import parse_job
from sdstream.jobs.side_by_side import MOST_LANES, UNDER_WAY, SideBySide, open_lanes
from sdstream.params import StreamParams
from sdstream.worker.ports import LaneListener
from tests.params.requests import created


def picture(number: int) -> I420Frame:
    luma, chroma = numpy.full((2, 2), number, numpy.uint8), numpy.full((1, 1), 128, numpy.uint8)
    return I420Frame(luma, chroma, chroma, received_at=0.0, sequence=number)


class LateLane:
    """Gives each picture back, `late` calls later; before the first it gives pictures of 255. Answers when told to."""

    def __init__(self, late: int) -> None:
        self.given: list[int] = []
        self.closed = False
        self.error: Exception | None = None
        self._slots: deque[I420Frame] = deque([picture(255)] * late)
        self._answers: deque[tuple[asyncio.Future[I420Frame], I420Frame]] = deque()

    async def process(self, frame: I420Frame) -> I420Frame:
        if self.error is not None:
            raise self.error
        self.given.append(frame.sequence)
        self._slots.append(frame)
        future: asyncio.Future[I420Frame] = asyncio.get_running_loop().create_future()
        self._answers.append((future, self._slots.popleft()))
        return await future

    async def answer(self) -> None:
        """Until nothing is asked any more."""
        for _ in range(3):
            await asyncio.sleep(0)
            while self._answers:
                future, made = self._answers.popleft()
                if not future.done():
                    future.set_result(made)

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("late", [0, 1, 3])
@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("pictures", [1, 4, 13])
async def test_each_picture_has_its_own_result_in_whatever_order_lanes_answer(
    late: int, lanes: int, pictures: int
) -> None:
    fakes = [LateLane(late) for _ in range(lanes)]
    dealer = SideBySide(fakes, late)  # pyright: ignore[reportArgumentType]
    results = [dealer.process(picture(number)) for number in range(pictures)]
    dealer.finish()
    for fake in reversed(fakes):
        await fake.answer()
    assert [(await result).sequence for result in results] == list(range(pictures))
    assert [number for fake in fakes for number in fake.given[: -late or None]] == [
        number for lane in range(lanes) for number in range(lane, pictures, lanes)
    ]


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize("lanes", [1, 8])
async def test_the_oldest_result_comes_before_the_room_is_full(late: int, lanes: int) -> None:
    fakes = [LateLane(late) for _ in range(lanes)]
    dealer = SideBySide(fakes, late)  # pyright: ignore[reportArgumentType]
    results = [dealer.process(picture(number)) for number in range(dealer.room)]
    for fake in fakes:
        await fake.answer()
    assert results[0].done()
    raw = sum(len(fake.given) for fake in fakes) - late * lanes
    assert raw == max(UNDER_WAY, 2 * lanes), "as many as reading, making and writing need beside what is late"
    await dealer.give_up()


async def test_an_error_is_that_of_the_picture_and_the_others_need_no_audience() -> None:
    fakes = [LateLane(0), LateLane(0)]
    dealer = SideBySide(fakes, 0)  # pyright: ignore[reportArgumentType]
    fakes[0].error = fakes[1].error = WorkerUnavailable("gone")
    results = [dealer.process(picture(number)) for number in range(4)]
    with pytest.raises(WorkerUnavailable, match="gone"):
        await results[0]
    await dealer.give_up()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    results.clear()
    await asyncio.sleep(0)
    assert complaints == []


async def test_what_is_given_up_leaves_nothing_waiting() -> None:
    fakes = [LateLane(1), LateLane(1)]
    dealer = SideBySide(fakes, 1)  # pyright: ignore[reportArgumentType]
    results = [dealer.process(picture(number)) for number in range(6)]
    await asyncio.sleep(0)
    await dealer.give_up()
    assert all(result.cancelled() for result in results)


class OneLaneShort:
    """A worker that opens two lanes and no third."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, LateLane]] = []

    async def open_lane(self, stream_id: str, params: StreamParams, revision: int, listener: LaneListener) -> LateLane:
        if len(self.opened) == 2:
            raise WorkerUnavailable("no more")
        lane = LateLane(params.pictures_late)
        self.opened.append((stream_id, lane))
        return lane


async def test_lanes_are_closed_whatever_happens() -> None:
    worker, params = OneLaneShort(), created()
    with pytest.raises(WorkerUnavailable, match="no more"):
        async with open_lanes(worker, "film", params, 3, None):  # pyright: ignore[reportArgumentType]
            pytest.fail("there is no third lane")
    assert [name for name, _ in worker.opened] == ["film", "film 2"]
    assert all(lane.closed for _, lane in worker.opened)


def test_there_is_a_lane_at_least() -> None:
    with pytest.raises(ValueError, match="lane"):
        SideBySide([], 0)


@pytest.mark.parametrize("at_once", [0, MOST_LANES + 1])
def test_a_job_for_more_or_fewer_pictures_at_once_is_refused_by_name(at_once: int) -> None:
    wanted = {"action": "render", "source": {"url": "https://films.example/a.mp4"}}
    parse_job({"id": "job", "input": wanted | {"at_once": MOST_LANES}})
    with pytest.raises(InvalidJob, match="at_once"):
        parse_job({"id": "job", "input": wanted | {"at_once": at_once}})
