"""RT-DETR v2 of transformers in two halves, between which the likeliest places of the picture are chosen.

Which places are chosen, and in which order, depends on scores that are all but equal, so an engine that rounds
otherwise would answer with other rows: each half can be compared with its engine, both together could not.
"""

from typing import Any

import torch
from torch import nn


class LookingModule(nn.Module):
    """The first half: normalised pixels [N, 3, side, side] in. Out come what is seen at each of L places, over all
    scales, as the decoder takes it [N, L, D] and as candidates [N, L, D], and each place's best score [N, L]."""

    def __init__(self, model: Any, side: int) -> None:
        super().__init__()
        whole = model.model
        self.backbone = whole.backbone.model
        self.encoder_inputs = whole.encoder_input_proj
        self.encoder = whole.encoder
        self.decoder_inputs = whole.decoder_input_proj
        self.candidates = whole.enc_output
        self.scores = whole.enc_score_head
        _, valid = _anchors(model, side)
        self.valid: torch.Tensor
        self.register_buffer("valid", valid, persistent=False)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps = self.backbone(pixels).feature_maps
        encoded: Any = self.encoder([project(each) for project, each in zip(self.encoder_inputs, maps, strict=True)])
        seen = torch.cat(
            [
                project(each).flatten(2).transpose(1, 2)
                for project, each in zip(self.decoder_inputs, encoded.last_hidden_state, strict=True)
            ],
            1,
        )
        candidates = self.candidates(self.valid.to(seen.dtype) * seen)
        return seen, candidates, self.scores(candidates).max(-1).values


class DecodingModule(nn.Module):
    """The second half: what is seen [N, L, D], the chosen candidates [N, Q, D] and their anchors [N, Q, 4] in, the
    classes [N, Q, C] and the boxes [N, Q, 4], centre and size as shares of the picture, out."""

    def __init__(self, model: Any, side: int) -> None:
        super().__init__()
        self.boxes = model.model.enc_bbox_head
        self.decoder = model.model.decoder
        self.levels = _levels(model, side)
        sizes = torch.tensor(self.levels)
        self.sizes: torch.Tensor
        self.starts: torch.Tensor
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("starts", torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1])), persistent=False)

    def forward(
        self, seen: torch.Tensor, chosen: torch.Tensor, anchors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        answer = self.decoder(
            inputs_embeds=chosen,
            encoder_hidden_states=seen,
            reference_points=self.boxes(chosen) + anchors,
            spatial_shapes=self.sizes,
            spatial_shapes_list=self.levels,
            level_start_index=self.starts,
        )
        return answer.intermediate_logits[:, -1], answer.intermediate_reference_points[:, -1]


class Detector(nn.Module):
    """Both halves of `model`, an `RTDetrV2ForObjectDetection` that looks at pictures of `side` by `side` pixels.

    Raises `ValueError` for one that is made in a way that no published one is."""

    def __init__(self, model: Any, side: int) -> None:
        super().__init__()
        config = model.config
        if config.learn_initial_query or config.num_feature_levels != len(config.decoder_in_channels):
            raise ValueError("detectors with learned queries or further levels are not known here")
        self.looking = LookingModule(model, side)
        self.decoding = DecodingModule(model, side)
        self.queries = int(config.num_queries)
        self.width = int(config.d_model)
        anchors, _ = _anchors(model, side)
        self.anchors: torch.Tensor
        self.register_buffer("anchors", anchors, persistent=False)

    @property
    def places(self) -> int:
        """L of the halves."""
        return self.anchors.shape[1]

    def choose(self, candidates: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The candidates of the best scores, the best first, [N, Q, D], and their anchors [N, Q, 4]."""
        best = scores.topk(self.queries, dim=1).indices[..., None]
        anchors = self.anchors.to(candidates.dtype).expand(len(candidates), -1, -1)
        return (
            candidates.gather(1, best.expand(-1, -1, candidates.shape[2])),
            anchors.gather(1, best.expand(-1, -1, anchors.shape[2])),
        )


def _levels(model: Any, side: int) -> list[tuple[int, int]]:
    """Height and width of the picture at each scale: every halving rounds up, as the convolutions do."""
    return [(-(-side // stride), -(-side // stride)) for stride in model.config.feat_strides]


def _anchors(model: Any, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The anchors of all places, float32 [1, L, 4], and which of them are inside of the picture, bool [1, L, 1]."""
    anchors, valid = model.model.generate_anchors(tuple(_levels(model, side)))
    return anchors.clone(), valid.clone()


__all__ = ["DecodingModule", "Detector", "LookingModule"]
