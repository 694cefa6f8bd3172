"""The worker's end of a lane: its rings, its pipeline, and what becomes of each of its pictures."""

from typing import Any

import torch

from sdstream.clock import Clock
from sdstream.errors import InternalError
from sdstream.params import ModelTable, StreamParams, StyleImage, load_params
from sdstream.worker import colour
from sdstream.worker.looks import Looking
from sdstream.worker.messages import (
    IN_PLACE,
    AtWork,
    OpenLane,
    PictureIn,
    PictureOut,
    SlotsReturned,
    UpdateLane,
    UseRing,
)
from sdstream.worker.options import EngineOptions
from sdstream.worker.outcomes import LoadGivenUp, Prepared, Refusal, Result, code_and_words, let_go_of_frames, part_of
from sdstream.worker.output import OutputRing
from sdstream.worker.passage import Passage
from sdstream.worker.pipelines import Pipeline, Progress, group_of, make_pipeline
from sdstream.worker.ports import LanePhase
from sdstream.worker.reporting import Reporter, Send
from sdstream.worker.ring import FrameRing
from sdstream.worker.scheduling.scheduler import Scheduler
from sdstream.worker.scheduling.turns import WaitingPicture, WantedParams
from sdstream.worker.tapping import small_tap


class LaneWork:
    """One lane in the worker.

    Whichever thread reads the line calls `take_params`, `use_ring`, `accept` and `take_back`; threads that prepare call
    `prepare`, `load` and `progress`; all else is for the working thread.
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
        options: EngineOptions | None = None,
        pass_unchanged: bool = True,
    ) -> None:
        self.number = number
        self.stream_id = stream_id
        self._device = device
        self._models = models
        self._scheduler = scheduler
        self._send = send
        self._clock = clock
        self._options = options
        self._pass_unchanged = pass_unchanged
        self._input: FrameRing | None = None
        self._output = OutputRing(number, memory_prefix, send, lambda room: scheduler.set_room(number, room))
        self._passage = Passage(number, scheduler, send, clock)
        self._image: StyleImage | None = None
        self._pipeline: Pipeline | None = None
        self._in_force: WantedParams | None = None
        self._revision = 0
        self._reporter = Reporter(number, send)
        self._effective_sequence: int | None = None
        self._converted = False
        """Whether the last picture could not stay as it was."""
        self._told_blocked = 0
        self.failed = False
        self.preparing = False
        self.made_way: WantedParams | None = None
        """What was in force when its pipeline was let go to make room; nothing has come into force since."""
        self._closed = False

    # -- the reading thread

    def take_params(self, message: OpenLane | UpdateLane) -> WantedParams:
        """What is to be prepared for this message, with the style image that it or one before it brought."""
        if message.image is not None:
            self._image = StyleImage(message.image)
        keeps_load = isinstance(message, UpdateLane) and message.keeps_load
        return WantedParams(message.params, message.revision, self._image, keeps_load)

    def use_ring(self, message: UseRing) -> None:
        """The server made memory for its pictures."""
        ring = FrameRing.open(message.name, message.ring, message.slot_bytes, message.slots)
        ring.unlink()
        self._input = ring

    def accept(self, message: PictureIn, *, at_once: bool = False) -> bool:
        """Queue a picture that came or give its slot back; on an idle working thread (`at_once`) it may pass: False."""
        if message.returned:
            self.take_back(message.returned_ring, message.returned)
        ring = self._input
        if ring is None or ring.number != message.ring:
            raise InternalError(f"a picture in ring {message.ring}, which is not in use")
        if at_once and self._passage.takes(message):
            return False
        picture = WaitingPicture(message, ring)
        free = picture if self.failed else self._scheduler.put(self.number, picture)
        self.give_up([] if free is None else [free])
        return True

    def take_back(self, ring: int, slots: list[int]) -> None:
        """The server is done with results."""
        self._output.give_back(ring, slots)

    def tap(self, processor: str) -> bytes | None:
        """What this image processor made last, as a small JPEG; None when there is no such thing."""
        return small_tap(self._pipeline, processor)

    # -- threads that prepare

    def read(self, wanted: WantedParams) -> StreamParams:
        """Raises `InvalidParams`."""
        images = {} if wanted.image is None else {wanted.image.digest: wanted.image}
        return load_params(wanted.text, self._models, images)

    def prepare(self, wanted: WantedParams, params: StreamParams) -> Prepared | None:
        """A plan of these params for the present pipeline; None when another one is needed."""
        pipeline = self._pipeline
        plan = None if pipeline is None else pipeline.plan(params)
        return None if plan is None else Prepared(wanted, params, plan=plan, planned_for=pipeline)

    def load(self, wanted: WantedParams, params: StreamParams, progress: Progress) -> Prepared:
        """What these params need, however long it takes: a plan for the present pipeline, which goes on meanwhile, or
        another one."""
        present = self._pipeline
        plan = None if present is None else present.plan_slowly(params, progress)
        if plan is not None:
            return Prepared(wanted, params, plan=plan, planned_for=present)
        pipeline = make_pipeline(params, self._device, progress, self._models, self._options)
        return Prepared(wanted, params, pipeline=pipeline)

    def progress(self, detail: str, percent: float | None) -> None:
        """Something is being loaded. Raises `LoadGivenUp`, which ends that, when nobody waits for it any more."""
        if self._closed:
            raise LoadGivenUp
        self._report(LanePhase.LOADING, detail=detail, percent=percent)

    # -- the working thread: params

    @property
    def is_running(self) -> bool:
        """Whether pictures can be made."""
        return self._pipeline is not None

    def begin(self, wanted: WantedParams) -> StreamParams:
        """Params are taken up: say so, and read them. `swap` or `refuse` must follow."""
        self._send(AtWork(self.number, wanted.revision))
        self._reporter.refusal = None
        self.preparing = True
        if self._pipeline is None:
            self._revision = wanted.revision
        params = self.read(wanted)
        if self._pipeline is None:
            self.progress(f"preparing {'image processors' if params.skip_diffusion else params.model_id}", None)
        return params

    def takes(self, prepared: Prepared) -> bool:
        """Whether `swap` can use this; what it was planned for may be gone."""
        return prepared.plan is None or prepared.pipeline is not None or prepared.planned_for is self._pipeline

    def swap(self, prepared: Prepared) -> None:
        """Bring what was prepared into force, from the next picture on. When it raises, the lane is as it was."""
        self._passage.shut()
        before, pipeline = self._pipeline, prepared.pipeline
        if pipeline is None:
            assert before is not None
            before.turn(prepared.plan)
        else:
            pipeline.begin(before)
            if prepared.plan is not None:
                pipeline.turn(prepared.plan)
            self._pipeline = pipeline
            self._told_blocked = 0
            if before is not None:
                before.end()
        self._in_force, self.made_way = prepared.wanted, None
        self._revision = prepared.wanted.revision
        self._effective_sequence = None
        self.failed = self.preparing = False
        self._scheduler.settle(self.number, group_of(self._pipeline), in_force=True)
        self._report(LanePhase.READY)

    def refuse(self, error: Exception, revision: int) -> None:
        """Params of `revision` cannot be brought into force: those before stay, or else the lane fails."""
        self.preparing = False
        if self._pipeline is None:
            self.fail(error)
            return
        self.note_refusal(error, revision)
        self._scheduler.settle(self.number, group_of(self._pipeline), in_force=False)
        self._report(LanePhase.READY)

    def make_room(self) -> None:
        """Let the present pipeline go, so that another one fits."""
        self._drop_pipeline()
        self.made_way = self._in_force
        self._scheduler.hold(self.number, preparing=True)
        self.progress("making room", None)

    def note_refusal(self, error: Exception, revision: int) -> None:
        """Say with the next report that params of `revision` could not be brought into force."""
        self._reporter.refusal = Refusal(revision, *code_and_words(error), part_of(error))
        let_go_of_frames(error)

    # -- the working thread: pictures

    def is_short(self, picture: WaitingPicture) -> bool:
        """Whether this picture will only be passed on."""
        pipeline = self._pipeline
        return pipeline is None or (pipeline.changes_nothing and self.stays(picture))

    @property
    def is_slow(self) -> bool:
        """Whether work of this lane is expected to take long."""
        if self.preparing:
            return True
        return self._pipeline is not None and (self._converted or not self._pipeline.changes_nothing)

    @property
    def pipeline(self) -> Pipeline | None:
        """What its pictures run through; None before the first params are in force, and when the lane has failed."""
        return self._pipeline

    def announce(self) -> None:
        """A picture is about to be made; if it is the first under its params, say so."""
        if self._effective_sequence is None:
            self._send(AtWork(self.number, self._revision))

    def stays(self, picture: WaitingPicture) -> bool:
        """The fast path: the picture is its own result. The plain twin converts it to RGB and back."""
        pipeline = self._pipeline
        return (
            pipeline is not None
            and self._pass_unchanged
            and pipeline.changes_nothing
            and picture.means_the_same
            and picture.size == pipeline.input_size
        )

    def pass_on(self, picture: WaitingPicture) -> Result:
        """The picture as its own result."""
        self._converted = False
        return Result(IN_PLACE, picture.message.slot, picture.size, None)

    def scale(self, picture: WaitingPicture) -> Result | None:
        """The picture in another size, where nothing else is to be done with it; else None."""
        pipeline = self._pipeline
        assert pipeline is not None
        self._converted = True
        if not (self._pass_unchanged and pipeline.changes_nothing and picture.means_the_same):
            return None
        slot = self._output.take(pipeline.output_size)
        size = colour.scale(picture.frame(), pipeline.output_size, slot.memory, self._device)
        return Result(slot.ring, slot.number, size, None)

    def upload(self, picture: WaitingPicture) -> Looking[torch.Tensor]:
        """The picture as the call takes it."""
        pipeline = self._pipeline
        assert pipeline is not None
        if pipeline.takes_planes:
            return colour.upload_planes(picture.frame(), pipeline.input_size, self._device)
        return (yield from pipeline.before(colour.upload(picture.frame(), pipeline.input_size, self._device)))

    @property
    def looks_before(self) -> bool:
        """Whether something looks at its pictures before the call."""
        return self._pipeline is not None and not self._pipeline.takes_planes

    def repeat(self, image: torch.Tensor) -> Result | None:
        """The last result again, when what `upload` gave need not be diffused; else None."""
        pipeline = self._pipeline
        assert pipeline is not None
        again = pipeline.repeat(image)
        return None if again is None else self._begin_download(pipeline, again)._replace(skipped=True)

    def download(self, image: torch.Tensor, planes: torch.Tensor | None) -> Looking[Result]:
        """Begin to fetch what the call made, if there was one: `planes` are then `image` as packed I420."""
        pipeline = self._pipeline
        assert pipeline is not None
        if planes is not None and pipeline.gives_planes:
            return self._begin_download(pipeline, planes)
        return self._begin_download(pipeline, (yield from pipeline.after(image)))

    def _begin_download(self, pipeline: Pipeline, image: torch.Tensor) -> Result:
        slot = self._output.take(pipeline.output_size)
        download = colour.Download(image, slot.memory)
        return Result(slot.ring, slot.number, download.size, download)

    def deliver(self, picture: WaitingPicture, result: Result, started: float) -> None:
        """The result is complete: send it."""
        if self._pipeline is None:  # it failed at another picture since
            self.discard(result)
            self.give_up([picture])
            return
        if result.download is not None:
            result.download.finish()
        pipeline = self._pipeline
        if self._effective_sequence is None:
            self._effective_sequence = picture.message.sequence
            self._scheduler.prove(self.number)
            self._report(LanePhase.READY)
        elif pipeline.told != self._reporter.told:
            self._report(LanePhase.READY)  # what loads beside the pictures fails beside them
        known = pipeline.blocked  # asked once: on a GPU it may grow between two questions
        blocked, self._told_blocked = known - self._told_blocked, known
        if result.ring == IN_PLACE and not pipeline.states:  # without processors nothing here can change by itself
            self._passage.open(result.size, self._revision)
        self._send(
            PictureOut(
                self.number,
                picture.ring.number,
                picture.message.slot,
                result.ring,
                result.slot,
                result.size.width,
                result.size.height,
                self._revision,
                self._clock.monotonic() - started,
                started - picture.message.sent_at,
                result.skipped,
                max(0, blocked),
            )
        )

    def discard(self, result: Result) -> None:
        """The result is of no use: free its slot."""
        if result.ring != IN_PLACE:
            self.take_back(result.ring, [result.slot])

    def fail(self, error: Exception, picture: WaitingPicture | None = None) -> None:
        """A picture could not be made, or there is nothing to make one with: give up until new params come."""
        code, message = code_and_words(error)
        let_go_of_frames(error)
        self.failed, self.made_way = True, None
        self._drop_pipeline()
        self._reporter.refusal = None
        self._scheduler.hold(self.number, preparing=self.preparing)
        self._report(LanePhase.FAILED, error_code=code, error_message=message, part=part_of(error))
        self.give_up([*(() if picture is None else (picture,)), *self._scheduler.drain(self.number)])

    def give_up(self, pictures: list[WaitingPicture]) -> None:
        """Give input slots back without a result. From any thread."""
        for picture in pictures:
            self._send(SlotsReturned(self.number, picture.ring.number, [picture.message.slot]))

    def close(self) -> None:
        """The lane is closed; free its seat, and end what is loaded for it."""
        self._closed = True
        self._drop_pipeline()

    # -- below

    def _drop_pipeline(self) -> None:
        self._passage.shut()
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.end()

    def _report(self, phase: LanePhase, **what: Any) -> None:
        """`what` as in `Reporter.report`."""
        self._reporter.report(phase, self._pipeline, self._revision, self._effective_sequence, **what)


__all__ = ["LaneWork"]
