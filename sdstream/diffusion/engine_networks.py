"""Networks that loaded engines answer, and a whole frame that one does; what they lack, the plain ones do."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from sdstream.diffusion.frame import Frame, Result
from sdstream.diffusion.networks import ControlResiduals, Networks
from sdstream.diffusion.planes import rgb_from_packed
from sdstream.diffusion.state import Knobs, Memory

Call = Callable[..., tuple[torch.Tensor, ...]]
"""A loaded engine: one tensor for each input of its component in, one for each output out."""


class EngineNetworks(Networks):
    """`Networks` of engines. `calls` are by the names of components (`sdstream.diffusion.components`): `unet` with
    `-control` and `-tokens` variants, `encoder`, `decoder`. A call that none is for goes to the plain networks."""

    def __init__(self, plain: Networks, calls: Mapping[str, Call], back_end: str, *, capturable: bool = True) -> None:
        super().__init__()
        self.plain = plain
        self.dtype = plain.dtype
        self.vae_dtype = plain.vae_dtype
        self.scaling_factor = plain.scaling_factor
        self.is_xl = plain.is_xl
        self.back_end = back_end
        self.capturable = capturable and plain.capturable
        self._calls = dict(calls)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        texts: torch.Tensor,
        pooled: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        control: ControlResiduals | None = None,
        image_tokens: torch.Tensor | None = None,
        image_strengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Networks.predict`. The answer is valid until the next call."""
        name = "unet" + ("" if control is None else "-control") + ("" if image_tokens is None else "-tokens")
        call = self._calls.get(name)
        if call is None or image_strengths is not None:  # engines have no input for the strengths
            return self.plain.predict(
                latents, timesteps, texts, pooled, time_ids, control, image_tokens, image_strengths
            )
        given = [latents, timesteps, texts]
        if self.is_xl:
            assert pooled is not None
            assert time_ids is not None
            given += [pooled, time_ids]
        if control is not None:
            given += [*control.down, control.mid]
        if image_tokens is not None:
            given.append(image_tokens)
        return call(*given)[0]

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        call = self._calls.get("encoder")
        return self.plain.encode(image) if call is None else call(image)[0]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        call = self._calls.get("decoder")
        return self.plain.decode(latent) if call is None else call(latent)[0]


class EngineFrame(nn.Module):
    """A whole frame that one engine answers, for up to `most` streams; for more, the plain frame does."""

    def __init__(self, plain: Frame, call: Call, most: int, back_end: str) -> None:
        super().__init__()
        self.plain = plain
        self.networks = EngineNetworks(plain.networks, {}, back_end, capturable=False)
        self._call = call
        self._most = most

    def forward(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        """See `Frame.forward`."""
        if image.shape[0] > self._most:
            result: Result = self.plain(image, knobs, memory)
            return result
        if image.dtype == torch.uint8:
            image = rgb_from_packed(image)
        given = [tensor for tensor in (*knobs, *memory) if tensor.numel()]
        picture, latent, *kept = self._call(image, *given)
        remembered = iter(kept)
        new = Memory(*(next(remembered) if tensor.numel() else tensor for tensor in memory))
        return self.plain.deliver(picture, latent, new)


__all__ = ["Call", "EngineFrame", "EngineNetworks"]
