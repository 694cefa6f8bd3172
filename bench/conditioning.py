"""What each thing that steers a stream costs per picture, beside the operations that it adds; and whether memory stays.

    python -m bench.conditioning                    tiny random networks, on the CPU
    python -m bench.conditioning --cycles 500       memory over so many on/off cycles of each, too
    python -m bench.conditioning --prepared         what ControlNets save that are prepared once for each change of a
                                                    knob, and steps that follow each other (support/preparing.py)
    python -m bench.conditioning --processors       image processors of one, two and four streams instead: stream by
                                                    stream, and together (support/looking.py)
    python -m bench.conditioning --processors --device cuda --sides 512     the same in full size, on a GPU

Times are medians of interleaved runs: each round times the plain frame and every addition once, in turn, so a busy
machine slows all of them. Only the ratios mean anything beyond this machine. Operations are torch's own count of the
same networks.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.support.preparing import STEPS, Case, case_of, compare_preparing, knobs_of
from sdstream.diffusion.adapters import layer_strengths, make_adapter
from sdstream.diffusion.attention import bank_length, self_layers
from sdstream.diffusion.conditioned import ConditionedNetworks
from sdstream.diffusion.controls import Controls
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.state import Recall, Steering, Style
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import EMBEDDING, make_tiny_adapter, make_tiny_controlnet
from sdstream.worker.devices import Device
from sdstream.worker.server_end.child import KEEP_MEMORY


def make_case(model: Model, size: int, *, nets: int = 0, style: bool = False, recalled: int = 0) -> Case:
    """A frame with these additions, to be run on one picture again and again."""
    options: dict[str, Any] = {}
    latent = model.latent_shape(size, size)[1:]
    layers: Any = ()
    if nets:
        options["steering"] = Steering(torch.full((len(STEPS), nets), 0.5), 3 * nets, size, size)
    if style:
        adapter = make_adapter(model.unet, make_tiny_adapter(model.unet))
        layers = adapter.layers
        strengths = layer_strengths(adapter.layer_names, "linear", 0.7, model.family)
        options["style"] = Style(*adapter.tokens(torch.randn(EMBEDDING)), strengths)
    if recalled:
        options["recall"] = Recall(recalled, bank_length(self_layers(model.unet, *latent)), 1)
    networks = (
        ConditionedNetworks(model.unet, model.vae, image_layers=layers, recalls=latent if recalled else None)
        if style or recalled
        else EagerNetworks(model.unet, model.vae)
    )
    controls = Controls([make_tiny_controlnet(model.unet, seed=seed) for seed in range(nets)]) if nets else None
    frame = Frame(networks, slots=len(STEPS), prediction=model.schedule.prediction, controls=controls)
    return case_of(frame, knobs_of(model, size, **options), size)


def additions(model: Model, size: int) -> dict[str, Callable[[], Case]]:
    return {
        "plain": lambda: make_case(model, size),
        "one ControlNet": lambda: make_case(model, size, nets=1),
        "two ControlNets": lambda: make_case(model, size, nets=2),
        "style image": lambda: make_case(model, size, style=True),
        "1 earlier picture": lambda: make_case(model, size, recalled=1),
        "4 earlier pictures": lambda: make_case(model, size, recalled=4),
    }


def operations(case: Case) -> float:
    # The counter does not know the CPU's own attention, so it is given the one that is made of products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        case()
    return float(counter.get_total_flops())


def compare(model: Model, size: int, rounds: int) -> None:
    cases = {name: make() for name, make in additions(model, size).items()}
    counts = {name: operations(case) for name, case in cases.items()}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - started)
    print(f"{'':22}{'ms':>9}{'ratio':>9}{'operations':>12}")
    plain = statistics.median(times["plain"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:22}{median * 1e3:9.1f}{median / plain:9.2f}{counts[name] / counts['plain']:12.2f}")


def cycle(model: Model, size: int, cycles: int) -> None:
    """Make, run and drop each addition so often, and say how much more memory the process holds than after a few."""
    process = psutil.Process()
    for name, make in additions(model, size).items():
        held: list[float] = []
        for number in range(cycles):
            make()()
            if number in (cycles // 10, cycles - 1):
                gc.collect()
                held.append(process.memory_info().rss / 1e6)
        print(f"{name:22}{held[-1] - held[0]:+9.1f} MB from cycle {cycles // 10} to {cycles}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cycles", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="sides of the picture; memory is looked at with 64")
    parser.add_argument("--width", type=int, default=32, help="channels of the UNet's first block")
    parser.add_argument("--processors", action="store_true", help="image processors, and nothing else")
    parser.add_argument("--names", default="", help="which image processors, with commas between; all if none")
    parser.add_argument("--prepared", action="store_true", help="what is prepared, and nothing else")
    parser.add_argument("--device", default="cpu", help="of the image processors")
    parser.add_argument("--sides", default="64,128,256,512", help="sides of the image processors' pictures")
    parser.add_argument("--streams", default="1,2,4", help="streams whose image processors run")
    arguments = parser.parse_args()
    if arguments.processors and not KEEP_MEMORY.keys() <= os.environ.keys():  # as the worker has it from its start
        os.execve(sys.executable, [sys.executable, "-m", "bench.conditioning", *sys.argv[1:]], os.environ | KEEP_MEMORY)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if arguments.processors:
        from bench.support.looking import NAMES, compare_processors

        device = Device.choose(arguments.device)
        print(f"image processors, torch {torch.__version__}, {device.processor}, load {os.getloadavg()[0]:.1f}")
        sides, streams = ([int(each) for each in text.split(",")] for text in (arguments.sides, arguments.streams))
        names = arguments.names.split(",") if arguments.names else NAMES
        compare_processors(device.torch_device, sides, streams, arguments.rounds, names)
        return 0
    if arguments.prepared:
        print(f"prepared or not, torch {torch.__version__}, CPU, one thread, load {os.getloadavg()[0]:.1f}")
        compare_preparing([64, 128], arguments.rounds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_model(Path(folder, "model"), "sd15", width=arguments.width)
        model = load_model(Path(folder, "model"), "sd15", torch.device("cpu"))
        kind = f"tiny sd15 of width {arguments.width}, {arguments.size}x{arguments.size}, {len(STEPS)} steps"
        print(f"{kind}, torch {torch.__version__}, CPU")
        compare(model, arguments.size, arguments.rounds)
        if arguments.cycles:
            cycle(model, 64, arguments.cycles)
    return 0


if __name__ == "__main__":
    sys.exit(main())
