"""Proposals: a dense head over the feature maps tells the det tokens where to start.

One-to-one matching gives a detector few positive examples, and det tokens that start from learned reference points
must first find the objects. Here every position of the maps predicts a class and a box, taught with one-to-many
assignment (as in Co-DETR, arXiv 2211.12860), and the best distinct predictions become the first references of the
det tokens (the two-stage variant of Deformable DETR, arXiv 2010.04159, section 4.2; distinct as in DDQ, arXiv
2303.12776). It converges several times faster from random weights. It is an option of detkit: the published ViDT
has none.

Shape letters: b images, s positions of all levels, n det tokens, t objects (padded), c channels, k classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detkit.ops.boxes import box_iou, cxcywh_to_xyxy
from detkit.ops.linear import Linear
from detkit.vidt.decoder import HeadMlp, Memory, inverse_sigmoid
from detkit.vidt.losses.matching import Assignment, Targets

CANDIDATES = 4
DISTINCT_IOU = 0.8
MIN_SIDE, MAX_SIDE = 0.01, 0.99


@dataclass
class DensePredictions:
    """What each position predicts.

    Attributes:
        logits: [b, s, k].
        boxes: [b, s, 4], cxcywh relative to the unpadded image.
        points: [b, s, 2], the position itself, relative to the unpadded image.
        padding: [b, s], True where the position is padding.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor
    padding: Tensor


class ProposalHead(nn.Module):
    """Predicts at every position, and starts det tokens at the best distinct predictions."""

    def __init__(self, hidden_dim: int, num_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_embed = Linear(hidden_dim, num_classes)
        self.bbox_embed = HeadMlp(hidden_dim, hidden_dim, 4)
        self.content = nn.Sequential(Linear(hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim))
        self.position = nn.Sequential(Linear(2 * hidden_dim, hidden_dim), nn.ReLU(), Linear(hidden_dim, hidden_dim))
        nn.init.constant_(self.class_embed.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, memory: Memory) -> DensePredictions:
        anchors = grid_anchors(memory).expand(len(memory.features), -1, -1)
        hidden = self.norm(memory.features)
        boxes = (self.bbox_embed(hidden).float() + inverse_sigmoid(anchors)).sigmoid()
        return DensePredictions(self.class_embed(hidden), boxes, anchors[..., :2], memory.padding)

    def start(
        self, dense: DensePredictions, memory: Memory, det_bnc: Tensor, det_pos: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Det tokens and det positions with what was found at their proposals, and the references `[b, n, 4]`."""
        best = best_distinct(dense, det_bnc.shape[1])
        references = gather_rows(dense.boxes.detach(), best)
        det = det_bnc + self.content(gather_rows(memory.features, best))
        return det, det_pos + self.position(encode_boxes(references, det.shape[-1] // 2)), references


def gather_rows(x_bsc: Tensor, index_bn: Tensor) -> Tensor:
    """Rows of each image: `[b, n, c]`."""
    return x_bsc.gather(1, index_bn[..., None].expand(-1, -1, x_bsc.shape[-1]))


@torch.no_grad()
def best_distinct(dense: DensePredictions, number: int) -> Tensor:
    """`[b, number]` positions of the best scores; those that overlap a better one come last.

    Raises:
        ValueError: there are fewer positions than asked for.
    """
    positions = dense.logits.shape[1]
    if positions < number:
        raise ValueError(f"{number} det tokens need as many proposals, but the maps have only {positions} positions")
    scores = dense.logits.float().sigmoid().amax(-1).masked_fill(dense.padding, -1)
    scores, index = scores.topk(min(CANDIDATES * number, positions), dim=1)
    boxes = cxcywh_to_xyxy(gather_rows(dense.boxes, index))
    overlap = box_iou(boxes[:, :, None], boxes[:, None]).tril(-1).amax(-1)
    return index.gather(1, (scores - (overlap > DISTINCT_IOU).float()).topk(number, dim=1).indices)


def encode_boxes(boxes: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sinusoidal features `[..., 4 * dim]` of relative boxes."""
    period = temperature ** (2 * (torch.arange(dim, device=boxes.device) // 2) / dim)
    angle = boxes[..., None] * (2 * math.pi) / period
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-3)


def grid_anchors(memory: Memory) -> Tensor:
    """A box `[b, s, 4]` (cxcywh relative to the unpadded image) around each position, four cells wide and high."""
    anchors = []
    for level, (h, w) in enumerate(memory.shapes):
        x = torch.arange(w, device=memory.features.device) + 0.5
        y = torch.arange(h, device=memory.features.device) + 0.5
        grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1).view(1, h * w, 2)
        cells = grid.new_tensor([w, h]) * memory.valid_ratios[:, None, level]
        anchors.append(torch.cat([grid / cells, (4 / cells).expand(-1, h * w, -1)], dim=-1))
    return torch.cat(anchors, dim=1).clamp(MIN_SIDE, MAX_SIDE)


@torch.no_grad()
def assign_positions(dense: DensePredictions, targets: Targets, cost_bst: Tensor, positives: int) -> Assignment:
    """Give each object its `positives` cheapest positions inside its box; a contested one goes to whom it costs least.

    Args:
        cost_bst: from `matching_cost`.
    """
    corners = cxcywh_to_xyxy(targets.boxes)[:, None]
    points = dense.points[:, :, None]
    inside = ((points > corners[..., :2]) & (points < corners[..., 2:])).all(-1)
    counts = torch.tensor(targets.counts, device=cost_bst.device)[:, None]
    exists = torch.arange(cost_bst.shape[2], device=cost_bst.device) < counts
    allowed = inside & exists[:, None] & ~dense.padding[..., None]
    cost = cost_bst.nan_to_num(1e6, 1e6, -1e6).masked_fill(~allowed, math.inf)
    cheapest, positions = cost.topk(min(positives, cost.shape[1]), dim=1, largest=False)
    claims = torch.full_like(cost, math.inf).scatter_(1, positions, cheapest)
    # A column that nobody can claim, so that the minimum exists for images without objects.
    least, owner = torch.cat([claims, claims.new_full((*claims.shape[:2], 1), math.inf)], dim=2).min(dim=2)
    image, query = torch.where(least.isfinite())
    return Assignment(torch.zeros_like(image), image, query, owner[image, query])
