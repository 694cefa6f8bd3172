"""Streams that diffuse in one call: who shares a model, a size and a way of denoising sits at one table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary, ref

import torch

from sdstream.diffusion.components import lora_identities
from sdstream.diffusion.conditioned import ConditionedNetworks
from sdstream.diffusion.controls import Controls
from sdstream.diffusion.frame import Frame, Guidance
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.planes import rgb_from_packed
from sdstream.diffusion.runners import GraphRunner, Runner, make_runner
from sdstream.diffusion.state import Knobs, Memory
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.diffusion.table import Finished, StreamTable
from sdstream.worker.conditions import Conditions
from sdstream.worker.engines.requests import EngineRequest
from sdstream.worker.engines.setup import installed_finder
from sdstream.worker.options import EngineOptions
from sdstream.worker.pipelines import Ran
from sdstream.worker.stages import stage


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What streams must have in common to ride in one call. Models are the same when they are one object."""

    model: Model
    width: int
    height: int
    steps: int
    guidance: Guidance
    batched: bool
    options: EngineOptions = field(default_factory=EngineOptions)
    source: str = ""
    """Where the model comes from."""
    engines: bool = False
    """Whether engines are wanted, as `acceleration: tensorrt` does."""
    conditions: Conditions = field(default_factory=Conditions)
    """What was loaded besides the model; the same when it is the same objects."""


class StreamGroup:
    """The streams of one key. Implements `worker.pipelines.Group`; used by the working thread.

    There are 1, 2, 4, 8 ... seats; a seat that was left is taken again. A stream's first picture fills all its steps.
    """

    def __init__(self, key: GroupKey, runner: Runner, like: Knobs) -> None:
        self.key = key
        self._runner = runner
        self._table = StreamTable(runner, like, 1)
        self._unprimed: set[int] = set()

    @property
    def stream_bytes(self) -> int:
        """Memory of one stream on the device."""
        return self._table.bytes_per_stream

    @property
    def in_force(self) -> str:
        """What runs the networks; see `Runner.in_force`."""
        return self._runner.in_force

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something faster is not in force."""
        return self._runner.notes

    def change_model(self, model: Model) -> None:
        """The weights in the storages of the model are others now, and `model` is what they are."""
        self.key = replace(self.key, model=model)
        if isinstance(self._runner, SwappingRunner):  # an engine was made of the weights before, or is being looked for
            self._runner = self._table.runner = with_engines(self._runner.plain, self.key, self._table.like)
        self._table.refresh()

    def renew(self, decided: frozenset[str]) -> None:
        """These shapes of convolutions are not torch's any more: what was captured without knowing is captured anew."""
        for runner in self._runner.runners if isinstance(self._runner, SwappingRunner) else (self._runner,):
            if isinstance(runner, GraphRunner):
                runner.renew(decided)

    @property
    def seated(self) -> int:
        """How many streams sit here."""
        return len(self._table.seats)

    def join(self, knobs: Knobs, memory: Memory | None = None) -> int:
        """Seat a stream with what it remembers of earlier pictures, if anything. Raises `torch.OutOfMemoryError`."""
        if len(self._table.seats) == self._table.capacity:
            self._table.grow(2 * self._table.capacity)
        seat = self._table.join(knobs, memory)
        if memory is None:
            self._unprimed.add(seat)
        return seat

    def leave(self, seat: int) -> None:
        self._unprimed.discard(seat)
        self._table.leave(seat)

    def memory(self, seat: int) -> Memory | None:
        """A copy of what the stream remembers; None while it has had no picture."""
        return None if seat in self._unprimed else self._table.memory(seat)

    def turn(self, seat: int, knobs: Knobs) -> None:
        """Put new knobs into force from the next call on."""
        self._table.turn(seat, knobs)

    @torch.no_grad()
    def run(self, images: Mapping[int, torch.Tensor]) -> Ran:
        with stage("diffuse"):
            given = _in_one_form(images)
            first = {seat: image for seat, image in given.items() if seat in self._unprimed}
            if first and self.key.batched:
                for _ in range(self.key.steps - 1):
                    self._table.make(first)
            made = self._table.make(given)
            self._unprimed -= images.keys()
            whole = {seat: _whole(each) for seat, each in made.items()}
            return Ran(
                {seat: each.image for seat, each in made.items()},
                {seat: planes for seat, (planes, _) in whole.items()},
                torch.cat([whole[seat][1] for seat in images]),
            )


