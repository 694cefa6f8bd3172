"""The prompts of a stream's params, encoded, and what of them its model does not read."""

import threading
from typing import NamedTuple

from sdstream.diffusion.prompts import PromptEncoder
from sdstream.diffusion.state import Conditioning
from sdstream.params import StreamParams
from sdstream.worker.ports import Remark

_encoding = threading.Lock()
"""Text encoders remember what they encoded, and plans are made on several threads."""


class Prompted(NamedTuple):
    """What the networks are given for both prompts."""

    prompt: Conditioning
    negative: Conditioning
    remarks: tuple[Remark, ...]
    """Of text that is too long, where the params name it."""


def encode_prompts(params: StreamParams, encoder: PromptEncoder) -> Prompted:
    """Encode what `params` say. From any thread."""
    with _encoding:
        prompt = encoder.encode(
            params.prompt, method=params.prompt_interpolation_method, normalise=params.normalize_prompt_weights
        )
        negative = encoder.encode_negative(params.negative_prompt)
    told = (("prompt", prompt.notes), ("negative_prompt", negative.notes))
    remarks = tuple(Remark(place, note) for place, notes in told for note in notes)
    return Prompted(prompt.conditioning, negative.conditioning, remarks)


__all__ = ["Prompted", "encode_prompts"]
