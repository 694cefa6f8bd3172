"""Where a stream's output goes besides its viewers: RTMP servers and recordings. Not parameters of the picture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from sdstream.params.addresses import read_rtmp_target, why_not_public
from sdstream.params.problems import Notes, Problem, is_object

MAX_OUTPUTS = 8
"""RTMP targets of one stream, `output_rtmp_url` included."""
HIDDEN = "***"
"""What stands for a key where a target is shown."""
RECORDING_FORMATS = ("mp4",)
MEMBERS = ("output_rtmp_url", "outputs", "recording")
_SUGGESTION = "use rtmp://HOST/APP/KEY or rtmps://HOST/APP/KEY"


@dataclass(frozen=True, slots=True)
class Delivery:
    """`output_rtmp_url` is Daydream's member, `outputs` are further targets (extension), `recording` is on or off."""

    output_rtmp_url: str | None = None
    outputs: tuple[str, ...] = ()
    recording: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """Every RTMP target once."""
        first = () if self.output_rtmp_url is None else (self.output_rtmp_url,)
        return tuple(dict.fromkeys((*first, *self.outputs)))

    @property
    def wire_outputs(self) -> list[str]:
        """The further targets as answers show them: without their keys."""
        return [hide_key(url) for url in self.outputs]

    @property
    def wire_recording(self) -> dict[str, Any]:
        """The member `recording` of answers."""
        return {"enabled": self.recording, "format": RECORDING_FORMATS[0]}

    def dump(self) -> str:
        """Everything but `output_rtmp_url`, which has a column of its own, as JSON for the store."""
        return json.dumps({"outputs": list(self.outputs), "recording": self.recording})

    @classmethod
    def load(cls, output_rtmp_url: str | None, text: str) -> "Delivery":
        """What `dump` wrote. Raises `ValueError` when it is something else."""
        stored = json.loads(text)
        if not isinstance(stored, dict):
            raise ValueError("the delivery of a stream is no object")
        members = cast("dict[str, Any]", stored)
        return cls(output_rtmp_url, tuple(members.get("outputs", ())), bool(members.get("recording", False)))


def read_delivery(
    sent: Mapping[str, Any], current: Delivery, notes: Notes, problems: list[Problem], *, allow_private: bool
) -> Delivery:
    """`current` with what `sent`, a request without its null members, changes.

    An empty text or list takes targets away. A target without its key, as answers show it, stands for the stored one;
    of several that are shown alike it must be clear which.
    """
    changed = current
    if "output_rtmp_url" in sent:
        url = sent["output_rtmp_url"]
        kept = (current.output_rtmp_url,) if current.output_rtmp_url else ()
        target = None if url == "" else _read_target("output_rtmp_url", url, kept, problems, allow_private)
        changed = replace(changed, output_rtmp_url=target)
    if "outputs" in sent:
        changed = replace(changed, outputs=_read_targets(sent["outputs"], current.outputs, problems, allow_private))
    if len(changed.targets) > MAX_OUTPUTS:
        problems.append(Problem("outputs", f"are more than {MAX_OUTPUTS} targets"))
    if "recording" in sent:
        changed = replace(changed, recording=_read_recording(sent["recording"], current, notes, problems))
    return changed


def hide_key(url: str) -> str:
    """An RTMP target without user, key and query, for answers and logs."""
    parts = urlsplit(url)
    application, _, key = parts.path.strip("/").rpartition("/")
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    return shown + (f"{application}/{HIDDEN}" if key and application else HIDDEN)


def _read_targets(value: Any, stored: tuple[str, ...], problems: list[Problem], allow_private: bool) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        problems.append(Problem("outputs", "must be a list of rtmp:// or rtmps:// URLs"))
        return ()
    items = cast("list[Any]", value)
    if len(items) > MAX_OUTPUTS:
        problems.append(Problem("outputs", f"are more than {MAX_OUTPUTS} targets"))
        return ()
    known = _restore(items, stored, problems)
    read = [
        _read_target(f"outputs[{index}]", item, stored, problems, allow_private) for index, item in enumerate(known)
    ]
    return tuple(dict.fromkeys(url for url in read if url is not None))


def _restore(items: list[Any], stored: tuple[str, ...], problems: list[Problem]) -> list[Any]:
    """`items` with the stored URL for each that is sent as it is shown, in their order where several look alike."""
    waiting: dict[str, list[str]] = {}
    for url in stored:
        if url not in items:
            waiting.setdefault(hide_key(url), []).append(url)
    restored: list[Any] = []
    for index, item in enumerate(items):
        alike = waiting.get(item, []) if isinstance(item, str) else []
        if len(alike) > items.count(item):
            problems.append(Problem(f"outputs[{index}]", f"may be any of {len(alike)} targets; send its key, too"))
        restored.append(alike[min(items[:index].count(item), len(alike) - 1)] if alike else item)
    return restored


def _read_target(
    field: str, value: Any, stored: tuple[str, ...], problems: list[Problem], allow_private: bool
) -> str | None:
    for url in stored:
        if value in (url, hide_key(url)):
            return url
    try:
        url = read_rtmp_target(value)
    except PydanticCustomError as error:
        problems.append(Problem(field, error.message(), _SUGGESTION))
        return None
    path = urlsplit(url).path.strip("/")
    if path.rpartition("/")[2] == HIDDEN:
        problems.append(Problem(field, "is shown without its key and is no target of this stream; send its key, too"))
        return None
    if not path:
        problems.append(Problem(field, "names no application", _SUGGESTION))
        return None
    if not allow_private and (reason := why_not_public(url)):
        problems.append(Problem(field, f"{reason}; the operator can allow it with output_allow_private"))
        return None
    return url


def _read_recording(value: Any, current: Delivery, notes: Notes, problems: list[Problem]) -> bool:
    if isinstance(value, bool):
        return value
    if not is_object(value):
        problems.append(Problem("recording", "must be an object", 'send {"enabled": true, "format": "mp4"}'))
        return current.recording
    kind = value.get("format")
    if kind is not None and kind not in RECORDING_FORMATS:
        problems.append(Problem("recording.format", "is not one this server writes", "use mp4"))
    enabled = value.get("enabled", True)
    if enabled is None:
        return current.recording
    if not isinstance(enabled, bool):
        problems.append(Problem("recording.enabled", "must be true or false"))
        return current.recording
    for name in value:
        if name not in ("enabled", "format"):
            notes.ignored(f"recording.{name}", ("recording.enabled", "recording.format"))
    return enabled


__all__ = ["MAX_OUTPUTS", "MEMBERS", "RECORDING_FORMATS", "Delivery", "hide_key", "read_delivery"]
