"""One call of the worker, from pictures in their slots to results in theirs."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sdstream.clock import Clock
from sdstream.errors import PictureNotFinite, SdstreamError
from sdstream.worker.devices import Device, Mark
from sdstream.worker.outcomes import Result
from sdstream.worker.pipelines import Group
from sdstream.worker.scheduling.load import LoadMeter
from sdstream.worker.scheduling.turns import WaitingPicture
from sdstream.worker.sharing import together
from sdstream.worker.stages import stage
from sdstream.worker.work import LaneWork


@dataclass(slots=True)
class _Passenger:
    lane: LaneWork
    picture: WaitingPicture
    image: torch.Tensor | None = None
    planes: torch.Tensor | None = None
    """What the call made, as packed I420."""
    result: Result | None = None
    checked: int | None = None
    """Where in the call's check for finite numbers it is."""


class Flight:
    """Pictures of lanes that ride together. `launch` gives the device all its work, `land` delivers the results.

    On a GPU `launch` returns while the device still works; everything that `land` does waits for that first. A lane
    that fails does so alone. What ends the process is raised: errors that only a new process mends, and a lack of
    memory.
    """

    def __init__(self, device: Device, meter: LoadMeter, clock: Clock, *, shared: bool = True) -> None:
        """`shared` has the looks of several lanes answered in one call."""
        self._shared = shared
        self._device = device
        self._meter = meter
        self._clock = clock
        self._passengers: list[_Passenger] = []
        self._finite: torch.Tensor | None = None
        self._started = 0.0
        self._begin = self._end = Mark(None)
        self._measured: LaneWork | None = None
        self._streams = 0
        """Whose pictures the call made."""

    @property
    def has_arrived(self) -> bool:
        """Whether the device is done, so that `land` would not wait."""
        return self._end.is_passed

    def launch(self, pictures: Mapping[LaneWork, WaitingPicture]) -> None:
        """Begin with the pictures; whatever fails of a lane is told by it, and nothing is left of that here."""
        # Image processors alone are many small operations, which take a sixth less in inference mode. A model's frames
        # write into what they keep later and elsewhere, which nothing that was made in that mode admits.
        with torch.no_grad() if any(_diffuses(lane) for lane in pictures) else torch.inference_mode():
            self._launch(pictures)

    def _launch(self, pictures: Mapping[LaneWork, WaitingPicture]) -> None:
        self._started = self._clock.monotonic()
        boarding: list[_Passenger] = []
        for lane, picture in pictures.items():
            lane.announce()
            if lane.stays(picture):
                self._passengers.append(_Passenger(lane, picture, result=lane.pass_on(picture)))
            elif lane.pipeline is None:
                lane.give_up([picture])
            else:
                boarding.append(_Passenger(lane, picture))
        looks = any(each.lane.looks_before for each in boarding)
        if looks:  # what is looked at before the call is a part of what it takes
            self._begin = self._device.mark()
        self._board(boarding)
        riders = [each for each in self._passengers if each.image is not None]
        if not riders:
            if any(each.result is not None and each.result.download is not None for each in self._passengers):
                self._end = self._device.mark()
            return
        if not looks:
            self._begin = self._device.mark()
        self._diffuse(riders)
        with stage("download"):
            self._fetch([rider for rider in riders if rider.image is not None])
        self._streams = sum(rider.result is not None for rider in riders)
        self._end = self._device.mark()

    def land(self) -> None:
        """Wait for the device and deliver what it made."""
        self._end.wait()
        finite: list[bool] = [] if self._finite is None else [bool(each) for each in self._finite.numpy()]
        if self._measured is not None:
            self._note(self._measured, len(finite) or self._streams)
        for each in self._passengers:
            if each.result is None:
                continue
            if each.checked is not None and not finite[each.checked]:
                each.lane.discard(each.result)
                each.lane.fail(PictureNotFinite("a picture is not made of finite numbers"), each.picture)
                continue
            each.lane.deliver(each.picture, each.result, self._started)
        self._passengers.clear()

    def _board(self, boarding: Sequence[_Passenger]) -> None:
        uploading: list[_Passenger] = []
        for each in boarding:
            try:
                each.result = each.lane.scale(each.picture)
            except Exception as error:  # noqa: BLE001 - supervises the lanes: one that raises fails alone, by name
                self._fail(each, error)
            else:
                (self._passengers if each.result is not None else uploading).append(each)
        with stage("upload"):
            images = together(
                [each.lane.upload(each.picture) for each in uploading], shared=self._shared, final=self._final
            )
        for each, outcome in zip(uploading, images, strict=True):
            if outcome.error is not None:
                self._fail(each, outcome.error)
                continue
            assert outcome.result is not None
            try:
                each.result = each.lane.repeat(outcome.result)
            except Exception as error:  # noqa: BLE001 - supervises the lanes: one that raises fails alone, by name
                self._fail(each, error)
                continue
            each.image = outcome.result if each.result is None else None
            self._passengers.append(each)

    def _diffuse(self, riders: list[_Passenger]) -> None:
        pipeline = riders[0].lane.pipeline
        group = None if pipeline is None else pipeline.group
        self._measured = riders[0].lane
        if group is None:
            return
        try:
            checks = [self._run(group, riders)]
        except Exception as error:  # noqa: BLE001 - supervises the lanes: who raises when alone has raised
            if len(riders) == 1:
                self._fail(riders[0], error)
                return
            self._raise_if_final(error)
            checks = self._run_each(group, riders)
        if checks:
            finite = torch.cat(checks)
            if finite.device.type == "cuda":
                self._finite = torch.empty(finite.shape, dtype=finite.dtype, pin_memory=True)
                self._finite.copy_(finite, non_blocking=True)
            else:
                self._finite = finite

    def _run(self, group: Group, riders: list[_Passenger], first: int = 0) -> torch.Tensor:
        seats = {_seat(rider): rider for rider in riders}
        ran = group.run({seat: rider.image for seat, rider in seats.items() if rider.image is not None})
        for index, (seat, rider) in enumerate(seats.items(), first):
            rider.image, rider.planes = ran.images[seat], ran.planes[seat]
            rider.checked = index
        return ran.finite

    def _run_each(self, group: Group, riders: list[_Passenger]) -> list[torch.Tensor]:
        checks: list[torch.Tensor] = []
        for rider in riders:
            try:
                checks.append(self._run(group, [rider], len(checks)))
            except Exception as error:  # noqa: BLE001 - supervises the lanes, each by itself
                self._fail(rider, error)
                continue
            # What a call gives is valid until the next one, which would show this stream the picture of another.
            rider.image = None if rider.image is None else rider.image.clone()
            rider.planes = None if rider.planes is None else rider.planes.clone()
        return checks

    def _fetch(self, riders: Sequence[_Passenger]) -> None:
        downloads = [each.lane.download(each.image, each.planes) for each in riders if each.image is not None]
        for each, outcome in zip(riders, together(downloads, shared=self._shared, final=self._final), strict=True):
            if outcome.error is not None:
                self._fail(each, outcome.error)
            else:
                each.result = outcome.result

    def _fail(self, passenger: _Passenger, error: Exception) -> None:
        self._raise_if_final(error)
        if not isinstance(error, SdstreamError):
            traceback.print_exception(error)
        passenger.image = None
        passenger.lane.fail(error, passenger.picture)

    def _raise_if_final(self, error: Exception) -> None:
        if isinstance(error, self._final):
            raise error

    @property
    def _final(self) -> tuple[type[Exception], ...]:
        return (torch.OutOfMemoryError, *self._device.fatal_errors)

    def _note(self, lane: LaneWork, streams: int) -> None:
        pipeline = lane.pipeline
        if pipeline is None:
            return
        seconds = self._end.seconds_since(self._begin)
        if seconds is None:
            seconds = self._clock.monotonic() - self._started
        streams = max(streams, 1)
        kept = 0 if pipeline.group is None else pipeline.group.stream_bytes
        self._meter.note(pipeline.kind, streams, seconds, kept + self._device.working_bytes() // streams)


def _diffuses(lane: LaneWork) -> bool:
    return lane.pipeline is not None and lane.pipeline.group is not None


def _seat(rider: _Passenger) -> int:
    assert rider.lane.pipeline is not None
    return rider.lane.pipeline.seat


__all__ = ["Flight"]
