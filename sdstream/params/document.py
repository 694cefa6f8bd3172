"""Writes docs/parameters.md from the catalogue: `python -m sdstream.params.document docs/parameters.md`."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sdstream.params.catalogue import parameter_catalogue, processor_catalogue
from sdstream.params.controlnets import CONTROLNETS, controlnet_ids
from sdstream.params.models import PUBLIC_MODELS
from sdstream.params.presets import daydream_preset
from sdstream.params.variants import VARIANTS
from sdstream.settings import Family

_INTRODUCTION = """\
# Parameters of a stream

This page is written by `python -m sdstream.params.document docs/parameters.md`; a test keeps it current.

`POST /v1/streams` takes them under `params`, and so does `PATCH /v1/streams/{id}`, which needs only what changes.
Objects merge member by member, arrays are replaced whole, `null` means absent (for `lora_dict` it means none), and
unknown members are ignored with a warning. An answer always holds every parameter of its model's family. A request that
is refused changes nothing; its `details` list everything that is wrong with it.

*Update* says what a change does to a running stream. **hot** takes effect within a picture or two. **reload** loads
something first: pictures go on with the old values until that is ready, with a placard in between only where the
device's memory does not hold both. **refused** answers 409 while a publisher is connected; anything else that changes
the size of the output (switching an upscaler on or off) is refused as well. A ControlNet that has no effect, off or of
scale 0, is added and removed hot.
"""
_MODELS = """\
## Models and families

`SDSTREAM_MODELS` serves these from other sources and adds further ids. Those are for raw HTTP clients: the
Daydream SDKs neither send nor read them.
"""
_ALL = "## All parameters\n"
_RULES = """\
### Rules between parameters

- `t_index_list` never decreases, and no item is above `num_inference_steps`. A PATCH that shortens the schedule without
  sending the list cuts the list to fit, with a warning.
- Weights of prompts or seeds that are normalised sum to more than a hundredth of the largest.
- Each ControlNet is named once and belongs to the model's family; SDXL takes at most three enabled ones.
- `cached_attention` needs `acceleration: tensorrt` and 512x512; on SDXL `max_frames` is at most 4, 2, 1 for one, two,
  three items in `t_index_list`, and four items do not go with it.
- No side of the output, upscalers included, is above 4096 pixels.
- A prompt has at most 8000 characters, a URL 2048; there are at most 16 weighted prompts, seeds or LoRAs, 16 processors
  in a block and 8 ControlNets.
- On sd-turbo models `ip_adapter`, `ip_adapter_style_image_url` and `cached_attention` are ignored with a warning.
- `seed: -1` counts as not sent.
- A `model_id` of another family keeps what the new family has too: each ControlNet becomes the one of the same kind, or
  is dropped with a warning.
"""
_STRENGTH = """\
### Strength

`strength`, a number from 0 to 1, is a short way to say `t_index_list`: how far the picture may go from the camera's. It
is an **extension** for raw HTTP clients, in requests only; answers have the list that it stands for.

- The list begins at `(1 - strength)` of the schedule and goes evenly on to its end, with as many steps as it had, so a
  change is hot. With three steps of 50, 0.5 is `[25, 33, 42]`, 1 is `[0, 17, 33]`; 0 is the last step each time.
- Beside a `t_index_list` in the same request it is ignored, with a warning.
"""
_BLOCKS = """\
## Processing blocks

`image_preprocessing`, `image_postprocessing`, `latent_preprocessing` and `latent_postprocessing` have the same members.
"""
_PROCESSORS = """\
## Processors

What a processor is told goes into its `params`, or into `preprocessor_params` of a ControlNet, where a change is a
reload. One that needs a network of its own is passed over, and named in the status, while the weights of that are not
here.
"""
_PRESETS = """\
## Daydream's presets

