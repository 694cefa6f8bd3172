"""The networks of image processors have the tensors of the published weights: the names and shapes that the programs
expect for which those were published (controlnet_aux, and ai-forever's Real-ESRGAN), compared in November 2026."""

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sdstream.worker.annotators.drawing import AnimeNetwork, LineNetwork
from sdstream.worker.annotators.edges import EdgeNetwork
from sdstream.worker.annotators.enlarging import EnlargingNetwork
from sdstream.worker.annotators.parts import FACE_POINTS, HAND_POINTS, PartNetwork
from sdstream.worker.annotators.people import PeopleNetwork


@pytest.mark.parametrize(
    ("make", "tensors", "digest"),
    [
        (EdgeNetwork, 37, "d9be5c27ea740104"),
        (LineNetwork, 24, "e220333634d2b346"),
        (AnimeNetwork, 32, "682bced57978417a"),
        (lambda: EnlargingNetwork().enlarge, 702, "f62f31a2126d2c07"),
        (PeopleNetwork, 184, "b0d3690fba85f8b1"),
        (lambda: PartNetwork(HAND_POINTS), 104, "4f3f7ac43daf5e70"),
        (lambda: PartNetwork(FACE_POINTS), 104, "5d99fedd98cc0083"),
    ],
    ids=["ControlNetHED", "sk_model", "netG", "RealESRGAN_x2", "body_pose_model", "hand_pose_model", "facenet"],
)
def test_the_tensors_have_the_published_names_and_shapes(
    make: Callable[[], nn.Module], tensors: int, digest: str
) -> None:
    with torch.device("meta"):
        state = make().state_dict()
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    assert len(lines) == tensors
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest
