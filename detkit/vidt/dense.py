"""A dense auxiliary head: every position of the feature maps predicts a class and a box, in training only.

One-to-one matching gives a detector few positive examples and, from random weights, teaches its backbone slowly. A
head with one-to-many assignment beside it (Co-DETR, arXiv 2211.12860) gives the maps that the decoder reads a
direct signal. It is an option of detkit: the published ViDT recipe has none.

Shape letters: b images, s positions of all levels, t objects (padded), c channels, k classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detkit.ops.boxes import cxcywh_to_xyxy
from detkit.registry import register
from detkit.vidt.criterion import SetCriterion
from detkit.vidt.decoder import Memory, Mlp, inverse_sigmoid
from detkit.vidt.matching import Matches, Targets, matching_cost
from detkit.vidt.stages import Stages


@register
class DenseHead(nn.Module):
    """Class and box at every position of the decoder's memory, and their loss.

    Args:
        hidden_dim: channels of the memory.
        num_classes: classifier outputs.
        positives: positions that each object may claim: those inside its box with the lowest matching cost.
        weight: factor of all its loss terms.
    """

    def __init__(self, hidden_dim: int, num_classes: int, *, positives: int = 8, weight: float = 1.0):
        super().__init__()
        self.positives, self.weight = positives, weight
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes)
        self.bbox_embed = Mlp(hidden_dim, hidden_dim, 4)
        nn.init.constant_(self.class_embed.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, memory: Memory) -> tuple[Stages, Tensor]:
        """Predictions as one stage with s queries, and the position of each, `[b, s, 2]` relative to the image."""
        anchors = grid_anchors(memory)
        hidden = self.norm(memory.features)
        boxes = (self.bbox_embed(hidden).float() + inverse_sigmoid(anchors)).sigmoid()
        return Stages(self.class_embed(hidden)[None], boxes[None]), anchors[..., :2]

    def losses(
        self, memory: Memory, targets: Targets, criterion: SetCriterion, num_objects: Tensor
    ) -> dict[str, Tensor]:
        """Weighted loss terms, over the number of positions that objects claimed on average."""
        stages, points = self(memory)
        matches = self.assign(stages, points, memory.padding, targets, criterion)
        l1, giou = criterion.box_losses(stages, targets, matches)
        terms = {
            "loss_dense_ce": criterion.class_weight * criterion.class_loss(stages, targets, matches),
            "loss_dense_bbox": criterion.box_weight * l1,
            "loss_dense_giou": criterion.giou_weight * giou,
        }
        return {name: self.weight * term[0] / (num_objects * self.positives) for name, term in terms.items()}

    @torch.no_grad()
    def assign(
        self, stages: Stages, points_bs2: Tensor, padding_bs: Tensor, targets: Targets, criterion: SetCriterion
    ) -> Matches:
        """Give each object its cheapest positions; a position that several objects claim goes to the cheapest."""
        cost = matching_cost(stages.logits, stages.boxes, targets, **criterion.costs)[0]
        corners = cxcywh_to_xyxy(targets.boxes)[:, None]
        inside = ((points_bs2[:, :, None] > corners[..., :2]) & (points_bs2[:, :, None] < corners[..., 2:])).all(-1)
        real = (
            torch.arange(cost.shape[2], device=cost.device) < torch.tensor(targets.counts, device=cost.device)[:, None]
        )
        cost = cost.masked_fill(~(inside & real[:, None] & ~padding_bs[..., None]), math.inf)
        k = min(self.positives, cost.shape[1])
        claimed = torch.full_like(cost, math.inf)
        if cost.shape[2]:
            cheapest, positions = cost.topk(k, dim=1, largest=False)
            claimed.scatter_(1, positions, cheapest)
            best, owner = claimed.min(dim=2)
            image, query = torch.where(best.isfinite())
            target = owner[image, query]
        else:
            image = query = target = torch.zeros(0, dtype=torch.int64, device=cost.device)
        return Matches(torch.zeros_like(image), image, query, target)


def grid_anchors(memory: Memory) -> Tensor:
    """A box `[b, s, 4]` (cxcywh relative to the unpadded image) for each position: its cell, four times as wide."""
    anchors = []
    for level, (h, w) in enumerate(memory.shapes):
        y, x = torch.meshgrid(
            torch.arange(h, device=memory.features.device) + 0.5,
            torch.arange(w, device=memory.features.device) + 0.5,
            indexing="ij",
        )
        cells = memory.valid_ratios.new_tensor([w, h]) * memory.valid_ratios[:, level]
        centres = torch.stack([x, y], dim=-1).view(1, -1, 2) / cells[:, None]
        anchors.append(torch.cat([centres, (4 / cells)[:, None].expand_as(centres)], dim=-1))
    return torch.cat(anchors, dim=1).clamp(0.01, 0.99)
