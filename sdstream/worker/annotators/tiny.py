"""Tiny networks with random weights in place of those that engines are made of: for tests, made in milliseconds."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sdstream.worker.annotators.depth import DepthNetwork
from sdstream.worker.annotators.enlarging import EnlargingNetwork
from sdstream.worker.annotators.parted import PartedNetwork
from sdstream.worker.annotators.poses import PoseNetwork

DEPTH_SIDE, POSE_SIDE = 42, 64
"""Pixels at which the tiny ones look."""


def make_depth_model() -> Any:
    """transformers' `DepthAnythingForDepthEstimation`, for pictures of 42 pixels and more."""
    from sdstream.diffusion.libraries import transformers

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
    """transformers' `RTDetrV2ForObjectDetection` of 12 queries and `VitPoseForPoseEstimation` for 48x64 pixels."""
    from sdstream.diffusion.libraries import transformers

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
        encoder_hidden_dim=32,
        encoder_ffn_dim=32,
        decoder_in_channels=[32] * 3,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
        d_model=32,
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


TINY_NETWORKS: Mapping[str, Callable[[], PartedNetwork]] = {
    "depth": lambda: DepthNetwork(make_depth_model(), side=DEPTH_SIDE),
    "pose": lambda: PoseNetwork(*make_pose_models(), side=POSE_SIDE),
    "realesrgan": lambda: EnlargingNetwork(8, 1, 4),
}
"""By the name of the network."""


def make_tiny_network(name: str, seed: int = 0) -> PartedNetwork:
    """The same for the same seed. Values keep their size from layer to layer, so that half precision can hold them."""
    random: Any = torch.random
    with random.fork_rng(devices=[]):
        random.manual_seed(seed)
        network = TINY_NETWORKS[name]()
        for part in network.modules():
            for weights in part.parameters(recurse=False):
                if weights.dim() == 4:  # convolutions are followed by what keeps half of the values
                    nn.init.normal_(weights, std=(2 / weights[0].numel()) ** 0.5)
                elif weights.dim() > 1:
                    nn.init.normal_(weights, std=0.5 * weights[0].numel() ** -0.5)
            if isinstance(part, nn.BatchNorm2d):
                part.reset_parameters()
        if isinstance(network, DepthNetwork):
            head: Any = network.look.model.head
            head.conv3.weight.data.abs_()  # else nearly all is below zero, and cut off
    return network.requires_grad_(False).eval()


__all__ = ["TINY_NETWORKS", "make_depth_model", "make_pose_models", "make_tiny_network"]
