"""Makes a package for a GPU on a machine that has none: `python -m tests.engines.without_a_card PART DIRECTORY DRIVER`.

torch asks a GPU what it is, and tries programs on it. Here it is told of one (compute capability 9.0), every trial
takes the same time, and tensors on it have shapes and no memory. Everything else is torch's own and ours: the graph,
the kernels that Triton compiles, the C++ program, compiler and linker. Only the weights are left out of the package.

Needs torch for CUDA, with Triton. What is replaced are internals of torch 2.13, in a process of its own.
"""

import importlib
import operator
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._inductor.config as inductor
from torch._dynamo import device_interface, testing
from torch._inductor import graph
from torch._inductor.codegen import wrapper
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch.export.passes import move_to_device_pass

from builder.models import load_profile
from sdstream.engines import compiled, cuda_home
from sdstream.engines.backend import silent
from sdstream.engines.component import Component
from tests.engines.tiny_parts import profile_of

PROPERTIES = SimpleNamespace(
    name="an H200 that is not here",
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 << 20,
    total_memory=140 << 30,
)


class Launcher:
    """Launches nothing."""

    global_scratch_size = profile_scratch_size = 0
    launch_cooperative_grid = launch_pdl = False

    def __init__(self, *_: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> None: ...


class Guard(nullcontext[None]):
    """Makes no card the current one."""

    def __init__(self, *_: Any) -> None:
        super().__init__()


class Driver:
    """What Triton asks of a driver while it compiles."""

    launcher_cls = Launcher
    utils = SimpleNamespace(
        load_binary=lambda *_: (1, 1, 32, 0, 1024),
        get_device_properties=lambda _: {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32},
    )

    def get_current_target(self) -> Any:
        backends: Any = importlib.import_module("triton.backends.compiler")
        return backends.GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int = 0) -> int:
        return 0


def pretend(driver: Path) -> None:
    """Let torch and Triton compile for the card; `driver` is linked in the place of the driver's library."""

    def nothing(*_: Any, **__: Any) -> None: ...

    cuda: Any = torch.cuda
    triton: Any = importlib.import_module("triton")
    triton.runtime.driver.set_active(Driver())
    cuda.is_available = lambda: True
    cuda._get_device_properties = lambda _=None: PROPERTIES
    cuda.current_device = lambda: 0
    cuda.device_count = lambda: 1
    cuda.get_rng_state = lambda _=None: torch.zeros(16, dtype=torch.uint8)
    cuda._lazy_init = cuda.set_rng_state = cuda.synchronize = cuda.set_device = nothing
    cuda.device = cuda._DeviceGuard = Guard
    torch._C._cuda_getCurrentRawStream = lambda _: 0
    interface: Any = device_interface.CudaInterface
    interface.exchange_device = interface.maybe_exchange_device = staticmethod(lambda _: 0)
    worker = interface.Worker
    worker.get_device_properties = staticmethod(lambda _=None: PROPERTIES)
    worker.current_device = staticmethod(lambda: 0)
    triton_helpers.set_driver_to_gpu = triton_helpers.set_driver_to_cpu = nothing
    joint_graph.lazy_init = post_grad.lazy_init = nothing  # look for patterns by running them on the card
    triton_heuristics.CachingAutotuner.bench = lambda *_, **__: 1.0
    strided = testing.rand_strided
    testing.rand_strided = lambda size, stride, dtype, device, extra: strided(size, stride, dtype, "cpu", extra)
    code_writer: Any = wrapper
    code_writer.exec = lambda code, scope: exec(code.replace("'cuda:0', torch", "'cpu', torch"), scope)
    lowering: Any = graph
    lowering.is_same_tensor = operator.is_
    lowering.GraphLowering.can_inline_constant = staticmethod(lambda _: False)
    inductor.compile_threads = 1
    inductor.aot_inductor.package_constants_in_so = False
    cuda_home.driver_library = lambda: driver


def export_for_the_card(component: Component) -> Any:
    """The component's program, exported on the CPU, with all of it moved to the card."""
    program: Any = export_on_the_cpu(component)
    shapes = next(node.meta["val"].fake_mode for node in program.graph.nodes if "val" in node.meta)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        with shapes:
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
        return torch.nn.Parameter(made, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else made

    for name, tensor in list(program.state_dict.items()):
        program._state_dict[name] = moved(tensor)
    for name, tensor in list(program.constants.items()):
        program._constants[name] = moved(tensor)
    program._example_inputs = (tuple(moved(tensor) for tensor in program.example_inputs[0]), {})
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.scaled_dot_product_attention.default:
            choose_attention(program.graph, node, moved)
    program.graph_module.recompile()
    return move_to_device_pass(program, "cuda:0")


def choose_attention(graph: Any, node: Any, moved: Any) -> None:
    """Put an attention of the card in the place of one that torch chooses when it sees the card."""
    chosen = torch.ops.aten._scaled_dot_product_flash_attention.default
    assert len(node.args) == 3, "a mask, which it does not take"
    with graph.inserting_before(node):
        attention = graph.call_function(chosen, node.args, dict(node.kwargs))
        answer = graph.call_function(operator.getitem, (attention, 0))
    attention.meta["val"] = chosen(*(moved(given.meta["val"]) for given in node.args), **node.kwargs)
    answer.meta["val"] = attention.meta["val"][0]
    node.replace_all_uses_with(answer)
    graph.erase_node(node)


def main() -> None:
    """Make the package of a part of a tiny SD 1.5."""
    part, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    profile = profile_of("sd15", components=[part], controlnets=[])
    (component,) = load_profile(profile, "tensorrt-rtx", torch.device("cpu")).components
    pretend(Path(sys.argv[3]))
    compiled.export_program = export_for_the_card
    backend = compiled.CompiledBackend(torch.device("cuda", 0))
    module: Any = component.module
    module.to = lambda *_: module
    backend.build(component, backend.target(), folder, folder, silent)


export_on_the_cpu = compiled.export_program

if __name__ == "__main__":
    main()
