"""The plain networks of a model with a style image's attention, or attention to earlier pictures, or both."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.attention import Exchange, change, install, self_layers, share
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.question import Question


class ConditionedNetworks(EagerNetworks):
    """`EagerNetworks` over a UNet with the same weights and attention of its own. See there."""

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        *,
        image_layers: Sequence[tuple[nn.Module, nn.Module]] = (),
        recalls: tuple[int, int] | None = None,
        changes: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        """`image_layers` are an IP-Adapter's keys and values, as many as there are cross attentions. `recalls` is the
        height and width of the latents whose earlier pictures are attended to. `changes` are those of an IP-Adapter of
        faces; the layers that they name hold memory of their own."""
        shared: Any = share(unet)
        change(shared, changes or {})
        self_attentions = () if recalls is None else self_layers(shared, *recalls)
        exchange = Exchange()
        install(shared, exchange, image_layers=image_layers, recalling=self_attentions)
        super().__init__(shared, vae)
        self._exchange = exchange
        self._image_layers = tuple(image_layers)
        self._recalls = bool(self_attentions)

    def predict(self, question: Question) -> torch.Tensor:
        """See `Networks.predict`."""
        exchange = self._exchange
        exchange.tokens, exchange.strengths = question.subject.image_tokens, question.image_strengths
        try:
            return super().predict(question)
        finally:
            exchange.tokens = exchange.strengths = None

    def recall(self, question: Question, bank: torch.Tensor, fresh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Networks.recall`."""
        if not self._recalls:
            raise NotImplementedError("these networks were made without attention to earlier pictures")
        exchange = self._exchange
        exchange.bank, exchange.fresh, exchange.own = bank, fresh, []
        try:
            return self.predict(question), torch.cat(exchange.own, 1)
        finally:
            exchange.bank = exchange.fresh = None
            exchange.own = []


__all__ = ["ConditionedNetworks"]
