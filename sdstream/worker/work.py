"""The worker's end of a lane: its rings, its pipeline, and the making of one picture."""

import threading
from collections.abc import Callable
from typing import NamedTuple

import torch

from sdstream.clock import Clock
from sdstream.errors import InternalError, SdstreamError
from sdstream.frames import PictureSize, Plane
from sdstream.params import ModelTable, StreamParams, StyleImage, load_params
from sdstream.worker import colour
from sdstream.worker.messages import (
    IN_PLACE,
    AtWork,
    LaneReport,
    Message,
    OpenLane,
    PictureIn,
    PictureOut,
    SlotsReturned,
    UpdateLane,
    UseRing,
)
from sdstream.worker.pipelines import Pipeline, make_pipeline
from sdstream.worker.ports import LanePhase
from sdstream.worker.ring import FrameRing, SlotLedger
from sdstream.worker.scheduler import Scheduler, WaitingPicture, WantedParams

Send = Callable[[Message], None]


class Refusal(NamedTuple):
    """Params that could not be brought into force, and why."""

    revision: int
    code: str
    message: str


class LaneWork:
    """One lane in the worker.

    Whichever thread reads the line calls `take_params`, `use_ring`, `accept` and `take_back`; the working thread calls
    `apply`, `make` and `fail`.
    """

    def __init__(
        self,
        number: int,
        stream_id: str,
        *,
        device: torch.device,
        models: ModelTable,
        memory_prefix: str,
        scheduler: Scheduler,
        send: Send,
        clock: Clock,
        pass_unchanged: bool = True,
    ) -> None:
        self.number = number
        self.stream_id = stream_id
        self._device = device
        self._models = models
        self._memory_prefix = memory_prefix
        self._scheduler = scheduler
        self._send = send
        self._clock = clock
        self._pass_unchanged = pass_unchanged
        self._lock = threading.Lock()
        self._input: FrameRing | None = None
        self._output: FrameRing | None = None
        self._ledger = SlotLedger(0)
        self._image: StyleImage | None = None
        self._pipeline: Pipeline | None = None
        self._revision = 0
        self._refusal: Refusal | None = None
        self._effective_sequence: int | None = None
        self._converted = False
        """Whether the last picture could not stay as it was."""
        self.failed = False

    # -- the reading thread

    def take_params(self, message: OpenLane | UpdateLane) -> WantedParams:
        """What `apply` is to be given for this message, with the style image that it or one before it brought."""
        if message.image is not None:
            self._image = StyleImage(message.image)
        return WantedParams(message.params, message.revision, self._image)

    def use_ring(self, message: UseRing) -> None:
        """The server made memory for its pictures."""
        ring = FrameRing.open(message.name, message.ring, message.slot_bytes, message.slots)
        ring.unlink()
        self._input = ring

    def accept(self, message: PictureIn) -> None:
        """A picture arrived: queue it, or give its slot back at once."""
        if message.returned:
            self.take_back(message.returned_ring, message.returned)
        ring = self._input
        if ring is None or ring.number != message.ring:
            raise InternalError(f"a picture in ring {message.ring}, which is not in use")
        picture = WaitingPicture(message, ring)
        free = picture if self.failed else self._scheduler.put(self.number, picture)
        if free is not None:
            self.give_up([free])

    def take_back(self, ring: int, slots: list[int]) -> None:
        """The server is done with results."""
        with self._lock:
            if self._output is None or self._output.number != ring:
                return  # of a smaller ring, gone since
            for slot in slots:
                self._ledger.give_back(slot)
            self._scheduler.set_room(self.number, self._ledger.free > 0)

    # -- the working thread

    def apply(self, wanted: WantedParams) -> None:
        """Bring params into force, by a new pipeline where the present one cannot take them.

        When it raises, the lane is as it was: `fail` with the revision says what that means.
        """
        self._send(AtWork(self.number, wanted.revision))
        self._refusal = None
        if self._pipeline is None:
            self._revision = wanted.revision
        images = {} if wanted.image is None else {wanted.image.digest: wanted.image}
        params = load_params(wanted.text, self._models, images)
        if self._pipeline is None or not self._pipeline.apply(params):
            self._pipeline = self._load(params)
        self._revision = wanted.revision
        self.failed = False
        self._effective_sequence = None
        self._report(LanePhase.READY)

    def is_short(self, picture: WaitingPicture) -> bool:
        """Whether `make` will only pass this picture on."""
        pipeline = self._pipeline
        return pipeline is None or (pipeline.changes_nothing and self._stays(pipeline, picture))

    @property
    def is_slow(self) -> bool:
        """Whether pictures of this lane are expected to take long."""
        return self._pipeline is not None and (self._converted or not self._pipeline.changes_nothing)

    def make(self, picture: WaitingPicture) -> None:
        """Make one picture and send it."""
        if self.failed or self._pipeline is None:
            self.give_up([picture])
            return
        if self._effective_sequence is None:
            self._send(AtWork(self.number, self._revision))
        started = self._clock.monotonic()
        pipeline = self._pipeline
        self._converted = not self._stays(pipeline, picture)
        if not self._converted:
            size, ring, slot = picture.size, IN_PLACE, picture.message.slot
        else:
            output, slot = self._take_output(pipeline.output_size)
            size = self._convert(pipeline, picture, output.slot(slot))
            ring = output.number
        if self._effective_sequence is None:
            self._effective_sequence = picture.message.sequence
            self._report(LanePhase.READY)
        self._send(
            PictureOut(
                self.number,
                picture.ring.number,
                picture.message.slot,
                ring,
                slot,
                size.width,
                size.height,
                self._revision,
                self._clock.monotonic() - started,
                started - picture.message.sent_at,
            )
        )

    def fail(self, error: Exception, revision: int | None, picture: WaitingPicture | None) -> None:
        """`apply` of `revision` or `make` of `picture` raised: say why.

        Where `apply` did and older params are in force, the lane goes on with them. Otherwise it gives up what it has
        until new params come.
        """
        known = isinstance(error, SdstreamError)
        code = error.code if known else InternalError.code
        message = error.message if known else f"{type(error).__name__}: {error}"
        if revision is not None and self._pipeline is not None:
            self._refusal = Refusal(revision, code, message)
            self._report(LanePhase.READY)
            return
        self.failed = True
        self._pipeline = None
        self._refusal = None
        self._report(LanePhase.FAILED, error_code=code, error_message=message)
        self.give_up([*(() if picture is None else (picture,)), *self._scheduler.drain(self.number)])

    def give_up(self, pictures: list[WaitingPicture]) -> None:
        """Give input slots back without a result."""
        for picture in pictures:
            self._send(SlotsReturned(self.number, picture.ring.number, [picture.message.slot]))

    def _load(self, params: StreamParams) -> Pipeline:
        # The pipeline before stays until this one stands, or there would be nothing to go back to.
        def progress(detail: str, percent: float | None) -> None:
            self._report(LanePhase.LOADING, detail=detail, percent=percent)

        progress(f"preparing {params.model_id}", None)
        return make_pipeline(params, self._device, progress, self._models)

    def _convert(self, pipeline: Pipeline, picture: WaitingPicture, target: Plane) -> PictureSize:
        frame = picture.frame()
        if self._pass_unchanged and pipeline.changes_nothing and picture.means_the_same:
            return colour.scale(frame, pipeline.output_size, target, self._device)
        image = colour.upload(frame, pipeline.input_size, self._device)
        return colour.download(pipeline.process(image), target)

    def _stays(self, pipeline: Pipeline, picture: WaitingPicture) -> bool:
        """The fast path: the picture is its own result. The plain twin converts it to RGB and back."""
        return (
            self._pass_unchanged
            and pipeline.changes_nothing
            and picture.means_the_same
            and picture.size == pipeline.input_size
        )

    def _take_output(self, size: PictureSize) -> tuple[FrameRing, int]:
        with self._lock:
            ring = self._output
            if ring is None or not ring.fits(size):
                ring = FrameRing.create(self._memory_prefix, 1 if ring is None else ring.number + 1, size.byte_count)
                self._output = ring
                self._ledger = SlotLedger(ring.slots)
                self._send(UseRing(self.number, ring.number, ring.name, ring.slot_bytes, ring.slots))
            slot = self._ledger.take()
            assert slot is not None, "the scheduler gave a turn to a lane without room"
            self._scheduler.set_room(self.number, self._ledger.free > 0)
            return ring, slot

    def _report(
        self,
        phase: LanePhase,
        *,
        detail: str = "",
        percent: float | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> None:
        refusal = self._refusal
        self._send(
            LaneReport(
                self.number,
                phase.value,
                self._revision,
                self._effective_sequence if phase is LanePhase.READY else None,
                detail,
                percent,
                error_code if refusal is None else refusal.code,
                error_message if refusal is None else refusal.message,
                None if refusal is None else refusal.revision,
            )
        )


__all__ = ["LaneWork"]
