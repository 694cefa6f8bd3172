"""A stream that diffuses: image processors, its seat in a call that streams share, image processors."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from sdstream.diffusion.convolving.tuning import are_convolutions_tuned
from sdstream.diffusion.frame import Guidance
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.safety import SafetyGuard
from sdstream.diffusion.seeds import first_seed
from sdstream.diffusion.similarity import FilterRule, SimilarImageFilter
from sdstream.diffusion.state import Memory, carry_over
from sdstream.directories import ModelPlaces
from sdstream.errors import SdstreamError
from sdstream.frames import PictureSize
from sdstream.params import StreamParams
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.conditions import Conditions, WantedConditions
from sdstream.worker.conditions import shelf as conditions_shelf
from sdstream.worker.diffusion_plan import DiffusionPlan, keeps_shapes, make_plan, needs_other_weights
from sdstream.worker.groups import GroupKey, StreamGroup, groups
from sdstream.worker.lane_stages import annotators
from sdstream.worker.loading.checkers import placard
from sdstream.worker.loading.heard import HeardProgress
from sdstream.worker.loading.loaded import Loaded
from sdstream.worker.loading.shelf import ModelShelf, ModelUse, WantedModel
from sdstream.worker.loading.tuning import choices_in_force, session_of, tune
from sdstream.worker.looks import Looking
from sdstream.worker.options import EngineOptions, acceleration_notes
from sdstream.worker.pipelines import Pipeline, Progress
from sdstream.worker.ports import CallKind, ProcessorState, Remark


class DiffusionPipeline(Pipeline):
    """One stream on a loaded model. A picture leaves N - 1 pictures after it came, N being the denoising steps.

    The first picture fills all steps, so what leaves first is that picture and not the noise of an empty pipeline.
    """

    def __init__(
        self,
        params: StreamParams,
        model: Model,
        options: EngineOptions | None = None,
        source: str = "",
        *,
        conditions: Conditions | None = None,
        shelf: AnnotatorShelf | None = None,
        wanted: WantedModel | None = None,
        use: ModelUse | None = None,
    ) -> None:
        """`source` is where the model came from, `conditions` what was loaded for these params besides it; `wanted` and
        `use` are what `ModelShelf.get` was given for the model. Raises `ModelUnavailable` when the params ask for what
        cannot run.
        """
        shelf = annotators(model.device, ModelPlaces()) if shelf is None else shelf
        self._loaded = Loaded(model, shelf, conditions or Conditions(), source, wanted, use or ModelUse())
        self._model = model
        self._options = options or EngineOptions()
        self._plan = make_plan(params, self._loaded)
        self._group: StreamGroup | None = None
        self._seat = 0
        self._known: dict[Guidance, StreamGroup] = {}
        """Groups that it has sat in: kept, because to find one made anew is slow where frames are captured."""
        self._tuned: set[Guidance] = set()
        """What was prepared: the frames of other kinds of guidance are not."""
        self._previous: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        """What came out last, while a picture may be skipped in its favour."""
        self._filter: SimilarImageFilter | None = None
        self._guard: SafetyGuard | None = None
        self._blocked = 0
        self._set_up(self._plan)

    @property
    def input_size(self) -> PictureSize:
        return self._plan.stages.input_size

    @property
    def output_size(self) -> PictureSize:
        return self._plan.stages.output_size

    @property
    def changes_nothing(self) -> bool:
        return False

    @property
    def takes_planes(self) -> bool:
        plan = self._plan
        looked_at = plan.stages.looks_before or plan.controls.are_any or self._filter is not None
        return self._options.planes and not looked_at

    @property
    def gives_planes(self) -> bool:
        looked_at = self._plan.stages.looks_after or self._guard is not None or self._filter is not None
        remembered = self._plan.stages.remembers or self._plan.controls.remembers
        return self._options.planes and not looked_at and not remembered

    @property
    def kind(self) -> CallKind:
        return self._plan.stages.kind

    @property
    def group(self) -> StreamGroup | None:
        return self._group

    @property
    def seat(self) -> int:
        return self._seat

    @property
    def loras(self) -> tuple[tuple[str, float], ...]:
        return self._model.loras

    @property
    def notes(self) -> tuple[str, ...]:
        if self._group is None:
            return self._plan.notes
        return (*self._plan.notes, *self._group.notes, *acceleration_notes(self._plan.params, self._group.in_force))

    @property
    def remarks(self) -> tuple[Remark, ...]:
        return self._plan.remarks

    @property
    def acceleration(self) -> str:
        return "" if self._group is None else self._group.in_force

    @property
    def blocked(self) -> int:
        return self._blocked + (0 if self._guard is None else self._guard.blocked)

    def plan(self, params: StreamParams) -> DiffusionPlan | None:
        """Params that keep the shapes of all tensors; see `Pipeline.plan`."""
        if not self._keeps_shapes(params) or needs_other_weights(params, self._plan.params):
            return None
        plan = make_plan(params, self._loaded, self._plan)
        # Another kind of guidance is another frame: its shapes are tried first, on a thread that may take its time.
        return None if plan.guidance not in self._tuned and are_convolutions_tuned() else plan

    def plan_slowly(self, params: StreamParams, progress: Progress) -> DiffusionPlan | None:
        """Params with other LoRAs that fit into the storages of the present ones, if nobody else uses the model."""
        loaded = self._loaded
        if not self._keeps_shapes(params):
            return None
        if not needs_other_weights(params, self._plan.params):
            plan = make_plan(params, loaded, self._plan)
            self.tune(plan, progress)
            return plan
        if loaded.wanted is None:
            return None
        if loaded.conditions.adapter is not None and loaded.conditions.adapter.changes:
            return None  # it runs on sums with the weights that would be written over
        wanted = loaded.wanted.turned(params)
        refit = shelf.prepare_refit(loaded.model, wanted, loaded.model.device, progress, loaded.use)
        if refit is None:
            return None
        plan = make_plan(params, replace(loaded, model=refit.preview), self._plan)
        self.tune(plan, progress)
        return replace(plan, refit=refit) if refit.claim() else None

    def tune(self, plan: DiffusionPlan | None, progress: Progress) -> None:
        """Have the convolutions of what `plan`, or the present one, will run tried on the card. On a thread that
        prepares, before that comes into force."""
        plan = plan or self._plan
        tune(self._key(plan), plan.knobs, progress)
        self._tuned.add(plan.guidance)

    def _keeps_shapes(self, params: StreamParams) -> bool:
        same = keeps_shapes(params, self._plan.params)
        return same and WantedConditions.of(params) == self._loaded.conditions.wanted

    def drop(self, plan: DiffusionPlan) -> None:
        if plan.refit is not None:
            plan.refit.give_back()

    def turn(self, plan: DiffusionPlan) -> None:
        if plan.refit is not None:
            before, after = self._model, plan.refit.write()
            groups.move(before, after)
            self._model, self._loaded = after, replace(self._loaded, model=after)
            plan = replace(plan, refit=None)
        if self._group is not None and self._group.key.guidance == plan.guidance:
            self._group.turn(self._seat, plan.knobs)
        elif self._group is not None:  # another kind of guidance sits at another table, with the same memory
            group, seat = self._join(plan, self._group.memory(self._seat))
            self._group.leave(self._seat)
            self._group, self._seat = group, seat
        self._plan = plan
        self._set_up(plan)

    def begin(self, before: Pipeline | None) -> None:
        if self._group is not None:
            return
        memory = None
        if isinstance(before, DiffusionPipeline) and before.group is not None and self._continues(before):
            memory = before.group.memory(before.seat)
            if memory is not None:
                memory = carry_over(memory, self._plan.knobs, same_model=before._model is self._model)
            self._previous = before._previous
        self._group, self._seat = self._join(self._plan, memory)

    def end(self) -> None:
        group, self._group = self._group, None
        self._known.clear()
        shelf.leave(self._loaded.use)
        if group is not None:
            group.leave(self._seat)

    def before(self, image: torch.Tensor) -> Looking[torch.Tensor]:
        image = yield from self._plan.stages.before(image, self._previous, self._delay)
        return (yield from self._plan.controls.beside(image, self._previous, self._delay))

    def after(self, image: torch.Tensor) -> Looking[torch.Tensor]:
        image = image.clamp(0, 1)
        if self._guard is not None:
            image = self._guard.guard(image)
        image = yield from self._plan.stages.after(image, self._previous)
        remembers = self._plan.stages.remembers or self._plan.controls.remembers
        self._previous = image if remembers else None
        # In memory of its own: what a call gives is valid until the next one, of which this stream need not be a part.
        self._last = None if self._filter is None else image.clone()
        return image

    @property
    def faults(self) -> tuple[SdstreamError, ...]:
        return (*self._plan.stages.faults, *self._plan.controls.faults)

    @property
    def states(self) -> tuple[ProcessorState, ...]:
        return (*self._plan.stages.states, *self._plan.controls.states)

    @property
    def taps(self) -> Mapping[str, torch.Tensor]:
        return {**self._plan.stages.taps, **self._plan.controls.last}

    def wait(self, progress: Progress | None = None) -> None:
        self._plan.stages.wait(progress)
        self._plan.controls.wait(progress)

    @property
    def _delay(self) -> int:
        """How many pictures after its own a picture leaves."""
        return self._plan.params.pictures_late

    @torch.no_grad()
    def repeat(self, image: torch.Tensor) -> torch.Tensor | None:
        if self._filter is None or not self._filter.skips(image):
            return None
        return self._last

    def _set_up(self, plan: DiffusionPlan) -> None:
        """Make what looks at this stream's pictures alone as `plan` wants it. Copies and small things only."""
        params = plan.params
        rule = FilterRule(params.similar_image_filter_threshold, params.similar_image_filter_max_skip_frame)
        if not params.enable_similar_image_filter:
            self._filter = self._last = None
        elif self._filter is None:
            self._filter = SimilarImageFilter(rule, first_seed(params.seed), self._model.device)
        else:
            self._filter.turn(rule)
            # All steps of the pictures that come out must have been made under the new params.
            self._filter.process_next(params.pictures_late + 1)
        if plan.checker is None:
            self._blocked, self._guard = self.blocked, None
        elif self._guard is None:
            interval = self._options.safety_check_interval
            self._guard = SafetyGuard(plan.checker, placard, self._model.device, interval)
        else:
            self._guard.check_next()

    def _continues(self, before: "DiffusionPipeline") -> bool:
        """Whether what that one remembers means the same here: latents of one family, as many and as large."""
        mine, other = self._plan, before._plan
        same_steps = len(mine.params.t_index_list) == len(other.params.t_index_list)
        return self._model.family == before._model.family and same_steps and mine.stages.input_size == before.input_size

    def _join(self, plan: DiffusionPlan, memory: Memory | None) -> tuple[StreamGroup, int]:
        groups.renew(choices_in_force())
        group = self._known[plan.guidance] = groups.find(self._key(plan), plan.knobs)
        return group, group.join(plan.knobs, memory)

    def _key(self, plan: DiffusionPlan) -> GroupKey:
        params = plan.params
        return GroupKey(
            self._model,
            params.width,
            params.height,
            len(params.t_index_list),
            plan.guidance,
            params.use_denoising_batch,
            self._options,
            self._loaded.source,
            params.acceleration == "tensorrt",
            self._loaded.conditions,
        )


def load_diffusion(
    params: StreamParams,
    wanted: WantedModel,
    device: torch.device,
    progress: Progress,
    options: EngineOptions | None = None,
) -> DiffusionPipeline:
    """A pipeline for `params` on the model `wanted`. Raises `ModelUnavailable`, naming what is missing."""
    use = ModelUse()
    heard = HeardProgress(progress)
    with session_of(progress):  # what is placed has trials of its own
        model = shelf.get(wanted, device, heard, use)
        conditions = conditions_shelf.get(WantedConditions.of(params), model, wanted.places, heard)
    if heard.anything:  # it is whole now, and nothing else would be told of this
        progress("encoding the prompt", None)
    annotator_shelf = annotators(device, wanted.places, None if options is None else options.optical_flow)
    pipeline = DiffusionPipeline(
        params, model, options, wanted.source, conditions=conditions, shelf=annotator_shelf, wanted=wanted, use=use
    )
    pipeline.tune(None, progress)
    pipeline.wait(progress)
    return pipeline


shelf = ModelShelf()


__all__ = ["DiffusionPipeline", "load_diffusion", "shelf"]
