"""The plain networks: what a frame calls is what diffusers' modules answer."""

from collections.abc import Callable

import pytest
import torch

from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.question import ControlResiduals, Question, Subject
from tests.diffusion.runs import distance, knobs_of


def question_to(model: Model) -> Question:
    """Of two rows."""
    generator = torch.Generator().manual_seed(0)
    knobs = knobs_of(model)
    subject = Subject(torch.tensor([999, 359]), knobs.prompt.expand(2, -1, -1))
    if model.family == "sdxl-turbo":
        subject = subject._replace(pooled=knobs.pooled_prompt.expand(2, -1), time_ids=knobs.time_ids.expand(2, -1))
    return Question(torch.randn(2, *model.latent_shape(64, 64), generator=generator), subject)


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo"])
def test_residuals_of_a_controlnet_reach_the_answer(tiny_model: Callable[..., Model], family: str) -> None:
    model = tiny_model(family)
    networks = EagerNetworks(model.unet, model.vae)
    assert networks.is_xl == (family == "sdxl-turbo")
    question = question_to(model)
    plain = networks.predict(question)
    # The widths of a tiny UNet's skip connections, from its first block to its last, and their sizes at 8 latents.
    shapes = [(16, 8), (16, 8), (16, 4), (32, 4)]
    down = [torch.zeros(2, width, side, side) for width, side in shapes]
    mid = torch.zeros(2, 32, 4, 4)
    assert torch.equal(networks.predict(question._replace(control=ControlResiduals(down, mid))), plain)
    for changed in (ControlResiduals([*down[:2], down[2] + 1, down[3]], mid), ControlResiduals(down, mid + 1)):
        assert distance(networks.predict(question._replace(control=changed)), plain) > 1e-4


def test_image_tokens_are_refused_and_not_left_out(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("sd-turbo")
    question = question_to(model)
    styled = question._replace(subject=question.subject._replace(image_tokens=torch.zeros(2, 4, 32)))
    with pytest.raises(NotImplementedError, match="IP-Adapter"):
        EagerNetworks(model.unet, model.vae).predict(styled)
