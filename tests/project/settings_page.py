"""Writes docs/settings.md from `Settings`: python -m tests.project.settings_page docs/settings.md"""

import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from sdstream.commands.flags import default_text, flag_name, variable_name
from sdstream.settings import Settings

HEAD = """\
# Settings

This page is written by `python -m tests.project.settings_page docs/settings.md`; a test keeps it current.

A setting comes from a flag of `sdstream serve`, else from an `SDSTREAM_*` variable, else from one YAML file, named by
`--config` or `SDSTREAM_CONFIG`, else it has its default. A wrong value or an unknown name stops the program with a line
that names it. `sdstream doctor` shows what is in force and where it came from. An empty variable counts as unset.

```yaml
# sdstream.yaml, for `sdstream serve --config sdstream.yaml`
host: 0.0.0.0
public_url: https://video.example.org
webrtc_addresses: [203.0.113.7]
webrtc_ports: 40000-40100
max_streams: 4
```

Most servers need few of them:

| To | Set |
|---|---|
| let other machines in | `SDSTREAM_HOST=0.0.0.0`, and `SDSTREAM_WEBRTC_ADDRESSES` behind NAT or in a container |
| run behind a proxy | `SDSTREAM_PUBLIC_URL` |
| keep data elsewhere | `SDSTREAM_DATA_DIR` |
| use fixed keys | `SDSTREAM_API_KEYS` |
| use models of your own | `SDSTREAM_MODELS`, `SDSTREAM_CONTROLNETS`, `SDSTREAM_DEFAULT_MODEL` |
| fetch no models | `SDSTREAM_OFFLINE` |
| limit the load | `SDSTREAM_MAX_STREAMS`, `SDSTREAM_MAX_VIEWERS`, `SDSTREAM_STREAM_FRAME_RATE` |
| change the bitrate | `SDSTREAM_VIDEO_BITRATE` |
| take RTMP, RTSP or SRT | `SDSTREAM_MEDIA_BACKEND` and the `SDSTREAM_MEDIAMTX_RTMP_PORT`, `_RTSP_PORT`, `_SRT_PORT` |
| use a GPU better | [the switches](diffusion.md#what-runs-the-networks), [engines](engines.md) |
| run on RunPod | [pods](runpod.md#settings), [serverless](serverless.md#settings-of-workers-and-gateways) |

All of them:

| Setting and flag | Variable | Values | Default | Meaning |
|---|---|---|---|---|
"""

FOOT = """
## Other variables

These have their names from elsewhere. RunPod's own: [RunPod](runpod.md#settings), [jobs](serverless.md#files).

| Variable | Used for |
|---|---|
| `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` | the hub: gated models; another one; fetch nothing from it |
| `HF_HUB_CACHE`, `HF_HOME` | where the hub's cache is, in which models are looked for, too |
| `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`, `SSL_CERT_DIR` | \
proxies and authorities on the way to the hub, to RunPod's API, and of `sdstream publish`; \
not to what users name by URL, to TURN services and to MediaMTX's release |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and the like | the buckets of recordings and engines |
| `MEDIAMTX_BIN` | [MediaMTX's program](media.md#mediamtx) |
| `CUDA_VISIBLE_DEVICES` | which card there is |
| `TRITON_CACHE_DIR` | where [compiled kernels](diffusion.md#what-trials-remember) are kept |
"""

NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true, false",
    Path: "directory",
    SecretStr: "secret text, never shown",
    tuple: "list",
}


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items()) + FOOT


def _row(name: str, field: FieldInfo) -> str:
    default = default_text(field)
    cells = (
        f"`{flag_name(name)}`",
        f"`{variable_name(name)}`",
        _values(field),
        f"`{default}`" if default else "",
        _escape(field.description or ""),
    )
    return f"| {' | '.join(cells)} |\n"


def _values(field: FieldInfo) -> str:
    annotation = field.annotation
    alternatives = [part for part in typing.get_args(annotation) if part is not types.NoneType] or [annotation]
    if typing.get_origin(annotation) is tuple:
        alternatives = [tuple]
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    text = {
        "api_keys": "list of secret texts, never shown",
        "models": "JSON object",
        "controlnets": "JSON object",
        "redis_url": "URL, never shown",
        "webrtc_ports": "`FIRST-LAST`",
    }.get(_name_of(field))
    text = text or NAMES[alternatives[0]]
    return ", ".join([text, *_limits(field)])


def _limits(field: FieldInfo) -> list[str]:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return [
        f"{words} {_plain(getattr(limit, sign))}"
        for limit in field.metadata
        for sign, words in signs.items()
        if hasattr(limit, sign)
    ]


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _name_of(field: FieldInfo) -> str:
    return next(name for name, other in Settings.model_fields.items() if other is field)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