def _in_one_form(images: Mapping[int, torch.Tensor]) -> Mapping[int, torch.Tensor]:
    """All as planes, or all as RGB where some stream's processors made RGB of its own."""
    if len({image.dtype for image in images.values()}) < 2:
        return images
    return {seat: rgb_from_packed(image) if image.dtype == torch.uint8 else image for seat, image in images.items()}


def _whole(made: Finished) -> tuple[torch.Tensor, torch.Tensor]:
    assert made.planes is not None, "frames of groups are whole"
    assert made.finite is not None
    return made.planes, made.finite


class GroupBook:
    """The groups that somebody sits in, by key. Used by the working thread."""

    def __init__(self, make: Callable[[GroupKey, Knobs], Runner]) -> None:
        self._make = make
        self._groups: WeakValueDictionary[GroupKey, StreamGroup] = WeakValueDictionary()

    def find(self, key: GroupKey, like: Knobs) -> StreamGroup:
        """The group of this key, made if nobody sits in one; `like` are the knobs of whoever will."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = StreamGroup(key, self._make(key, like), like)
        return group

    def seated(self, key: GroupKey) -> int:
        """How many sit in the group of this key just now. From any thread, to which it is a guess."""
        group = self._groups.get(key)
        return 0 if group is None else group.seated

    def renew(self, decided: frozenset[str]) -> None:
        """See `StreamGroup.renew`: for all groups."""
        for group in list(self._groups.values()):
            group.renew(decided)

    def move(self, before: Model, after: Model) -> None:
        """The groups of `before` are those of `after`: its weights were changed in place."""
        moved = [group for key, group in list(self._groups.items()) if key.model is before]
        for group in moved:
            self._groups.pop(group.key, None)
            group.change_model(after)
            self._groups[group.key] = group


def runner_of(key: GroupKey, like: Knobs) -> Runner:
    """What runs the calls that streams of this key share. Where engines are wanted one is looked for behind it."""
    options = key.options
    frame, device = frame_of(key), key.model.device
    plain = make_runner(frame, device, compiled=options.compile_networks, graphs=options.cuda_graphs)
    return with_engines(plain, key, like)


def frame_of(key: GroupKey) -> Frame:
    """The plain frame of a key."""
    model, conditions = key.model, key.conditions
    networks = EagerNetworks(model.unet, model.vae)
    if conditions.adapter is not None or conditions.wanted.recalled:
        adapter = conditions.adapter
        networks = ConditionedNetworks(
            model.unet,
            model.vae,
            image_layers=() if adapter is None else adapter.layers,
            changes=None if adapter is None else adapter.changes,
            recalls=model.latent_shape(key.width, key.height)[1:] if conditions.wanted.recalled else None,
        )
    return Frame(
        networks,
        slots=key.steps,
        guidance=key.guidance,
        prediction=model.schedule.prediction,
        batched=key.batched,
        controls=Controls(conditions.controlnets) if conditions.controlnets else None,
        whole=True,
        aligned=key.options.control_pictures == "aligned",
    )


def with_engines(plain: Runner, key: GroupKey, like: Knobs) -> Runner:
    """`plain`, with an engine looked for behind it where engines are wanted."""
    model, conditions = key.model, key.conditions
    finder = installed_finder() if key.engines else None
    if finder is None:
        return plain
    runner = SwappingRunner(plain)
    finder.look_for(
        EngineRequest(
            frame=frame_of(key),
            networks=EagerNetworks(model.unet, model.vae),
            like=like,
            width=key.width,
            height=key.height,
            latent_scale=model.latent_scale,
            model=key.source,
            family=model.family,
            runner=ref(runner),
            base=None if model.base is None else model.base.unet,
            loras=lora_identities(model),
            controlnets=tuple(net.source for net in conditions.wanted.controlnets),
            adapter=conditions.adapter,
            origin=model.origin,
            full_vae=not model.has_taesd,
        )
    )
    return runner


groups = GroupBook(runner_of)
"""Those of this process."""

__all__ = ["GroupBook", "GroupKey", "StreamGroup", "frame_of", "groups", "runner_of", "with_engines"]
