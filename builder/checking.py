"""Is an engine what its network is? ONNX against torch on any CPU; the engine against its plain twin where it runs."""

import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from builder.baking import Plan, Wanted
from sdstream.clock import SystemClock
from sdstream.engine_errors import EngineBackendUnavailable, EngineBroken, EngineError, EngineMissing
from sdstream.engines.backend import Runner
from sdstream.engines.cache import EngineCache
from sdstream.engines.compiled import CompiledBackend
from sdstream.engines.component import Component
from sdstream.engines.eager import EagerRunner
from sdstream.engines.entry import Entry
from sdstream.engines.export import export_onnx
from sdstream.engines.registry import make_backend
from sdstream.engines.tensorrt import TensorrtBackend

ONNX_LIMITS = {"float32": 1e-4, "float16": 5e-3}
"""Largest error of ONNX Runtime against torch, relative to the largest value."""
ENGINE_LIMITS = {"float32": 1e-4, "float16": 1e-2}
"""Of an engine against its plain twin on the same device."""
TIMED_RUNS = 30


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found about one engine. `facts` go into its manifest; `problems` are empty when all is well."""

    name: str
    facts: Mapping[str, Any]
    problems: tuple[str, ...]
    not_run: tuple[str, ...] = ()
    """What could not be looked at on this machine, and why."""


def check_plan(plan: Plan, cache: EngineCache, device: torch.device, *, onnx: bool = True) -> list[CheckResult]:
    """Look at every engine of a plan; what was measured is added to its manifest where that can be written."""
    return [_check(item, plan, cache, device, onnx) for item in plan.wanted]


def onnx_error(component: Component, file: Path | None = None) -> float:
    """The largest relative error of the component's ONNX on ONNX Runtime's CPU back end against torch.

    Of the least, the best and one more number of rows, so that the axis really is free. `file` is the graph, where it
    was written before. Raises `EngineBackendUnavailable` without ONNX Runtime.
    """
    try:
        library: Any = importlib.import_module("onnxruntime")
    except ImportError:
        raise EngineBackendUnavailable(
            "ONNX Runtime is not installed", hint="pip install -c constraints.txt -e '.[bake]' in sdstream's directory"
        ) from None
    least, best, most = component.rows
    with tempfile.TemporaryDirectory(prefix="sdstream-onnx-") as folder:
        file = file or export_onnx(component, Path(folder))
        options = library.SessionOptions()
        options.log_severity_level = 3
        session = library.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return max(_onnx_error(session, component, rows) for rows in sorted({least, best, min(most, best + 1)}))


def _onnx_error(session: Any, component: Component, rows: int) -> float:
    inputs = component.example(rows)
    feed = {entry.name: tensor.numpy() for entry, tensor in zip(component.inputs, inputs, strict=True)}
    answers = [torch.as_tensor(array) for array in session.run(list(component.outputs), feed)]
    return relative_error(answers, EagerRunner(component, torch.device("cpu"))(*inputs))


def relative_error(given: Any, wanted: Any) -> float:
    """The largest difference of any output, each relative to its own largest value; infinite for what is no number, and
    for other shapes."""
    worst = 0.0
    for one, other in zip(given, wanted, strict=True):
        if one.shape != other.shape:  # torch would take one row for all
            return float("inf")
        if not other.numel():
            continue  # what a frame has no use for is there and holds nothing
        difference = (one.float() - other.float()).abs().max() / other.float().abs().max().clamp_min(1e-12)
        worst = max(worst, float(difference) if bool(torch.isfinite(difference)) else float("inf"))
    return worst


def _check(item: Wanted, plan: Plan, cache: EngineCache, device: torch.device, onnx: bool) -> CheckResult:
    facts: dict[str, Any] = {}
    problems: list[str] = []
    not_run: list[str] = []
    key = item.key
    entry = cache.take(key.base, lambda other: other.digest == key.digest)
    try:
        if entry is None:
            here = [other.name for other in cache.entries() if other.key.base == key.base]
            others = f" (what is here is for others: {', '.join(here)})" if here else ""
            raise EngineMissing(
                f"it is not in {cache.directory}, or was broken and put aside{others}; "
                "`python -m builder bake` with the same options makes it"
            )
        if onnx and key.backend != "compiled":
            facts["onnx_error"] = error = onnx_error(item.component)
            if error > ONNX_LIMITS[key.dtype]:
                problems.append(f"ONNX differs from torch by {error:.1e}, more than {ONNX_LIMITS[key.dtype]:.0e}")
        facts |= _run(item.component, entry, device, problems)
    except EngineBackendUnavailable as error:
        not_run.append(error.message)
    except EngineError as error:
        problems.append(error.message)
    if facts and entry is not None:
        try:
            cache.annotate(entry, {"verified": facts})
        except EngineError as error:
            not_run.append(f"not written down: {error.message}")
    return CheckResult(key.readable, facts, tuple(problems), tuple(not_run))


def _run(component: Component, entry: Entry, device: torch.device, problems: list[str]) -> dict[str, Any]:
    backend = make_backend(entry.key.backend, device)
    if isinstance(backend, TensorrtBackend):
        backend.look_at(entry)
    elif not isinstance(backend, CompiledBackend):
        raise EngineBroken(f"{entry.name} is of a back end that cannot be checked")
    runner = backend.load(entry, device)
    try:
        return _compare(component, entry, runner, device, problems)
    finally:
        runner.close()


def _compare(
    component: Component, entry: Entry, runner: Runner, device: torch.device, problems: list[str]
) -> dict[str, Any]:
    plain = EagerRunner(component, device)
    inputs = tuple(tensor.to(device) for tensor in component.example())
    error = relative_error([tensor.clone() for tensor in runner(*inputs)], plain(*inputs))
    limit = ENGINE_LIMITS[entry.key.dtype]
    if error > limit:
        problems.append(f"the engine differs from its plain twin by {error:.1e}, more than {limit:.0e}")
    engine_rate, plain_rate = side_by_side(runner, plain, inputs, device)
    facts: dict[str, Any] = {
        "error": error,
        "device": str(device),
        "calls_per_second": round(engine_rate, 2),
        "plain_calls_per_second": round(plain_rate, 2),
    }
    if device.type == "cuda":
        facts |= {"device": torch.cuda.get_device_name(device), "memory": torch.cuda.max_memory_allocated(device)}
    return facts


def side_by_side(
    one: Runner, other: Runner, inputs: tuple[torch.Tensor, ...], device: torch.device, runs: int = TIMED_RUNS
) -> tuple[float, float]:
    """Calls a second of two runners, their medians taken in turns, so that what else runs slows both."""
    clock = SystemClock()
    times: tuple[list[float], list[float]] = ([], [])
    for runner in (one, other):
        runner(*inputs)
    for _ in range(runs):
        for runner, spent in zip((one, other), times, strict=True):
            _wait(device)
            began = clock.monotonic()
            runner(*inputs)
            _wait(device)
            spent.append(clock.monotonic() - began)
    first, second = (sorted(spent)[len(spent) // 2] for spent in times)
    return 1 / first, 1 / second


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


__all__ = ["ENGINE_LIMITS", "ONNX_LIMITS", "CheckResult", "check_plan", "onnx_error", "relative_error", "side_by_side"]
