"""Load every engine of a cache that this GPU takes, once: `python -m sdstream.engines.warming DIRECTORY`.

The first calls of a TensorRT-RTX engine compile its kernels for the card, which the next start finds beside the engine.
"""

import sys
from pathlib import Path

import torch

from sdstream.clock import Clock, SystemClock
from sdstream.engine_errors import EngineError
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import DTYPES
from sdstream.engines.kernels import compile_now
from sdstream.engines.keys import TensorRange
from sdstream.engines.registry import backends_for, capability_of, make_backend
from sdstream.engines.targets import takes_capability


def warm(directory: Path, device: torch.device, clock: Clock) -> int:
    """How many engines could not be loaded; one line is printed for each."""
    cache, failed = EngineCache(directory), 0
    names = backends_for(device)
    for entry in cache.entries():
        key = entry.key
        if key.backend not in names or not takes_capability(key.target, capability_of(device)):
            continue
        began = clock.monotonic()
        try:
            if not cache.verify(entry):
                raise EngineError("is broken and was put aside")
            runner = make_backend(key.backend, device).load(entry, device)
            runner(*(torch.zeros(item.best, dtype=DTYPES[item.dtype], device=device) for item in key.inputs))
            compile_now(runner, usual_rows(key.inputs[0]))
            runner.close()
        except EngineError as error:
            failed += 1
            print(f"{entry.name}: {error.message}", file=sys.stderr)
        else:
            print(f"{entry.name}: loaded in {clock.monotonic() - began:.1f} s", file=sys.stderr)
    return failed


def usual_rows(first: TensorRange) -> set[int]:
    """Numbers of rows that calls usually have, of an engine whose first input this is: which streams there will be is
    not known yet."""
    doubled = {first.least[0] << power for power in range(first.most[0].bit_length())}
    return {first.best[0], first.most[0]} | {rows for rows in doubled if rows <= first.most[0]}


def main() -> None:
    """Ends with 1 when an engine that this GPU takes could not be loaded."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_grad_enabled(False)
    sys.exit(int(warm(Path(sys.argv[1]), device, SystemClock()) > 0))


if __name__ == "__main__":
    main()


__all__ = ["usual_rows", "warm"]
