"""What a worker does in a slower way than it could, in words for the operator."""

from sdstream.commands.checks import FOR_EIGHT_BIT_CONVOLUTIONS, LEAST_FOR_EIGHT_BIT
from sdstream.commands.switches import switched_off
from sdstream.params import StreamParams
from sdstream.settings import Settings
from sdstream.worker.options import acceleration_notes


def slow_ways(
    settings: Settings, params: StreamParams, device: str, acceleration: str, capability: int | None = None
) -> tuple[str, ...]:
    """A line for each, with what changes it.

    `device` is torch's name for where the worker computes, `acceleration` what runs the networks (`LaneStatus`),
    `capability` the card's compute capability, 89 for 8.9. Says nothing of streams without a model.
    """
    if params.skip_diffusion:
        return ()
    notes = list(acceleration_notes(params, acceleration))
    if settings.full_vae:
        notes.append("the model's own VAE makes the pictures; SDSTREAM_FULL_VAE=false takes the small one")
    if not device.startswith("cuda"):
        return (f"the networks run on {device}; they are made for a CUDA GPU", *notes)
    notes += switched_off(settings)
    if not settings.tuned_convolutions:
        notes.append("convolutions are cuDNN's, whatever is faster; SDSTREAM_TUNED_CONVOLUTIONS=true changes that")
    if settings.cuda_graphs and acceleration.startswith("torch") and "cuda_graph" not in acceleration:
        notes.append("frames could not be captured; the worker's log says why")
    if settings.eight_bit == "off" and capability is not None and capability >= LEAST_FOR_EIGHT_BIT:
        value = "all" if capability == FOR_EIGHT_BIT_CONVOLUTIONS else "linear"
        notes.append(f"nothing is multiplied in eight bits; SDSTREAM_EIGHT_BIT={value} does, at a loss of precision")
    return tuple(notes)


__all__ = ["slow_ways"]
