"""Made-up keys and engines for the tests of the cache: a few bytes instead of a network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdstream.engines.cache import EngineCache
from sdstream.engines.entry import Entry
from sdstream.engines.events import EngineEvent
from sdstream.engines.keys import EngineKey, TensorRange

KEY = EngineKey(
    weights="a" * 64,
    config={"channels": [32, 64], "eps": 1e-5},
    component="unet",
    inputs=(
        TensorRange("latents", "float16", (1, 4, 8, 8), (2, 4, 8, 8), (8, 4, 8, 8)),
        TensorRange("timesteps", "int64", (1,), (2,), (8,)),
    ),
    dtype="float16",
    backend="tensorrt-rtx",
    backend_version="1.7.1.116",
    target="sm86+sm89",
    cuda="13",
    options={"optimization_level": 3},
    name="tiny",
)

FILES = {"engine.plan": bytes(range(256)) * 40, "extra.json": b"{}"}


def key(**changes: Any) -> EngineKey:
    return replace(KEY, **changes)


def store(cache: EngineCache, wanted: EngineKey = KEY, files: Mapping[str, bytes] = FILES) -> Entry:
    """Put an engine of these files into a cache."""
    with cache.draft() as draft:
        for name, data in files.items():
            (draft / name).write_bytes(data)
        return cache.store(draft, wanted)


class Events:
    """A `Report` that remembers."""

    def __init__(self) -> None:
        self.all: list[EngineEvent] = []

    def __call__(self, event: EngineEvent) -> None:
        self.all.append(event)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.all]


def leftovers(directory: Path) -> list[str]:
    """What is in the drafts of a cache."""
    drafts = directory / ".drafts"
    return sorted(folder.name for folder in drafts.iterdir()) if drafts.is_dir() else []
