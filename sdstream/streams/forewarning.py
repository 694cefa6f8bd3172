"""What the caller of a create request or an update is warned of: parts of the params that cannot come into force."""

import asyncio
from dataclasses import replace

from sdstream.fetching import FetchProblem
from sdstream.params import STYLE_IMAGE, ModelTable, StreamParams
from sdstream.params.attainable import ADAPTER
from sdstream.streams.stream import Stream
from sdstream.streams.style_images import decode_data, style_image_of
from sdstream.streams.views import UpdateOutcome

ALL = frozenset({"model_id", "skip_diffusion"})
"""Params on which every part hangs: with one of them all others are looked at."""
ADAPTER_PARAMS = frozenset({ADAPTER, STYLE_IMAGE})
PARTS = ALL | ADAPTER_PARAMS | {"controlnets", "lora_dict", "use_lcm_lora"}


async def forewarn(
    params: StreamParams, models: ModelTable, names: frozenset[str] = ALL, known: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """What this machine lacks of all that `params` ask for, one warning each; of the params called `names` only, and
    not of the places `known`, of which the caller is told already."""
    asked = PARTS if names & ALL else names & PARTS
    if asked & ADAPTER_PARAMS:
        asked |= ADAPTER_PARAMS
    absent = await asyncio.to_thread(_absences, params, models, asked, known) if asked else ()
    return (*absent, *await _forewarn_of_image(params)) if STYLE_IMAGE in asked else absent


async def _forewarn_of_image(params: StreamParams) -> tuple[str, ...]:
    """Whether the style image, where it came as data, is a picture. An address is looked up behind the answer."""
    image = style_image_of(params)
    if image is None or not image.is_data:
        return ()
    try:
        await asyncio.to_thread(decode_data, str(image))
    except FetchProblem as problem:
        return (_warning(STYLE_IMAGE, f"it {problem}"),)
    return ()


async def warn_of(
    outcome: UpdateOutcome, stream: Stream, sent: frozenset[str], models: ModelTable, *, dry_run: bool = False
) -> UpdateOutcome:
    """`outcome`, an update of `stream` whose caller `sent` these params, with warnings of what cannot come into force.

    A lane is asked to try what it lacks again, and says what that is. What it was not asked for before is looked for
    here, because it says so long after the answer. With `dry_run` nothing is tried.
    """
    params, changed = outcome.record.params, frozenset(outcome.changed)
    live = stream.live if stream.live is not None and stream.live.has_lane else None
    if live is not None and not dry_run:
        told, known = stream.try_again(sent), frozenset(part.place for part in live.missing_of(sent))
        warnings = (*told, *await forewarn(params, models, changed, known))
    elif live is not None:
        warnings = (*stream.known_missing(sent - changed), *await forewarn(params, models, changed))
    else:
        warnings = await forewarn(params, models, sent | changed)
    return replace(outcome, warnings=outcome.warnings + warnings)


def _absences(
    params: StreamParams, models: ModelTable, names: frozenset[str], known: frozenset[str]
) -> tuple[str, ...]:
    # Imported when first needed: it brings the hub's library, which the start of the server need not wait for.
    from sdstream.worker.files.absent import absent_parts

    return tuple(
        _warning(f"{part.place}{f' ({part.name})' if part.name else ''}", part.message)
        for part in absent_parts(params, models)
        if part.place.partition("[")[0] in names and part.place not in known
    )


def _warning(what: str, why: str) -> str:
    return f"params.{what} cannot come into force now: {why.removesuffix('.')}"


__all__ = ["forewarn", "warn_of"]
