"""The control pictures of a stream: what its ControlNets' preprocessors make of each picture."""

import torch

from sdstream.diffusion.controls import NO_PICTURE
from sdstream.errors import SdstreamError
from sdstream.params import StreamParams
from sdstream.params.attainable import active_controlnets
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.colour import resize
from sdstream.worker.looks import Looking
from sdstream.worker.ports import ProcessorState
from sdstream.worker.processors import ProcessorChain, Wanted
from sdstream.worker.processors.chain import Progress


class ControlStages:
    """One chain of one processor for each active ControlNet, in their order. Used by one thread.

    A preprocessor that cannot work makes no picture, and its ControlNet adds nothing meanwhile.
    """

    def __init__(self, params: StreamParams, shelf: AnnotatorShelf, before: "ControlStages | None" = None) -> None:
        """`before` are those that these take the place of: what goes on keeps its memory."""
        old = {} if before is None else before._chains
        self._chains: dict[str, ProcessorChain] = {}
        self._channels: dict[str, int] = {}
        self._names: dict[str, str] = {}
        places = {net.model_id: f"controlnets[{index}]" for index, net in enumerate(params.controlnets)}
        for net in active_controlnets(params):
            channels = net.facts.conditioning_channels
            wanted = Wanted(net.preprocessor, net.preprocessor_params, channels, places[net.model_id])
            self._chains[net.model_id] = ProcessorChain([wanted], shelf, old.get(net.model_id))
            self._channels[net.model_id] = channels
            self._names[net.model_id] = net.preprocessor
        self.last: dict[str, torch.Tensor] = {}
        """By preprocessor the last control picture, float [1, 3, H, W], 0 to 1."""

    @property
    def are_any(self) -> bool:
        """Whether there are ControlNets, so that pictures are looked at."""
        return bool(self._chains)

    @property
    def faults(self) -> tuple[SdstreamError, ...]:
        """Why ControlNets add nothing."""
        return tuple(fault for chain in self._chains.values() for fault in chain.faults)

    @property
    def states(self) -> tuple[ProcessorState, ...]:
        """Where each preprocessor stands; what passes a picture on as it is has one to be looked at, too."""
        return tuple(
            state._replace(seen=state.name in self.last) for chain in self._chains.values() for state in chain.states
        )

    @property
    def remembers(self) -> bool:
        """Whether the next picture needs the one that came out last."""
        return any(chain.needs_previous_output for chain in self._chains.values())

    def wait(self, progress: Progress | None = None) -> None:
        """Wait for the networks of all preprocessors, as `ProcessorChain.wait` does."""
        for chain in self._chains.values():
            chain.wait(progress)

    def beside(self, image: torch.Tensor, previous: torch.Tensor | None, delay: int) -> Looking[torch.Tensor]:
        """`image` [1, 3, H, W] with the control pictures beside it, [1, 3 + channels, H, W]; see `ProcessorContext`."""
        parts = [image]
        height, width = image.shape[2:]
        for name, chain in self._chains.items():
            channels = self._channels[name]
            if not chain.works(0):
                parts.append(image.new_full((1, channels, height, width), NO_PICTURE))
                continue
            seen = yield from chain.look(image, previous, delay)
            made = resize(seen, width, height).clamp(0, 1)
            self.last[self._names[name]] = made[:, :3]
            # Another processor than TemporalNet's own makes one picture where two are taken.
            parts.append(made if made.shape[1] == channels else made.repeat(1, channels // 3, 1, 1))
        return torch.cat(parts, 1) if len(parts) > 1 else image


__all__ = ["ControlStages"]
