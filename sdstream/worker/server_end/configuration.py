"""What of the server's settings a worker is told."""

import json

from sdstream.settings import Settings
from sdstream.worker.messages import Configure

WORKER_SETTINGS = {
    "models",
    "controlnets",
    "control_pictures",
    "default_model",
    "data_dir",
    "offline",
    "shipped_pins",
    "full_vae",
    "worker_overlap",
    "batch_size",
    "batch_window",
    "compile_networks",
    "cuda_graphs",
    "kernel_memsets",
    "fused_blocks",
    "eight_bit",
    "tuned_convolutions",
    "convolution_trial_seconds",
    "optical_flow",
    "share_processors",
    "safety_check_interval",
    "engine_builds",
    "engine_limit_gigabytes",
    "engine_local_dir",
    "engine_mirror",
    "engine_mirror_endpoint",
    "engine_mirror_region",
    "engine_volume_limit_gigabytes",
}
"""Settings that the worker is told: which models there are, where their files come from, how frames are run."""


def configuration(settings: Settings, memory_prefix: str) -> Configure:
    """A worker's first message; `memory_prefix` as in `Configure`."""
    told = json.dumps(settings.model_dump(mode="json", include=WORKER_SETTINGS))
    return Configure(settings.worker_device, told, memory_prefix)


__all__ = ["WORKER_SETTINGS", "configuration"]
