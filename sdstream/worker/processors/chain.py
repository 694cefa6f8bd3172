"""Image processors in a row, at one place of one stream, with what each of them remembers."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from sdstream.errors import SdstreamError
from sdstream.model_errors import ModelUnavailable
from sdstream.params.costs import COSTS
from sdstream.params.processors import working_size
from sdstream.worker.annotators.parted import InForce, PartedNetwork, shrunk_size
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.colour import resize
from sdstream.worker.looks import Look, Looking, alone
from sdstream.worker.ports import ProcessorState
from sdstream.worker.processors.base import ProcessorContext, ProcessorMemory
from sdstream.worker.processors.learned import LEARNED
from sdstream.worker.processors.registry import PROCESSORS, SHARED, changes_nothing, look, run_processor

Progress = Callable[[str, float | None], None]
"""Told what is being loaded and, where known, how much of it, 0 to 100."""
PREVIOUS_OUTPUT = frozenset({"feedback", "temporal_net_tensorrt"})
"""Those that are given the picture that came out last."""
WAIT_SECONDS = 0.25
"""How often who waits for a network says so."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A processor by its wire name, and what it is told. `channels` is 6 for a ControlNet that takes two pictures.
    `place` is where the params name it."""

    name: str
    params: Mapping[str, Any]
    channels: int = 3
    place: str = ""


@dataclass(slots=True)
class _Link:
    wanted: Wanted
    memory: ProcessorMemory
    load: "Future[nn.Module] | None" = None
    fault: SdstreamError | None = None
    spared: SdstreamError | None = None
    """Why it does its work without its network."""
    key: Hashable = None
    """What is equal of links whose pictures can be given to one call, if their sizes are; None of those that cannot."""
    looked_at: tuple[int, int] = (0, 0)
    """Width and height of the last picture as the network was given it."""


class ProcessorChain:
    """Runs processors in order. Used by one thread.

    One whose network is not here is passed over, and `faults` say why; one whose network is loading is passed over
    until it stands. A processor that stays where it was keeps its memory when the chain is made anew.
    """

    def __init__(self, wanted: Sequence[Wanted], shelf: AnnotatorShelf, before: "ProcessorChain | None" = None) -> None:
        """`before` is the chain that this one takes the place of; it may go on running until this one runs."""
        self._shelf = shelf
        old = [] if before is None else before._links
        self.last: dict[str, torch.Tensor] = {}
        """What each processor made last, float [1, 3 or 6, H, W]."""
        self._links = [self._link(one, old[place] if place < len(old) else None) for place, one in enumerate(wanted)]

    @property
    def faults(self) -> tuple[SdstreamError, ...]:
        """Why processors are passed over."""
        return tuple(fault for link in self._links if (fault := self._fault(link)) is not None)

    @property
    def states(self) -> tuple[ProcessorState, ...]:
        """Where each processor stands, in order."""
        return tuple(self._state(link) for link in self._links)

    @property
    def loading(self) -> tuple[str, ...]:
        """The processors that wait for their network."""
        return tuple(link.wanted.name for link in self._links if link.load is not None and not link.load.done())

    @property
    def is_empty(self) -> bool:
        """Whether nothing looks at pictures here, be it to leave them as they are."""
        return not self._links

    @property
    def changes_nothing(self) -> bool:
        """Whether every picture comes out as it went in."""
        return all(self._passes(link) for link in self._links)

    @property
    def shares(self) -> tuple[Hashable, ...]:
        """What other chains must have, too, to look together with this one; empty where nothing can be shared."""
        return tuple(link.key for link in self._links if link.key is not None)

    @property
    def needs_previous_output(self) -> bool:
        return any(link.wanted.name in PREVIOUS_OUTPUT for link in self._links)

    def wait(self, progress: Progress | None = None) -> None:
        """Wait until no network is on its way. `progress` is told of those that take long, and may raise to give up."""
        for link in self._links:
            while link.load is not None and not link.load.done():
                try:
                    link.load.exception(None if progress is None else WAIT_SECONDS)
                except TimeoutError:
                    if progress is not None:
                        progress(f"loading the network of {link.wanted.name}", None)

    def run(self, image: torch.Tensor, previous_output: torch.Tensor | None = None, delay: int = 0) -> torch.Tensor:
        """`image` float [1, 3, H, W], 0 to 1, after all processors; see `ProcessorContext` for the others."""
        return alone(self.look(image, previous_output, delay))

    def look(
        self, image: torch.Tensor, previous_output: torch.Tensor | None = None, delay: int = 0
    ) -> Looking[torch.Tensor]:
        """The same, with its looks answered by whoever runs it."""
        for link in self._links:
            if self._passes(link):
                continue
            try:
                image = yield from self._look(link, image, ProcessorContext(previous_output, delay, link.memory))
                self.last[link.wanted.name] = image
            except ModelUnavailable as error:
                link.fault = error  # a library that it needs is missing; it will not come while this runs
        return image

    def works(self, place: int) -> bool:
        """Whether the processor at this place does what it is for."""
        link = self._links[place]
        return self._fault(link) is None and (link.load is None or link.load.done())

    def _state(self, link: _Link) -> ProcessorState:
        wanted, fault = link.wanted, self._fault(link)
        kind = LEARNED.get(wanted.name)
        interval = int(wanted.params.get("interval", 1)) if kind is not None and kind.steady else 1
        loading = link.load is not None and not link.load.done()
        phase = "left_out" if fault is not None else "loading" if loading else "working"
        problem = "" if fault is None else fault.message
        if fault is None and link.spared is not None:
            problem = f"{self._shelf.optical_flow} is not used, OpenCV finds the motion: {link.spared.message}"
        force = InForce("") if phase != "working" else self._in_force(link)
        seen = wanted.name in self.last
        return ProcessorState(wanted.place, wanted.name, phase, interval, seen, problem, force.name, force.note)

    def _in_force(self, link: _Link) -> InForce:
        network: Any = self._network(link)
        if isinstance(network, PartedNetwork) and all(link.looked_at):
            return network.in_force(*link.looked_at)
        return InForce("" if network is None or next(network.parameters(), None) is None else "torch")

    def _network(self, link: _Link) -> Any:
        """What it looks with; None for nothing. Its load must have ended well, unless it is spared."""
        return None if link.load is None or link.spared is not None else link.load.result()

    def _link(self, wanted: Wanted, old: _Link | None) -> _Link:
        same = old is not None and old.wanted.name == wanted.name and old.wanted.channels == wanted.channels
        memory = old.memory if same and old is not None else ProcessorMemory()
        kind = LEARNED.get(wanted.name)
        if kind is None:
            missing = wanted.name not in PROCESSORS
            fault = ModelUnavailable(f"this version of sdstream has no {wanted.name}") if missing else None
            told = json.dumps(wanted.params, sort_keys=True, default=repr) if wanted.name in SHARED else None
            return _Link(wanted, memory, fault=fault, key=None if told is None else (wanted.name, told))
        network = self._shelf.optical_flow if kind.spare else kind.network(wanted.params)
        if network is None:
            return _Link(wanted, memory)
        key = (network, kind.engines, working_size(wanted.params)) if kind.shared else None
        return _Link(wanted, memory, self._shelf.request(network, engines=kind.engines), key=key)

    def _passes(self, link: _Link) -> bool:
        if link.load is not None and not link.load.done():
            return True
        return self._fault(link) is not None or (link.wanted.name in PROCESSORS and changes_nothing(link.wanted.name))

    def _fault(self, link: _Link) -> SdstreamError | None:
        if link.fault is None and link.load is not None and link.load.done():
            error = link.load.exception()
            if isinstance(error, SdstreamError) and link.wanted.name in LEARNED and LEARNED[link.wanted.name].spare:
                link.spared = error
            elif isinstance(error, SdstreamError):
                link.fault = error
            elif error is not None:
                raise error
        return link.fault

    def _look(self, link: _Link, image: torch.Tensor, context: ProcessorContext) -> Looking[torch.Tensor]:
        name, params = link.wanted.name, link.wanted.params
        kind = LEARNED.get(name)
        if kind is None:
            if link.key is None:
                return run_processor(name, image, params, context)
            return (yield Look(partial(_run_without_weights, name, params), image, link.key))
        memory = link.memory
        held = memory.result
        if kind.steady and held is not None and held.shape[2:] == image.shape[2:]:
            memory.age += 1
            if memory.age < int(params.get("interval", 1)):
                return held
        channels = link.wanted.channels
        full = ProcessorContext(context.previous_output, context.delay, memory, self._network(link), channels)
        small = _shrunk(image, COSTS[name].largest)
        link.looked_at = working_size(params) or (small.shape[3], small.shape[2])
        result = yield from look(name, small, params, full)
        factor = 2 if name == "realesrgan_trt" else 1
        result = resize(result, image.shape[3] * factor, image.shape[2] * factor)
        if kind.steady:
            memory.result, memory.age = result, 0
        return result


def _run_without_weights(name: str, params: Mapping[str, Any], images: torch.Tensor) -> torch.Tensor:
    return run_processor(name, images, params, ProcessorContext())


def _shrunk(image: torch.Tensor, largest: int) -> torch.Tensor:
    width, height = shrunk_size(image.shape[3], image.shape[2], largest)
    return image if (width, height) == (image.shape[3], image.shape[2]) else resize(image, width, height)


__all__ = ["ProcessorChain", "Wanted"]
