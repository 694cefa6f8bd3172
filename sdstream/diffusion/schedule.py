"""The denoising schedule: which timesteps `t_index_list` means, and the numbers that each of them needs. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from sdstream.errors import first_line
from sdstream.model_errors import ModelUnavailable

Prediction = Literal["epsilon", "v_prediction"]
"""What the network answers: the noise, or the velocity between noise and picture."""

SHORT_SCHEDULE = 50
LONG_SCHEDULE = 100
"""The schedules that steps are picked from. A hundred for more than fifty steps, because it must divide the thousand
timesteps of training, else the schedule would not begin at pure noise."""
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
LEAST_SIGNAL = 1e-6
"""Checkpoints trained to a signal of exactly nothing at the last timestep would divide by it."""


class StepTables(NamedTuple):
    """The numbers of N denoising steps, float32 [N] each but `timesteps`, int64 [N].

    `alpha` and `beta` are the shares of picture and noise at the step, `next_alpha` and `next_beta` those of the step
    after (1 after the last), `skip` and `out` the boundary condition of a consistency model.
    """

    timesteps: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor
    next_alpha: torch.Tensor
    next_beta: torch.Tensor
    skip: torch.Tensor
    out: torch.Tensor


class Schedule:
    """The noise schedule that a model was trained with."""

    def __init__(self, signal: torch.Tensor, prediction: Prediction = "epsilon") -> None:
        """`signal` is the share of the picture's power at each timestep of training, float32 [T], falling."""
        self.signal = signal.clamp(min=LEAST_SIGNAL)
        self.prediction: Prediction = prediction

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Schedule":
        """From `scheduler_config.json` of any scheduler of diffusers. Raises `ModelUnavailable` for an unknown one, and
        for numbers that make no schedule."""
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise ModelUnavailable(f"the model predicts {prediction!r}; sdstream runs epsilon and v_prediction")
        try:
            betas = _betas(config)
        except (TypeError, ValueError, OverflowError, RuntimeError, IndexError) as error:
            raise ModelUnavailable(f"the model's noise schedule cannot be computed: {first_line(error)}") from error
        if betas.ndim != 1 or len(betas) < LONG_SCHEDULE:
            raise ModelUnavailable(
                f"the model's noise schedule has {betas.numel()} timesteps, and at least {LONG_SCHEDULE} are needed"
            )
        if not bool(((betas > 0.0) & (betas <= 1.0)).all()):  # nor is what is no number
            raise ModelUnavailable("the model's noise schedule adds shares of noise that are not from 0 to 1")
        signal = torch.cumprod(1.0 - betas, dim=0)
        if config.get("rescale_betas_zero_snr"):
            signal = _without_signal_at_the_end(signal)
        return cls(signal, prediction)

    def timesteps(self, steps: int) -> list[int]:
        """The `steps` timesteps of the whole schedule, 1 to 100, noisiest first."""
        if not 1 <= steps <= LONG_SCHEDULE:
            raise ValueError(f"a schedule has 1 to {LONG_SCHEDULE} steps, not {steps}")
        length = SHORT_SCHEDULE if steps <= SHORT_SCHEDULE else LONG_SCHEDULE
        stride = len(self.signal) // length
        picked = [math.floor(index * length / steps) for index in range(steps)]
        return [(length - index) * stride - 1 for index in picked]

    def tables(self, step_indices: Sequence[int], steps: int = SHORT_SCHEDULE) -> StepTables:
        """The numbers of the steps that `step_indices` point to, 0 being the noisiest of `steps`.

        An index beyond the last step means the last: the wire allows an index that equals the number of steps.
        """
        whole = self.timesteps(steps)
        timesteps = torch.tensor([whole[min(index, steps - 1)] for index in step_indices], dtype=torch.int64)
        signal = self.signal[timesteps]
        alpha, beta = signal.sqrt(), (1.0 - signal).sqrt()
        one = torch.ones(1)
        scaled = timesteps.float() * TIMESTEP_SCALING
        power = scaled**2 + SIGMA_DATA**2
        return StepTables(
            timesteps=timesteps,
            alpha=alpha,
            beta=beta,
            next_alpha=torch.cat((alpha[1:], one)),
            next_beta=torch.cat((beta[1:], one)),
            skip=SIGMA_DATA**2 / power,
            out=scaled / power.sqrt(),
        )


def _betas(config: Mapping[str, Any]) -> torch.Tensor:
    trained = config.get("trained_betas")
    if trained is not None:
        return torch.tensor(trained, dtype=torch.float32)
    count = int(config.get("num_train_timesteps", 1000))
    first, last = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    kind = config.get("beta_schedule", "scaled_linear")
    if kind == "linear":
        return torch.linspace(first, last, count)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, count) ** 2
    if kind == "squaredcos_cap_v2":
        places = torch.arange(count + 1, dtype=torch.float64) / count
        share = torch.cos((places + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - share[1:] / share[:-1]).clamp(max=0.999).float()
    raise ModelUnavailable(f"the model's noise schedule is {kind!r}, which sdstream does not know")


def _without_signal_at_the_end(signal: torch.Tensor) -> torch.Tensor:
    """Shifted and stretched so that the last timestep is pure noise and the first stays (arXiv 2305.08891)."""
    root = signal.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


__all__ = ["LONG_SCHEDULE", "SHORT_SCHEDULE", "Prediction", "Schedule", "StepTables"]