Daydream warms its engines up with these. Here only `t_index_list` is a default; networks are not loaded unless a
request names them.
"""
_BLOCK_HEADS = ("name", "type", "accepted", "default", "meaning")
_TYPES = {
    "prompt": "text, or array of [text, weight]",
    "seed": "integer, or array of [integer, weight]",
    "integers": "array of 1 to 4 integers",
    "weights": "object of weights",
    "image": "text: URL or data URI",
    "string": "text",
    "controlnets": "array of objects",
    "processors": "array of objects",
    "image_processing": "object",
    "latent_processing": "object",
}


def render_parameters_page() -> str:
    """The page, in Markdown."""
    own = [entry for entry in parameter_catalogue() if entry["processor"] is None]
    parts = [
        _INTRODUCTION,
        _MODELS,
        *_table(("model_id", "family"), ([f"`{model}`", family] for model, family in PUBLIC_MODELS.items())),
        _ALL,
        *_table(
            ("name", "type", "accepted", "default", "families", "update", "meaning"),
            (_parameter_row(entry) for entry in own if "processing." not in entry["name"]),
        ),
        _RULES,
        _STRENGTH,
        _BLOCKS,
        *_table(_BLOCK_HEADS, (_block_row(entry) for entry in own if entry["name"].startswith("image_preprocessing."))),
        _PROCESSORS,
        *_processors(),
        "## ControlNets\n",
        *_table(
            ("model_id", "family", "usual preprocessor", "Daydream's scale", "SDKs know it"),
            (_controlnet_row(name) for family in VARIANTS for name in controlnet_ids(family)),
        ),
        _PRESETS,
        *_table(("family", "t_index_list", "IP-Adapter"), (_preset_row(family) for family in VARIANTS)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _processors() -> Iterable[str]:
    for processor in processor_catalogue():
        needs = " Needs a network of its own." if processor["needs_model"] else ""
        yield f"### `{processor['name']}` ({processor['kind']})\n"
        yield f"{processor['description']}{needs}\n"
        if processor["cost"] is not None:
            yield f"{processor['cost']['described']}\n"
        if processor["parameters"]:
            yield from _table(
                _BLOCK_HEADS,
                (_block_row(entry, entry["name"].rpartition(".")[2]) for entry in processor["parameters"]),
            )


def _parameter_row(entry: dict[str, Any]) -> Sequence[str]:
    name, kind, accepted, default, meaning = _block_row(entry, entry["name"])
    families = "all" if len(entry["families"]) == len(VARIANTS) else ", ".join(entry["families"])
    return [name, kind, accepted, default, families, entry["update"], meaning]


def _block_row(entry: dict[str, Any], name: str | None = None) -> tuple[str, str, str, str, str]:
    return (
        f"`{name or entry['name'].partition('.')[2]}`",
        _TYPES.get(entry["type"], str(entry["type"])),
        _accepted(entry),
        _default(entry),
        entry["description"],
    )


def _accepted(entry: dict[str, Any]) -> str:
    if entry["name"].endswith(("controlnets[].model_id", "preprocessor", "processors[].type")):
        return "see below"
    if entry["choices"]:
        return ", ".join(f"`{choice}`" for choice in entry["choices"])
    if entry["minimum"] is None:
        return ""
    grid = ", multiple of 64" if entry["step"] == 64 else ""
    return f"{entry['minimum']:g} to {entry['maximum']:g}{grid}"


def _default(entry: dict[str, Any]) -> str:
    if entry["required"]:
        return "required"
    if entry["defaults"]:
        return "; ".join(f"{family}: `{_json(value)}`" for family, value in entry["defaults"].items())
    if entry["name"] == "model_id":
        return "the server's `default_model`"
    if isinstance(entry["default"], dict) and "enabled" in entry["default"]:
        return "off"
    return f"`{_json(entry['default'])}`"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _preset_row(family: Family) -> Sequence[str]:
    preset = daydream_preset(family)
    adapter = preset.get("ip_adapter")
    shown = f"on, {adapter['type']}, {adapter['scale']:g}" if adapter else "none"
    return [family, f"`{preset['t_index_list']}`", shown]


def _controlnet_row(name: str) -> Sequence[str]:
    facts = CONTROLNETS[name]
    return [f"`{name}`", facts.family, f"`{facts.preprocessor}`", f"{facts.preset_scale:g}", _yes(facts.in_sdks)]


def _yes(value: bool) -> str:
    return "yes" if value else "no: raw HTTP only"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + " --- |" * len(heads)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_parameters_page(), "utf-8")
