"""Tiny networks with random weights in place of the annotators' own: the same code, made in milliseconds."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sdstream.worker.annotators.drawing import AnimeNetwork, LineNetwork
from sdstream.worker.annotators.edges import EdgeNetwork
from sdstream.worker.annotators.flow import FlowNetwork, make_flow
from sdstream.worker.annotators.landmarks import LANDMARKS, Landmark, PoseOptions
from sdstream.worker.annotators.parts import FACE_POINTS, HAND_POINTS, PartNetwork, WholeNetwork
from sdstream.worker.annotators.people import PeopleNetwork
from sdstream.worker.annotators.shelf import AnnotatorShelf, Loader
from sdstream.worker.annotators.tiny import TINY_NETWORKS, make_depth_model, make_pose_models, make_tiny_network
from sdstream.worker.files.published import FLOWS, PERSON_TASKS, POSE_TASKS


def person(shift: float = 0.0, seen: float = 0.9) -> tuple[Landmark, ...]:
    places = [(0.3 + shift + 0.4 * (index % 6) / 6, 0.1 + 0.8 * index / LANDMARKS, seen) for index in range(LANDMARKS)]
    return tuple(places)


class FakeLandmarker:
    def __init__(self, answers: list[tuple[Landmark, ...] | None], options: PoseOptions) -> None:
        self.options = options
        self.answers = answers

    def find(self, image: torch.Tensor) -> tuple[Landmark, ...] | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def tiny_part(points: int) -> PartNetwork:
    return PartNetwork(points, divisor=16)


def tiny_flow() -> FlowNetwork:
    """RAFT as torchvision makes its small one, a few channels wide. Raises `ModelUnavailable` without torchvision."""
    make_flow("raft_small")  # raises where it cannot be used
    raft: Any = importlib.import_module("torchvision.models.optical_flow.raft")
    network = raft._raft(
        feature_encoder_layers=(8, 8, 8, 8, 16),
        feature_encoder_block=raft.BottleneckBlock,
        feature_encoder_norm_layer=nn.InstanceNorm2d,
        context_encoder_layers=(8, 8, 8, 8, 16),
        context_encoder_block=raft.BottleneckBlock,
        context_encoder_norm_layer=None,
        corr_block_num_levels=4,
        corr_block_radius=2,
        motion_encoder_corr_layers=(8,),
        motion_encoder_flow_layers=(8, 8),
        motion_encoder_out_channels=8,
        recurrent_block_hidden_state_size=8,
        recurrent_block_kernel_size=(3,),
        recurrent_block_padding=(1,),
        flow_head_hidden_size=8,
        use_mask_predictor=False,
    )
    return FlowNetwork(network, updates=3)


class FakePose(nn.Module):
    """Gives landmarks in the place of MediaPipe: one answer after the other, the last for ever."""

    def __init__(self, *answers: tuple[Landmark, ...] | None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.made: list[PoseOptions] = []

    def landmarker(self, options: PoseOptions) -> Any:
        self.made.append(options)
        return FakeLandmarker(list(self.answers), options)


class FakePerson(nn.Module):
    """Sees a person in the left half of every picture."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mask = torch.full((1, 1, *image.shape[2:]), 0.2)
        mask[..., : image.shape[3] // 2] = 0.8
        return mask


def _seeded(make: Any) -> Loader:
    def load(find: Any, dtype: torch.dtype) -> nn.Module:
        random: Any = torch.random
        with random.fork_rng(devices=[]):
            random.manual_seed(0)
            return make()

    return load


def _tiny(name: str) -> Loader:
    return lambda find, dtype: make_tiny_network(name).to(dtype)


TINY_LOADERS: Mapping[str, Loader] = {
    **{name: _tiny(name) for name in TINY_NETWORKS},
    "hed": _seeded(lambda: EdgeNetwork(divisor=16)),
    "lineart": _seeded(lambda: LineNetwork(8, 1)),
    "lineart_coarse": _seeded(lambda: LineNetwork(8, 1)),
    "lineart_anime": _seeded(lambda: AnimeNetwork(2)),
    **{name: _seeded(lambda: FakePose(person())) for name in POSE_TASKS},
    **{name: _seeded(FakePerson) for name in PERSON_TASKS},
    "openpose": _seeded(lambda: WholeNetwork(PeopleNetwork(divisor=16))),
    "openpose_hands": _seeded(lambda: WholeNetwork(PeopleNetwork(divisor=16), tiny_part(HAND_POINTS))),
    "openpose_face": _seeded(lambda: WholeNetwork(PeopleNetwork(divisor=16), None, tiny_part(FACE_POINTS))),
    "openpose_hands_face": _seeded(
        lambda: WholeNetwork(PeopleNetwork(divisor=16), tiny_part(HAND_POINTS), tiny_part(FACE_POINTS))
    ),
    **{name: _seeded(tiny_flow) for name in FLOWS},
}


def tiny_shelf() -> AnnotatorShelf:
    return AnnotatorShelf(torch.device("cpu"), loaders=TINY_LOADERS)


__all__ = [
    "TINY_LOADERS",
    "FakePerson",
    "FakePose",
    "make_depth_model",
    "make_pose_models",
    "person",
    "tiny_flow",
    "tiny_shelf",
]
