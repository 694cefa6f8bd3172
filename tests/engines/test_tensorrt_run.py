"""The TensorRT runner, as far as a machine without a GPU shows it: on a stand-in, and that against NVIDIA's module.

On a GPU the same runner is compared with the plain network (marked `gpu`)."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.checking import relative_error
from sdstream.engine_errors import EngineBroken, EngineMismatch
from sdstream.engines.cache import EngineCache
from sdstream.engines.eager import EagerRunner
from sdstream.engines.kernels import compile_now, read_kernels, write_kernels
from sdstream.engines.keys import TensorRange
from sdstream.engines.tensorrt import TensorrtBackend
from sdstream.engines.tensorrt_library import TensorrtLibrary, find_library, is_installed
from sdstream.engines.tensorrt_run import TensorrtRunner, torch_dtype
from tests.engines.fake_tensorrt import FakeMemory, Plan, make_module
from tests.engines.tiny_parts import TinyParts

INPUTS = (
    TensorRange("latents", "float16", (1, 4, 2), (2, 4, 2), (8, 4, 2)),
    TensorRange("timesteps", "int64", (1,), (2,), (8,)),
)
PLAN = Plan({"latents": ("HALF", (-1, 4, 2)), "timesteps": ("INT64", (-1,))}, {"prediction": ("HALF", (-1, 4, 2))})


def compute(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"prediction": inputs["latents"] * 2 + inputs["timesteps"].view(-1, 1, 1).half()}


class Bench:
    """A runner on a stand-in."""

    def __init__(
        self, runtime_file: Path | None = None, *, rtx: bool = True, validity: tuple[str, str] = ("VALID", "")
    ) -> None:
        self.memory = FakeMemory()
        self.module = make_module(compute, self.memory, validity=validity)
        if not rtx:
            del self.module.Runtime.get_engine_validity
        self.library = TensorrtLibrary("tensorrt-rtx" if rtx else "tensorrt", self.module, "1.7", "13")
        self._runtime_file = runtime_file

    def load(self, plan: bytes = PLAN.dump(), inputs: tuple[TensorRange, ...] = INPUTS) -> TensorrtRunner:
        return TensorrtRunner(self.library, plan, "tiny", inputs, self.memory, self._runtime_file)


def rows(count: int, start: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.arange(count * 8, dtype=torch.float32).view(count, 4, 2) / 8 + start
    return latents.half(), torch.arange(count)


@pytest.mark.parametrize("rtx", [True, False])
def test_it_answers_as_the_network_for_every_number_of_rows(rtx: bool) -> None:
    runner = Bench(rtx=rtx).load()
    for count in (1, 8, 3, 3, 2):
        latents, timesteps = rows(count, count)
        (answer,) = runner(latents, timesteps)
        assert torch.equal(answer, compute({"latents": latents, "timesteps": timesteps})["prediction"])


def test_buffers_never_move_and_shapes_are_set_only_when_they_change() -> None:
    bench = Bench()
    runner = bench.load()
    addresses = {runner(*rows(count))[0].data_ptr() for count in (2, 2, 8, 1, 2)}
    assert len(addresses) == 1
    assert len([line for line in bench.module.log if line.startswith("shape latents")]) == 4
    assert len(bench.memory.buffers) == 3, "one for each tensor, of its largest shape"


def test_a_number_of_rows_that_was_refused_leaves_nothing_behind() -> None:
    bench = Bench()
    runner = bench.load()
    runner(*rows(2))
    context = runner._context
    take = context.set_input_shape
    context.set_input_shape = lambda name, shape: name != "timesteps" and take(name, shape)
    with pytest.raises(EngineMismatch, match="3 rows of timesteps"):
        runner(*rows(3))
    context.set_input_shape = take
    latents, timesteps = rows(2, 1.0)
    (answer,) = runner(latents, timesteps)
    assert torch.equal(answer, compute({"latents": latents, "timesteps": timesteps})["prediction"])


def test_work_goes_on_the_stream_that_is_current_now() -> None:
    bench = Bench()
    runner = bench.load()
    runner(*rows(1))
    bench.memory.current = 42
    runner(*rows(1))
    assert [line for line in bench.module.log if line.startswith("execute")] == ["execute 7", "execute 42"]


@pytest.mark.parametrize(
    "given",
    [
        (torch.zeros(9, 4, 2).half(), torch.zeros(9).long()),
        (torch.zeros(2, 4, 3).half(), torch.zeros(2).long()),
        (torch.zeros(2, 4, 2).half(), torch.zeros(3).long()),
        (torch.zeros(2, 4, 2).half(),),
    ],
)
def test_shapes_out_of_range_are_refused_before_anything_runs(given: tuple[torch.Tensor, ...]) -> None:
    bench = Bench()
    runner = bench.load()
    with pytest.raises(EngineMismatch, match="takes"):
        runner(*given)
    assert not any(line.startswith("execute") for line in bench.module.log)


@pytest.mark.parametrize("reason", ["VERSION_MISMATCH", "UNSUPPORTED_CC"])
def test_a_plan_of_another_version_or_card_is_refused_by_the_librarys_own_words(reason: str) -> None:
    with pytest.raises(EngineMismatch, match=reason.lower().replace("_", " ")):
        Bench(validity=("INVALID", reason)).load()


def test_what_is_no_plan_is_broken() -> None:
    with pytest.raises(EngineBroken, match="no plan"):
        Bench().load(b"nothing")
    with pytest.raises(EngineMismatch, match="magic number"):
        Bench(rtx=False).load(b"nothing")


def test_a_plan_with_other_inputs_than_its_manifest_names_is_broken() -> None:
    with pytest.raises(EngineBroken, match="does not name"):
        Bench().load(inputs=INPUTS[:1])
    more = (*INPUTS, TensorRange("texts", "float16", (1, 2), (1, 2), (8, 2)))
    with pytest.raises(EngineBroken, match="no input texts"):
        Bench().load(inputs=more)


def test_what_the_driver_compiled_is_kept_beside_the_engine_and_given_back(tmp_path: Path) -> None:
    file = tmp_path / "runtime" / "card.cache"
    first = Bench(file)
    first.load().close()
    assert read_kernels(file) == b"kernels"
    second = Bench(file)
    second.load()
    assert "runtime cache b'kernels'" in second.module.log


def test_kernels_are_compiled_for_the_rows_that_come_before_they_come(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "card.cache")
    runner = bench.load()
    compile_now(runner, [4, 1, 9, 4])
    shapes = [line for line in bench.module.log if line.startswith("shape latents")]
    assert shapes == ["shape latents (1, 4, 2)", "shape latents (4, 4, 2)"], "nine are more than it takes"
    assert bench.memory.waits == 1, "before another thread uses the buffers"
    assert read_kernels(tmp_path / "card.cache") == b"kernels"
    latents, timesteps = rows(4)
    assert torch.equal(
        runner(latents, timesteps)[0], compute({"latents": latents, "timesteps": timesteps})["prediction"]
    )
    compile_now(compute, [1])  # what is compiled already has nothing to do


def test_a_runtime_cache_that_is_not_whole_is_not_given_to_the_driver(tmp_path: Path) -> None:
    file = tmp_path / "card.cache"
    write_kernels(file, b"kernels")
    file.write_bytes(file.read_bytes()[:-1])
    bench = Bench(file)
    bench.load()
    assert not any(line.startswith("runtime cache") for line in bench.module.log)
    assert not write_kernels(tmp_path / "card.cache" / "below" / "a file", b"x"), "told, not raised"


@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="TensorRT-RTX is not installed")
class TestTheStandIn:
    """Every name and parameter that the stand-in offers is NVIDIA's."""

    MODULE: Any = find_library("tensorrt-rtx").module if is_installed("tensorrt-rtx") else None
    STAND_IN = make_module(compute, FakeMemory())

    @pytest.mark.parametrize(
        "name",
        [
            "CudaGraphStrategy",
            "DataType",
            "DynamicShapesKernelSpecializationStrategy",
            "EngineInvalidityDiagnostics",
            "EngineValidity",
            "TensorIOMode",
        ],
    )
    def test_its_enumerations_have_the_members_of_the_real_ones(self, name: str) -> None:
        real = set(getattr(self.MODULE, name).__members__)
        assert set(getattr(self.STAND_IN, name).__members__) <= real

    @pytest.mark.parametrize(
        "name", ["Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache", "ILogger"]
    )
    def test_its_classes_have_the_members_and_parameters_of_the_real_ones(self, name: str) -> None:
        real, fake = getattr(self.MODULE, name), getattr(self.STAND_IN, name)
        for member, value in vars(fake).items():
            if member.startswith("_"):
                continue
            assert hasattr(real, member), f"{name}.{member} is not NVIDIA's"
            if not inspect.isfunction(value):
                continue
            signatures = re.findall(
                rf"{member}\(self: [^)]*?\)", (getattr(real, member).__doc__ or "").replace("\n", " ")
            )
            wanted = list(inspect.signature(value).parameters)[1:]
            counts = {len(re.findall(r"(?:,|\*) *\w+:", text)) for text in signatures}
            assert not signatures or len(wanted) in counts, f"{name}.{member} takes {signatures}"

    def test_its_types_are_told_apart(self) -> None:
        kinds = self.MODULE.DataType
        assert torch_dtype(self.MODULE, kinds.HALF) is torch.float16
        assert torch_dtype(self.MODULE, kinds.INT64) is torch.int64
        with pytest.raises(EngineMismatch):
            torch_dtype(self.MODULE, kinds.FP8)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_on_a_gpu_the_engine_answers_as_the_network_also_from_a_cuda_graph(
    tiny_parts: TinyParts, baked: EngineCache
) -> None:
    device = torch.device("cuda")
    backend = TensorrtBackend("tensorrt-rtx")
    component = tiny_parts.component("sd15:unet")
    (entry,) = [
        entry for entry in baked.entries() if entry.key.component == "unet" and entry.key.weights == component.weights
    ]
    runner = backend.load(entry, device)
    inputs = tuple(tensor.to(device) for tensor in component.example(4))
    wanted = EagerRunner(component, device)(*inputs)
    assert relative_error(runner(*inputs), wanted) < 1e-2
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        runner(*inputs)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (answer,) = runner(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert relative_error([answer], wanted) < 1e-2
