"""What a bake is said to take: what the same took here before, else a table, and never one for the other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.checking import relative_error
from builder.estimates import RATES, Basis, Estimate, bake_facts, estimate, readable_size
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import Component
from sdstream.engines.keys import BackendName, EngineKey, TensorRange
from sdstream.platform import LINUX, memory
from tests.builder.test_command import Oven

SECONDS, PEAK = 123.4, 3_000_000_000
Bake = Callable[..., None]


def component(name: str = "unet", *, width: int = 512, seed: str = "a", rows: int = 4) -> Component:
    entry = TensorRange("latents", "float16", (1, 4), (1, 4), (rows, 4))
    module = torch.nn.Linear(width, width, dtype=torch.float16)
    return Component(name, module, (entry,), ("out",), {}, seed * 64, "float16")


def key_of(made: Component, backend: BackendName = "tensorrt-rtx", target: str = "sm86+sm89") -> EngineKey:
    return made.key(backend, "1.0", target, "13", {})


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def bake(cache: EngineCache) -> Bake:
    """Leave an engine in the cache as a bake does."""

    def make(made: Component, key: EngineKey, seconds: float = SECONDS, peak: int | None = PEAK, **facts: Any) -> None:
        with cache.draft() as draft:
            (draft / "engine.plan").write_bytes(bytes(1000))
            cache.store(draft, key, {**bake_facts(made, seconds, peak), **facts})

    return make


def plan(cache: EngineCache, *made: Component, backend: BackendName = "tensorrt-rtx") -> Estimate:
    return estimate([(each, key_of(each, backend)) for each in made], backend, cache)


def test_what_was_baked_here_tells_what_other_weights_of_the_same_will_take(cache: EngineCache, bake: Bake) -> None:
    before = component(seed="b")
    bake(before, key_of(before, target="sm89+sm120"))
    told = plan(cache, component())
    assert (told.seconds, told.memory, told.basis) == (SECONDS, PEAK, "measured here")
    weights = 2 * (512 * 512 + 512)
    assert told.disk == 1000 + 2 * weights, "the engine, the graph and the weights that lie in a file"


def test_of_several_the_newest_tells(cache: EngineCache, bake: Bake) -> None:
    for seconds, seed in ((1.0, "b"), (2.0, "c"), (3.0, "d")):
        made = component(seed=seed)
        bake(made, key_of(made), seconds)
    assert plan(cache, component()).seconds == 3.0


@pytest.mark.parametrize(
    ("made", "changes"),
    [
        (component("decoder"), {}),
        (component(width=600), {}),
        (component(rows=8), {}),
        (component(), {"target": "sm86"}),
        (component(), {"processor": "another"}),
        (component(), {"cores": 999}),
        (component(), {"resumed": True}),
        (component(), {"peak": None}),
    ],
    ids=["part", "weights", "rows", "cards", "processor", "cores", "half of a bake", "memory of something else"],
)
def test_what_was_baked_otherwise_tells_nothing(
    cache: EngineCache, bake: Bake, made: Component, changes: dict[str, Any]
) -> None:
    target = changes.pop("target", "sm86+sm89")
    made = replace(made, weights="b" * 64)
    bake(made, key_of(made, target=target), **changes)
    told = plan(cache, component())
    assert told.basis == Basis.SCALED
    assert told.seconds == pytest.approx(RATES["tensorrt-rtx"].seconds, rel=0.01)


def test_where_figures_come_from_is_told_of_each_kind(cache: EngineCache, bake: Bake) -> None:
    bake(component(seed="b"), key_of(component(seed="b")))
    told = plan(cache, component(), component("encoder"), component("decoder"))
    assert told.basis == "1 measured here, 2 scaled from what SD-Turbo took"
    assert told.seconds > SECONDS
    assert plan(cache, component(), backend="tensorrt").basis == "guessed"
    assert plan(cache).seconds == 0


def test_a_peak_that_came_before_is_not_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the largest resident size of a process only what an engine added to is its own."""
    peaks = iter([5, 9, 9, 9, 9, 12])
    monkeypatch.setattr("builder.baking.peak_memory", lambda: next(peaks))
    oven = Oven(tmp_path)
    oven.bakery.bake(oven.profile)
    found = {entry.key.component: entry.manifest.facts["peak_memory"] for entry in oven.cache.entries()}
    assert found == {"first": 9, "second": None, "third": 12}


@pytest.mark.parametrize(
    ("count", "text"), [(1_800_000_000, "1.8 GB"), (22_000_000, "22 MB"), (400_000, "0.4 MB"), (0, "0.0 MB")]
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert readable_size(count) == text


@pytest.mark.skipif(not LINUX, reason="other systems have no such containers")
@pytest.mark.parametrize(
    ("stat", "free"), [("anon 5\nactive_file 300\ninactive_file 200\n", 600), ("", 100), (None, 100)]
)
def test_files_that_a_container_only_remembers_take_no_memory_from_a_bake(
    stat: str | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that were just fetched fill a container's memory to its limit, and leave it when somebody needs it."""
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    if stat is not None:
        (tmp_path / "memory.stat").write_text(stat)
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    assert memory.free_memory() == free


def test_an_answer_of_another_shape_is_as_wrong_as_one_that_is_no_number() -> None:
    answer = torch.ones(2, 3)
    assert relative_error([answer], [answer]) == 0.0
    assert relative_error([answer[:1]], [answer]) == float("inf")
    assert relative_error([answer * float("nan")], [answer]) == float("inf")
