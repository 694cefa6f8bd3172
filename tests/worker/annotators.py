"""Tiny networks with random weights in place of the annotators' own: the same code, made in milliseconds."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.libraries import transformers
from sdstream.worker.annotators.depth import DepthNetwork
from sdstream.worker.annotators.drawing import AnimeNetwork, LineNetwork
from sdstream.worker.annotators.edges import EdgeNetwork
from sdstream.worker.annotators.enlarging import EnlargingNetwork
from sdstream.worker.annotators.flow import FlowNetwork, make_flow
from sdstream.worker.annotators.landmarks import LANDMARKS, Landmark, PoseOptions
from sdstream.worker.annotators.parts import FACE_POINTS, HAND_POINTS, PartNetwork, WholeNetwork
from sdstream.worker.annotators.people import PeopleNetwork
from sdstream.worker.annotators.poses import PoseNetwork
from sdstream.worker.annotators.shelf import AnnotatorShelf, Loader
from sdstream.worker.published import FLOWS, PERSON_TASKS, POSE_TASKS


def make_depth_model() -> Any:
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=42,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, reassemble_hidden_size=16
    )
    return transformers.DepthAnythingForDepthEstimation(config).eval()


def make_pose_models() -> tuple[Any, Any]:
    resnet = transformers.RTDetrResNetConfig(
        layer_type="basic",
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        embedding_size=8,
        out_features=["stage2", "stage3", "stage4"],
    )
    detector = transformers.RTDetrV2Config(
        backbone_config=resnet,
        encoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        decoder_in_channels=[16] * 3,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        num_denoising=0,
        id2label={0: "person", 1: "bicycle"},
        label2id={"person": 0, "bicycle": 1},
    )
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    joints = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=True)
    return (
        transformers.RTDetrV2ForObjectDetection(detector).eval(),
        transformers.VitPoseForPoseEstimation(joints).eval(),
    )


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


TINY_LOADERS: Mapping[str, Loader] = {
    "depth": _seeded(lambda: DepthNetwork(make_depth_model(), side=42)),
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
    "pose": _seeded(lambda: PoseNetwork(*make_pose_models())),
    "realesrgan": _seeded(lambda: EnlargingNetwork(8, 1, 4)),
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
