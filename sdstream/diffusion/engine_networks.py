"""Networks that loaded engines answer, and a whole frame that one does; what they lack, the plain ones do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from sdstream.diffusion.components import unet_name
from sdstream.diffusion.controls import Controls, Own
from sdstream.diffusion.frame import Frame, Result
from sdstream.diffusion.networks import Networks
from sdstream.diffusion.planes import rgb_from_packed
from sdstream.diffusion.question import ControlResiduals, Prepared, Question, Subject
from sdstream.diffusion.state import Knobs, Memory, unprepared

Call = Callable[..., tuple[torch.Tensor, ...]]
"""A loaded engine: one tensor for each input of its component in, one for each output out."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A call, and the most rows that it takes at once. One that `divides` takes more in several calls: on a CPU that
    costs nothing, while a GPU is faster with all of them in torch than with a few at a time."""

    call: Call
    most: int
    divides: bool = False

    def takes(self, given: torch.Tensor) -> bool:
        """Whether it answers for the rows of `given`."""
        return self.divides or given.shape[0] <= self.most

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One tensor for each output, of as many rows as each input has; for what it `takes`."""
        rows = inputs[0].shape[0]
        if rows <= self.most:
            return self.call(*inputs)
        # Cloned, because the next call may overwrite what an engine answered.
        pieces = [
            tuple(tensor.clone() for tensor in self.call(*(given[start : start + self.most] for given in inputs)))
            for start in range(0, rows, self.most)
        ]
        return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


class EngineNetworks(Networks):
    """`Networks` of engines. `engines` are by the names of components (`sdstream.diffusion.components`): `unet` with
    `-control`, `-tokens` and `-recall` variants, `encoder`, `decoder`. What none takes, the plain ones do."""

    def __init__(self, plain: Networks, engines: Mapping[str, LoadedEngine], back_end: str) -> None:
        super().__init__()
        self.plain = plain
        self.dtype = plain.dtype
        self.vae_dtype = plain.vae_dtype
        self.scaling_factor = plain.scaling_factor
        self.is_xl = plain.is_xl
        self.back_end = back_end
        self.capturable = plain.capturable
        self._engines = dict(engines)

    def predict(self, question: Question) -> torch.Tensor:
        """See `Networks.predict`. The answer is valid until the next call."""
        call = self._unet(question)
        return self.plain.predict(question) if call is None else call(*question.tensors(self.is_xl))[0]

    def prepare(self, subject: Subject) -> Prepared | None:
        """See `Networks.prepare`. Engines take texts and timesteps; what is prepared is for the plain networks."""
        return self.plain.prepare(subject)

    def recall(self, question: Question, bank: torch.Tensor, fresh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Networks.recall`. The answer is valid until the next call, the keys and values for good: a frame that
        denoises step by step keeps those of all steps."""
        call = self._unet(question, recalls=True)
        if call is None:
            return self.plain.recall(question, bank, fresh)
        answer, own = call(*question.tensors(self.is_xl), bank.to(self.dtype), fresh)
        return answer, own.clone()

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        call = self._call("encoder", image)
        return self.plain.encode(image) if call is None else call(image)[0]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        call = self._call("decoder", latent)
        return self.plain.decode(latent) if call is None else call(latent)[0]

    def _unet(self, question: Question, *, recalls: bool = False) -> Call | None:
        """The engine that takes a question of this kind and as many rows; None where the plain networks do."""
        tokens = question.subject.image_tokens
        if (tokens is None) != (question.image_strengths is None):
            return None
        name = unet_name(control=question.control is not None, tokens=tokens is not None, recalls=recalls)
        return self._call(name, question.latents)

    def _call(self, name: str, rows: torch.Tensor) -> Call | None:
        engine = self._engines.get(name)
        return engine if engine is not None and engine.takes(rows) else None


class EngineControls(Controls):
    """The ControlNets of `plain`, of which engines answer some; `engines` are by the place of the net."""

    def __init__(self, plain: Controls, engines: Mapping[int, LoadedEngine]) -> None:
        super().__init__(list(plain.nets))
        self._engines = dict(engines)

    def steer(
        self, index: int, question: Question, picture: torch.Tensor, scale: torch.Tensor, own: Own | None = None
    ) -> ControlResiduals:
        """See `Controls.steer`. The answer is valid until the next call for the same net."""
        engine = self._engines.get(index)
        if engine is None or not engine.takes(question.latents):
            return super().steer(index, question, picture, scale, own)
        subject = question.subject
        more = subject.of_xl if self.takes_sizes(index) else ()
        *down, mid = engine(question.latents, subject.timesteps, subject.texts, picture, scale, *more)
        return ControlResiduals(down, mid)


class EngineFrame(nn.Module):
    """A whole frame that one engine answers, for as many streams as that takes; for more, the plain frame does."""

    def __init__(self, plain: Frame, engine: LoadedEngine, back_end: str) -> None:
        super().__init__()
        self.plain = plain
        self.networks = EngineNetworks(plain.networks, {}, back_end)
        self._engine = engine

    def complete(self, knobs: Knobs) -> Knobs:
        """See `Frame.complete`: for the plain frame."""
        return self.plain.complete(knobs)

    def forward(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        """See `Frame.forward`."""
        if not self._engine.takes(image):
            result: Result = self.plain(image, knobs, memory)
            return result
        if image.dtype == torch.uint8:
            image = rgb_from_packed(image)
        given = [tensor for tensor in (*unprepared(knobs), *memory) if tensor.numel()]
        picture, latent, *kept = self._engine(image, *given)
        remembered = iter(kept)
        new = Memory(*(next(remembered) if tensor.numel() else tensor for tensor in memory))
        return self.plain.deliver(picture, latent, new)


__all__ = ["Call", "EngineControls", "EngineFrame", "EngineNetworks", "LoadedEngine"]
