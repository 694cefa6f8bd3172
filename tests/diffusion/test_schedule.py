"""The tables of the denoising steps, against diffusers' own LCM scheduler."""

from typing import Any

import pytest
import torch

from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.schedule import Schedule
from sdstream.model_errors import ModelUnavailable

SD: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
CONFIGS = [
    SD,
    SD | {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    SD | {"beta_schedule": "squaredcos_cap_v2"},
    SD | {"trained_betas": [0.001 + index * 1e-5 for index in range(1000)]},
]


def reference(config: dict[str, Any], steps: int) -> Any:
    scheduler = diffusers.LCMScheduler.from_config(config)
    scheduler.set_timesteps(steps, original_inference_steps=50 if steps <= 50 else 100)
    return scheduler


def test_timesteps_are_those_of_the_lcm_scheduler() -> None:
    schedule = Schedule.from_config(SD)
    for steps in range(1, 101):
        assert schedule.timesteps(steps) == reference(SD, steps).timesteps.tolist()


def test_every_schedule_begins_at_pure_noise_and_falls() -> None:
    schedule = Schedule.from_config(SD)
    for steps in range(1, 101):
        timesteps = schedule.timesteps(steps)
        assert timesteps[0] == 999
        assert timesteps == sorted(set(timesteps), reverse=True)
        assert timesteps[-1] >= 0


@pytest.mark.parametrize("config", CONFIGS)
def test_tables_are_those_of_the_lcm_scheduler(config: dict[str, Any]) -> None:
    scheduler = reference(config, 50)
    tables = Schedule.from_config(config).tables([0, 16, 32, 45])
    share = scheduler.alphas_cumprod[tables.timesteps].clamp(min=1e-6)
    torch.testing.assert_close(tables.alpha, share.sqrt(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(tables.beta, (1 - share).sqrt(), rtol=1e-6, atol=1e-7)
    for index, timestep in enumerate(tables.timesteps):
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        torch.testing.assert_close(tables.skip[index], skip)
        torch.testing.assert_close(tables.out[index], out)


def test_the_next_step_of_the_last_is_the_picture() -> None:
    tables = Schedule.from_config(SD).tables([4, 30])
    assert tables.next_alpha.tolist() == [tables.alpha[1].item(), 1.0]
    assert tables.next_beta.tolist() == [tables.beta[1].item(), 1.0]


def test_an_index_that_equals_the_number_of_steps_means_the_last() -> None:
    schedule = Schedule.from_config(SD)
    assert schedule.tables([20], steps=20).timesteps.tolist() == [schedule.timesteps(20)[-1]]


def test_a_checkpoint_without_signal_at_the_end_stays_finite() -> None:
    config = SD | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    schedule = Schedule.from_config(config)
    share = diffusers.LCMScheduler.from_config(config).alphas_cumprod
    torch.testing.assert_close(schedule.signal, share.clamp(min=1e-6), rtol=1e-3, atol=1e-6)
    assert schedule.tables([0]).alpha.item() == pytest.approx(1e-3)


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_a_schedule_of_impossible_length_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        Schedule.from_config(SD).timesteps(steps)


@pytest.mark.parametrize(("member", "value"), [("prediction_type", "sample"), ("beta_schedule", "sigmoid")])
def test_an_unknown_kind_of_model_is_refused_by_name(member: str, value: str) -> None:
    with pytest.raises(ModelUnavailable, match=value):
        Schedule.from_config(SD | {member: value})


@pytest.mark.parametrize(
    "change",
    [
        {"num_train_timesteps": 0},
        {"num_train_timesteps": 99},
        {"num_train_timesteps": -1},
        {"num_train_timesteps": "many"},
        {"num_train_timesteps": None},
        {"beta_start": float("nan")},
        {"beta_end": 2.0},
        {"beta_start": -1.0, "beta_schedule": "linear"},
        {"trained_betas": []},
        {"trained_betas": "none"},
        {"trained_betas": [[0.1, 0.2]]},
    ],
)
def test_numbers_that_make_no_schedule_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelUnavailable, match="the model's noise schedule"):
        Schedule.from_config(SD | change)
