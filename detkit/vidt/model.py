"""ViDT: a backbone with [DET] tokens and an encoder-free deformable decoder (arXiv 2110.03921).

Shape letters: s stages, b images, n det tokens, c channels, h/w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkit.backbones.layers import resize_mask
from detkit.model import ImageModel, InputRule
from detkit.registry import register
from detkit.structures import Annotations, Detections, ImageBatch, LabelMap
from detkit.vidt.criterion import SetCriterion
from detkit.vidt.decoder import DecoderLayer, Memory, Mlp, inverse_sigmoid
from detkit.vidt.postprocess import postprocess
from detkit.vidt.proposals import ProposalHead
from detkit.vidt.stages import Stages


def projection(conv: type[nn.Module], channels: int, hidden_dim: int) -> nn.Sequential:
    """A 1 x 1 convolution and a group norm."""
    layer = conv(channels, hidden_dim, 1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.GroupNorm(min(32, hidden_dim // 8), hidden_dim))


@register
class ViDT(ImageModel):
    """The detector of the paper: every det token becomes one prediction, refined by each decoder layer.

    Args:
        backbone: gives `DetFeatures` from images and padding mask, and has `num_channels`, `det_channels`,
            `pos_dim`.
        num_classes: classifier outputs.
        hidden_dim: channels of the decoder.
        decoder_layers: stages after the backbone's own.
        heads, points, ffn_dim, dropout: of each decoder layer; `points` for each head and level.
        box_refine: each stage moves the boxes of the one before and has heads of its own. Without it all stages
            share their heads and start from the reference points.
        proposals: start the det tokens at the best predictions of a dense head (see `detkit.vidt.proposals`) instead
            of learned reference points, which is the published way.
        criterion: loss terms, by default `SetCriterion()`.
        top_k: detections kept for an image.
        input_rule: arguments of `InputRule`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        hidden_dim: int = 256,
        decoder_layers: int = 6,
        heads: int = 8,
        points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
        box_refine: bool = True,
        proposals: bool = False,
        criterion: SetCriterion | None = None,
        top_k: int = 100,
        input_rule: Mapping[str, Any] | None = None,
    ):
        if proposals and not box_refine:
            raise ValueError("proposals need box_refine: boxes to start from that no stage moves make no sense")
        super().__init__(LabelMap.numbered(num_classes), InputRule(**(input_rule or {})))
        self.backbone = backbone
        self.box_refine, self.top_k = box_refine, top_k
        self.criterion = criterion or SetCriterion()
        channels = backbone.num_channels
        self.input_proj = nn.ModuleList(projection(nn.Conv2d, c, hidden_dim) for c in channels)
        self.tgt_proj = projection(nn.Conv1d, backbone.det_channels, hidden_dim)
        self.query_pos_proj = projection(nn.Conv1d, backbone.pos_dim, hidden_dim)
        if proposals:
            self.proposals = ProposalHead(hidden_dim, num_classes)
        else:
            self.reference_points = nn.Linear(hidden_dim, 2)
            nn.init.xavier_uniform_(self.reference_points.weight)
        layer: dict[str, Any] = dict(heads=heads, points=points, ffn_dim=ffn_dim, dropout=dropout)
        self.decoder = nn.ModuleList(DecoderLayer(hidden_dim, len(channels), **layer) for _ in range(decoder_layers))
        self._add_heads(hidden_dim, num_classes)

    def _add_heads(self, hidden_dim: int, num_classes: int):
        stages = len(self.decoder) + 1
        own = stages if self.box_refine else 1
        class_heads = [nn.Linear(hidden_dim, num_classes) for _ in range(own)]
        box_heads = [Mlp(hidden_dim, hidden_dim, 4) for _ in range(own)]
        for head in class_heads:
            nn.init.constant_(head.bias, -math.log((1 - 0.01) / 0.01))
        if not self.has_proposals:
            nn.init.constant_(box_heads[0].layers[-1].bias[2:], -2.0)
        self.class_embed = nn.ModuleList(class_heads * (stages // own))
        self.bbox_embed = nn.ModuleList(box_heads * (stages // own))

    @property
    def has_proposals(self) -> bool:
        return hasattr(self, "proposals")

    def forward_stages(self, images: ImageBatch) -> Stages:
        """Predictions of every stage for normalised images."""
        found = self.backbone(images.images, images.mask)
        maps = [project(feature) for project, feature in zip(self.input_proj, found.features, strict=True)]
        memory = Memory.from_maps(maps, [resize_mask(images.mask, m.shape[2:]) for m in maps])
        det = self.tgt_proj(found.det.transpose(1, 2)).transpose(1, 2)
        det_pos = self.query_pos_proj(found.det_pos.transpose(1, 2)).transpose(1, 2)
        return self.decode(det, det_pos, memory)

    def decode(self, det_bnc: Tensor, det_pos: Tensor, memory: Memory) -> Stages:
        """Run the decoder; the boxes of a stage are where the next one looks."""
        dense = None
        if self.has_proposals:
            dense = self.proposals(memory)
            det_bnc, det_pos, references = self.proposals.start(dense, memory, det_bnc, det_pos)
        else:
            references = self.reference_points(det_pos).float().sigmoid().expand(len(det_bnc), -1, -1)
        logits, boxes = [], []
        for stage in range(len(self.decoder) + 1):
            if stage > 0:
                ratios = memory.valid_ratios.repeat(1, 1, references.shape[-1] // 2)
                det_bnc = self.decoder[stage - 1](det_bnc, det_pos, references[:, :, None] * ratios[:, None], memory)
            logits.append(self.class_embed[stage](det_bnc))
            boxes.append(self._refine(self.bbox_embed[stage](det_bnc).float(), references))
            if self.box_refine:
                references = boxes[-1].detach()
        return Stages(torch.stack(logits), torch.stack(boxes), dense)

    @staticmethod
    def _refine(change: Tensor, references: Tensor) -> Tensor:
        """Boxes `[b, n, 4]` from a change in logit space of reference points or boxes."""
        base = inverse_sigmoid(references)
        if base.shape[-1] == 2:
            base = torch.cat([base, torch.zeros_like(base)], dim=-1)
        return (change + base).sigmoid()

    def losses(
        self, images: ImageBatch, annotations: Sequence[Annotations], num_objects: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted loss terms; boxes of the annotations in pixels of the unpadded `images`."""
        return self.criterion(self.forward_stages(images), annotations, images.sizes, num_objects)

    def postprocess(self, stages: Stages, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections in pixels of images of (h, w) `original_sizes`."""
        return postprocess(stages, original_sizes, self.label_map, self.top_k)

    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        return self.postprocess(self.forward_stages(images), original_sizes)
