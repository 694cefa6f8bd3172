"""The settings of the worker process: its engines, its device, how streams share it, how it is watched."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sdstream.urls import check_bucket_endpoint, split_bucket


class WorkerSettings(BaseModel):
    """A part of `Settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_mirror: str | None = Field(
        default=None,
        description="Bucket that engines are fetched from, as s3://BUCKET/PREFIX; access keys come from where the AWS "
        "tools look for them. Unset: none.",
    )
    engine_mirror_endpoint: str | None = Field(
        default=None, description="Address of the bucket's S3 where that is not Amazon's, such as RunPod's."
    )
    engine_mirror_region: str | None = Field(
        default=None, description="Region of the bucket; for RunPod's S3 the data centre, such as EU-RO-1."
    )
    engine_builds: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="Whether engines that are found nowhere are built while streams run without them; auto builds on a "
        "GPU only, because on a CPU a build takes the cores that make the pictures.",
    )
    engine_local_dir: Path | None = Field(
        default=None,
        description="Directory on a local disk that engines are copied to before they are used. Unset: the user's "
        "cache directory.",
    )
    engine_limit_gigabytes: float = Field(
        default=50.0, gt=0, description="Size of the local copies above which those used longest ago are removed."
    )
    engine_volume_limit_gigabytes: float | None = Field(
        default=None,
        gt=0,
        description="Size of the engines in the data directory above which workers remove those used longest ago, but "
        "none that a worker has in force or used in the last half hour. Unset: no limit.",
    )

    worker_device: str = Field(default="auto", description="Device of the worker: auto, cpu, cuda, cuda:1, mps.")
    worker_threads: int | None = Field(
        default=None, ge=1, description="CPU threads of the worker's torch. Unset: half of the cores, at least one."
    )
    worker_ping_timeout: float = Field(
        default=2.0,
        gt=0.2,
        description="Seconds without a sign of life before a ready worker is killed and started again.",
    )
    worker_start_timeout: float = Field(
        default=120.0, gt=1, description="Seconds a starting worker may take before it is killed and started again."
    )

    worker_overlap: bool = Field(
        default=True,
        description="Give a GPU its next call while it works on the one before. Off: one call after the other.",
    )
    batch_size: int = Field(
        default=8, ge=1, le=64, description="Most streams in one call of the networks; 1 switches batching off."
    )
    stream_frame_rate: float = Field(
        default=10.0,
        ge=0,
        le=240,
        description="Pictures a second that the worker must be able to make of each stream, by what its calls were "
        "measured to take, before one more is taken; else 429. 0 takes streams whatever they cost.",
    )
    batch_window: float = Field(
        default=0.002,
        ge=0,
        le=0.1,
        description="Seconds that a call may be held for streams of its kind whose next picture is just about to come. "
        "A stream alone never waits, and nobody waits for one that is late.",
    )
    control_pictures: Literal["aligned", "newest"] = Field(
        default="aligned",
        description="Which control picture a ControlNet uses for a denoising step: the one that came with the step's "
        "own picture, or the newest, which takes effect sooner (by the steps less one) but misses what moves fast.",
    )
    share_processors: bool = Field(
        default=True,
        description="Run an image processor once for all streams of a call that have it. Off: stream by stream.",
    )
    optical_flow: Literal["dis", "raft_small", "raft_large"] = Field(
        default="dis",
        description="What finds the motion for temporal_net_tensorrt: OpenCV's dense inverse search on the host, or "
        "RAFT on the device, for which sdstream[raft] and its weights are needed; without them dis does it.",
    )
    compile_networks: bool = Field(
        default=False,
        description="Run frames through torch.compile. Where this project's own steps and attention are in force (CUDA "
        "GPUs with Triton) it was slower than those; and the first picture of each kind of stream waits for the "
        "compiler, up to minutes. Needs a C++ compiler on a CPU.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="Capture frames on a CUDA GPU and replay them, one launch a frame. Off: hundreds of launches.",
    )
    kernel_memsets: bool = Field(
        default=True,
        description="In captured frames, let kernels clear the small buffers that CUDA's libraries clear by memset "
        "nodes, around which a GPU waits for microseconds. Off: graphs as they were captured.",
    )
    fused_blocks: bool = Field(
        default=True,
        description="Run norms, attention and the small VAE on a CUDA GPU in fused steps of this project's own, and "
        "compute what depends on parameters only once for each change. Off: torch's own operations one by one, in "
        "every frame.",
    )
    tuned_convolutions: bool = Field(
        default=False,  # a model's first picture waits half a minute for trials, once
        description="On a CUDA GPU, try this project's convolutions against cuDNN's for each shape while a model is "
        "prepared, beside running streams, and take the faster. What was found out is kept in the data directory. Off: "
        "cuDNN's alone. Needs fused_blocks.",
    )
    convolution_trial_seconds: float = Field(
        default=30.0,
        ge=0,
        le=40,
        description="Seconds that each preparation of a model may spend on such trials; what is not reached is tried "
        "at the next one. 0: only what is known from earlier preparations.",
    )
    eight_bit: Literal["off", "linear", "all"] = Field(
        default="off",
        description="Multiply in eight bits (float8) in the linear layers of UNets and ControlNets, where a GPU of "
        "compute capability 8.9 or later does that faster: linear. All: in the convolutions of their residual blocks, "
        "too, on Hopper (9.0). It changes pictures a little, and costs a byte more for each weight of those layers. "
        "Off: half precision.",
    )
    safety_check_interval: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="The safety checker looks at each n-th picture of a stream; what it found counts until the next "
        "look.",
    )
    worker_spare: bool = Field(
        default=True,
        description="Keep a second, idle worker process with torch imported, so that a restart takes a fraction of a "
        "second; costs some 200 MB of memory.",
    )

    @field_validator("engine_mirror")
    @classmethod
    def _check_mirror(cls, value: str | None) -> str | None:
        if value is not None:
            split_bucket(value)
        return value

    @field_validator("engine_mirror_endpoint")
    @classmethod
    def _check_mirror_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else check_bucket_endpoint(value)

    @field_validator("worker_device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
            raise ValueError("must be auto, cpu, mps, cuda or cuda:NUMBER")
        return value


__all__ = ["WorkerSettings"]
