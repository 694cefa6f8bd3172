"""What pictures take of memory beyond the weights."""

import os
import resource
from pathlib import Path

import torch

from bench.support.contenders import Contender, Work


def working_memory(contender: Contender, work: Work) -> float | None:
    """Megabytes that pictures take beyond the weights, at the peak. On a CPU in a child of this process, on Linux."""
    if work.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        for _ in range(3):
            contender.run(work.images[0])
        torch.cuda.synchronize()
        return round((torch.cuda.memory_reserved() - before) / 1e6, 1)
    if not hasattr(os, "fork") or not Path("/proc/self/status").exists():
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident_kilobytes()
        for _ in range(3):
            contender.run(work.images[0])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(writing, str(max(0, peak - before)).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    answer = os.read(reading, 64)
    os.close(reading)
    return round(int(answer) * 1024 / 1e6, 1) if answer else None


def resident_kilobytes() -> int:
    """What of this process is in memory now."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


__all__ = ["working_memory"]
