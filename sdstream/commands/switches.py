"""Which fast ways of a GPU the settings have switched off, in words for the operator."""

from sdstream.settings import Settings


def switched_off(settings: Settings) -> tuple[str, ...]:
    """A line for each that is on by default, with the setting that brings it back; they matter on a CUDA GPU only."""
    switches = (
        ("cuda_graphs", settings.cuda_graphs, "frames are launched operation by operation"),
        ("kernel_memsets", settings.kernel_memsets or not settings.cuda_graphs, "the GPU waits around small memsets"),
        ("fused_blocks", settings.fused_blocks, "norms, attention and the small VAE run in torch's own steps"),
        ("worker_overlap", settings.worker_overlap, "the GPU waits for the host between two calls"),
        ("share_processors", settings.share_processors, "image processors run stream by stream"),
    )
    lines = [f"{what}; SDSTREAM_{name.upper()}=true changes that" for name, is_on, what in switches if not is_on]
    if settings.batch_size == 1:
        lines.append("streams do not share calls; SDSTREAM_BATCH_SIZE is 1")
    return tuple(lines)


__all__ = ["switched_off"]
