"""The worker's end of a lane: its rings, its pipeline, and the making of one picture."""

import threading
from collections.abc import Callable

import torch

from sdstream.clock import Clock
from sdstream.errors import InternalError, SdstreamError
from sdstream.frames import PictureSize
from sdstream.params import ModelTable, StreamParams, load_params
from sdstream.worker import colour
from sdstream.worker.messages import IN_PLACE, LaneReport, Message, PictureIn, PictureOut, SlotsReturned, UseRing
from sdstream.worker.pipelines import Pipeline, make_pipeline
from sdstream.worker.ports import LanePhase
from sdstream.worker.ring import FrameRing, SlotLedger
from sdstream.worker.scheduler import Scheduler, WaitingPicture, WantedParams

Send = Callable[[Message], None]


class LaneWork:
    """One lane in the worker.

    Whichever thread reads the line calls `use_ring`, `accept` and `take_back`; the working thread calls `apply`, `make`
    and `fail`.
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
        self._pipeline: Pipeline | None = None
        self._revision = 0
        self._reported_sequence = True
        self.failed = False

    # -- the reading thread

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
        """Bring params into force, by a new pipeline where the present one cannot take them."""
        params = load_params(wanted.text, self._models)
        self._revision = wanted.revision
        if self._pipeline is None or not self._pipeline.apply(params):
            self._pipeline = None
            self._load(params)
        self.failed = False
        self._reported_sequence = False
        self._report(LanePhase.READY)

    def is_short(self, picture: WaitingPicture) -> bool:
        """Whether `make` will only pass this picture on."""
        pipeline = self._pipeline
        return pipeline is None or (pipeline.changes_nothing and self._stays(pipeline, picture))

    @property
    def is_slow(self) -> bool:
        """Whether pictures of this lane are expected to take long."""
        return self._pipeline is not None and not self._pipeline.changes_nothing

    def make(self, picture: WaitingPicture) -> None:
        """Make one picture and send it."""
        if self.failed or self._pipeline is None:
            self.give_up([picture])
            return
        started = self._clock.monotonic()
        pipeline = self._pipeline
        if self._stays(pipeline, picture):
            size, ring, slot = picture.size, IN_PLACE, picture.message.slot
        else:
            output, slot = self._take_output(pipeline.output_size)
            image = colour.upload(picture.frame(), pipeline.input_size, self._device)
            size = colour.download(pipeline.process(image), output.slot(slot))
            ring = output.number
        if not self._reported_sequence:
            self._reported_sequence = True
            self._report(LanePhase.READY, picture.message.sequence)
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
        """The lane cannot go on: say why, and give up what it has until new params come."""
        self.failed = True
        self._pipeline = None
        self._revision = self._revision if revision is None else revision
        known = isinstance(error, SdstreamError)
        code = error.code if known else InternalError.code
        message = error.message if known else f"{type(error).__name__}: {error}"
        self._report(LanePhase.FAILED, error_code=code, error_message=message)
        self.give_up([*(() if picture is None else (picture,)), *self._scheduler.drain(self.number)])

    def give_up(self, pictures: list[WaitingPicture]) -> None:
        """Give input slots back without a result."""
        for picture in pictures:
            self._send(SlotsReturned(self.number, picture.ring.number, [picture.message.slot]))

    def _load(self, params: StreamParams) -> None:
        def progress(detail: str, percent: float | None) -> None:
            self._report(LanePhase.LOADING, detail=detail, percent=percent)

        progress(f"preparing {params.model_id}", None)
        self._pipeline = make_pipeline(params, self._device, progress, self._models)

    def _stays(self, pipeline: Pipeline, picture: WaitingPicture) -> bool:
        """The fast path: the picture is its own result. The plain twin converts it to RGB and back."""
        return (
            self._pass_unchanged
            and pipeline.changes_nothing
            and picture.unchanged_if_copied
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
        effective_sequence: int | None = None,
        *,
        detail: str = "",
        percent: float | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> None:
        self._send(
            LaneReport(
                self.number,
                phase.value,
                self._revision,
                effective_sequence,
                detail,
                percent,
                error_code,
                error_message,
            )
        )


__all__ = ["LaneWork"]
