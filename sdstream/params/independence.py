"""Whether what becomes of a picture depends on pictures before it, so that a file's can be made several at a time."""

from collections.abc import Iterable
from typing import Any

from sdstream.params.attainable import active_controlnets
from sdstream.params.costs import interval_of
from sdstream.params.processors import IMAGE_PROCESSORS
from sdstream.params.variants import StreamParams


def why_dependent(params: StreamParams, *, aligned: bool = True, check_interval: int = 1) -> str:
    """What of `params` looks at earlier pictures, in a few words; empty when each picture is made of itself alone.

    Steps of successive pictures that share a batch do not: each keeps its own latent. `aligned` says that they keep
    their own control pictures, too (`SDSTREAM_CONTROL_PICTURES`), `check_interval` how often the safety checker looks
    (`SDSTREAM_SAFETY_CHECK_INTERVAL`).
    """
    for name, told in _processors(params):
        kind = IMAGE_PROCESSORS[name]
        if kind.remembers:
            return f"{name} follows the pictures"
        # Others may have been sent any value under that name, which they do not look at.
        interval = interval_of(told) if "interval" in kind.defaults else 1
        if interval > 1:
            return f"{name} looks at every {interval} pictures"
    if params.skip_diffusion:
        return ""
    if any(block is not None and block.active for block in (params.latent_preprocessing, params.latent_postprocessing)):
        return "latent_feedback mixes earlier pictures in"
    cached: Any = getattr(params, "cached_attention", None)
    if cached is not None and cached.enabled:
        return "cached_attention looks at earlier pictures"
    if params.enable_similar_image_filter:
        return "enable_similar_image_filter compares pictures with those before"
    if params.use_safety_checker and check_interval > 1:
        return f"the safety checker looks at every {check_interval} pictures"
    if params.pictures_late and not aligned and active_controlnets(params):
        return "ControlNets are given the newest picture"
    return ""


def _processors(params: StreamParams) -> Iterable[tuple[str, dict[str, Any]]]:
    """All that look at pictures, and what they are told."""
    for block in (params.image_preprocessing, params.image_postprocessing):
        for processor in () if block is None else block.active:
            yield processor.type, processor.params
    for net in () if params.skip_diffusion else active_controlnets(params):
        yield net.preprocessor, net.preprocessor_params


__all__ = ["why_dependent"]
