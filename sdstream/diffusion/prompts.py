"""Prompts as the networks take them: encoded once, kept, blended."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sdstream.diffusion.blending import Method, blend, normalised
from sdstream.diffusion.state import Conditioning

Prompt = str | Sequence[tuple[str, float]]
"""One text, or pairs of text and weight."""

REMEMBERED = 128
"""Encoded texts that are kept; of SDXL one takes a third of a megabyte."""


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A tokenizer and a CLIP text model of transformers."""

    tokenizer: Any
    model: Any


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """`notes` tell the person what could not be used of the text."""

    conditioning: Conditioning
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class PromptEncoder:
    """The text half of a model: one encoder, or two for SDXL. Used by one thread.

    `empty_is_zero` is SDXL's habit of taking zeros for a negative prompt that nobody gave.
    """

    encoders: Sequence[TextEncoder]
    empty_is_zero: bool = False
    _known: OrderedDict[str, EncodedPrompt] = field(default_factory=OrderedDict[str, EncodedPrompt], init=False)

    def moved_to(self, encoders: Sequence[TextEncoder]) -> "PromptEncoder":
        """The same on other encoders of equal weights; what was encoded stays known."""
        moved = PromptEncoder(encoders, self.empty_is_zero)
        moved._known.update(self._known)
        return moved

    def encode(self, prompt: Prompt, *, method: Method = "slerp", normalise: bool = True) -> EncodedPrompt:
        """Encode a text, or blend several: their tokens as one point each, their pooled vectors as another.

        Raises `ValueError` when the weights are to be normalised and sum to nothing or less.
        """
        if isinstance(prompt, str):
            return self._encode(prompt)
        weights = [weight for _, weight in prompt]
        if normalise:
            weights = normalised(weights)
        parts = [self._encode(text) for text, _ in prompt]
        tokens = blend([part.conditioning.tokens for part in parts], weights, method)
        pooled = blend([part.conditioning.pooled for part in parts], weights, method)
        notes = dict.fromkeys(note for part in parts for note in part.notes)
        return EncodedPrompt(Conditioning(tokens, pooled), tuple(notes))

    def encode_negative(self, text: str) -> EncodedPrompt:
        """Encode what the picture shall not show; an empty text is nothing in particular."""
        encoded = self._encode(text)
        if text or not self.empty_is_zero:
            return encoded
        return EncodedPrompt(Conditioning(*(torch.zeros_like(part) for part in encoded.conditioning)))

    @torch.no_grad()
    def _encode(self, text: str) -> EncodedPrompt:
        known = self._known.get(text)
        if known is None:
            known = self._encode_anew(text)
            self._known[text] = known
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(text)
        return known

    def _encode_anew(self, text: str) -> EncodedPrompt:
        notes = _cut_off(self.encoders[0].tokenizer, text)
        if len(self.encoders) == 1:
            encoder = self.encoders[0]
            tokens: torch.Tensor = encoder.model(_token_ids(encoder, text))[0][0]
            return EncodedPrompt(Conditioning(tokens, tokens.new_zeros(0)), notes)
        layers: list[torch.Tensor] = []
        answer: Any = None
        for encoder in self.encoders:
            answer = encoder.model(_token_ids(encoder, text), output_hidden_states=True)
            layers.append(answer.hidden_states[-2][0])  # SDXL was trained on the last layer but one
        return EncodedPrompt(Conditioning(torch.cat(layers, -1), answer[0][0]), notes)


def _token_ids(encoder: TextEncoder, text: str) -> torch.Tensor:
    tokenizer = encoder.tokenizer
    found = tokenizer(
        text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = found.input_ids
    return ids.to(encoder.model.device)


def _cut_off(tokenizer: Any, text: str) -> tuple[str, ...]:
    """What of `text` the networks do not see: they take a fixed number of tokens, whatever the text."""
    room = tokenizer.model_max_length - 2
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False).input_ids
    if len(ids) <= room:
        return ()
    rest = str(tokenizer.decode(ids[room:])).strip()
    shown = rest if len(rest) <= 80 else f"{rest[:80]}..."
    return (f"the prompt has {len(ids)} tokens and the model reads {room}; not used: {shown!r}",)


__all__ = ["EncodedPrompt", "Prompt", "PromptEncoder", "TextEncoder"]
