"""Proposals: a dense head over the feature maps gives the det tokens their first boxes.

Every position of the maps predicts a class and a box. The head is trained with one-to-many assignment (as in Co-DETR,
arXiv 2211.12860). The best predictions that do not overlap become the first references of the det tokens (two-stage
Deformable DETR, arXiv 2010.04159, section 4.2; distinct queries as in DDQ, arXiv 2303.12776). From random weights a
detector with proposals converges several times faster: it gets more positive examples than one-to-one matching gives,
and det tokens need not find the objects first. This is an option of detkit; the published ViDT has no proposals.

Shape letters: b images, s positions of all levels, n det tokens, q queries, t objects (padded), c channels,
k classes.
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
    """The predictions of all positions of the feature maps.

    Attributes:
        logits: [b, s, k].
        boxes: [b, s, 4], cxcywh relative to the unpadded image, in 0..1.
        points: [b, s, 2], x y of the position itself, relative to the unpadded image.
        padding: [b, s] bool, True on padding.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor
    padding: Tensor


@dataclass
class Queries:
    """What the decoder starts from.

    Attributes:
        content: [b, q, c].
        positions: [b or 1, q, c], position embeddings.
        references: [b, q, 4] boxes (cxcywh) or [b, q, 2] points, relative to the unpadded image, in 0..1.
    """

    content: Tensor
    positions: Tensor
    references: Tensor


class ProposalHead(nn.Module):
    """Predicts a class and a box at every position, and starts the det tokens at the best of them."""

    def __init__(self, hidden_dim: int, num_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_embed = Linear(hidden_dim, num_classes)
        self.bbox_embed = HeadMlp(hidden_dim, hidden_dim, 4)
        self.content = nn.Sequential(Linear(hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim))
        self.position = nn.Sequential(Linear(2 * hidden_dim, hidden_dim), nn.ReLU(), Linear(hidden_dim, hidden_dim))
        nn.init.constant_(self.class_embed.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, memory: Memory) -> DensePredictions:
        """A class and a box for every position; boxes start from an anchor of 4 x 4 cells, see `grid_anchors`."""
        anchors = grid_anchors(memory).expand(memory.features.shape[0], -1, -1)
        hidden = self.norm(memory.features)
        boxes = (self.bbox_embed(hidden).float() + inverse_sigmoid(anchors)).sigmoid()
        return DensePredictions(self.class_embed(hidden), boxes, anchors[..., :2], memory.padding)

    def start(self, dense: DensePredictions, memory: Memory, det_bnc: Tensor, det_pos: Tensor, number: int) -> Queries:
        """Choose a proposal for each query.

        Args:
            dense: the predictions of `forward`.
            memory: the maps that they were made from.
            det_bnc: [DET] tokens.
            det_pos: [1, n, c], their position embeddings.
            number: of queries; query i starts from token i modulo n.

        Returns:
            The tokens with the features of their proposals added, their positions with the embedded boxes added, and
            the proposals themselves. Where the maps have fewer positions than there should be queries, only the first.
        """
        best = best_distinct(dense, number)
        token = torch.arange(best.shape[1], device=best.device) % det_bnc.shape[1]
        references = gather_rows(dense.boxes.detach(), best)
        content = det_bnc[:, token] + self.content(gather_rows(memory.features, best))
        return Queries(content, det_pos[:, token] + self.embed_boxes(references), references)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Position embeddings `[b, q, c]` of boxes `[b, q, 4]` (cxcywh in 0..1)."""
        return self.position(encode_boxes(boxes, self.position[-1].out_features // 2))


def gather_rows(x_bsc: Tensor, index_bn: Tensor) -> Tensor:
    """The rows with these indices of each image, `[b, n, c]`."""
    return x_bsc.gather(1, index_bn[..., None].expand(-1, -1, x_bsc.shape[-1]))


@torch.no_grad()
def best_distinct(dense: DensePredictions, number: int) -> Tensor:
    """The positions `[b, number]` of the highest scores; those that overlap a better one (by IoU) come last.

    The maps of a small image may have fewer positions than `number`; then these are all.
    """
    positions = dense.logits.shape[1]
    number = min(number, positions)
    scores = dense.logits.float().sigmoid().amax(-1).masked_fill(dense.padding, -1)
    scores, index = scores.topk(min(CANDIDATES * number, positions), dim=1)
    overlap = best_overlap(cxcywh_to_xyxy(gather_rows(dense.boxes, index)))
    return index.gather(1, (scores - (overlap > DISTINCT_IOU).float()).topk(number, dim=1).indices)


def best_overlap(boxes_bn4: Tensor, step: int = 128) -> Tensor:
    """The largest IoU `[b, n]` of each box (xyxy) with a box before it, 0 for the first; `step` boxes at a time."""
    parts = []
    for start in range(0, boxes_bn4.shape[1], step):
        boxes = boxes_bn4[:, start : start + step]
        iou = box_iou(boxes[:, :, None], boxes_bn4[:, None, : start + boxes.shape[1]])
        parts.append(iou.tril(start - 1).amax(-1))
    return torch.cat(parts, dim=1)


def encode_boxes(boxes: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sinusoidal embedding `[..., 4 * dim]` of boxes `[..., 4]` in 0..1."""
    period = temperature ** (2 * (torch.arange(dim, device=boxes.device) // 2) / dim)
    angle = boxes[..., None] * (2 * math.pi) / period
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-3)


def grid_anchors(memory: Memory) -> Tensor:
    """An anchor box `[b, s, 4]` for each position, four cells wide and high: cxcywh relative to the unpadded image."""
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
    """One-to-many assignment: each object gets its `positives` cheapest positions inside its box.

    A position that several objects want goes to the object with the lowest cost.

    Args:
        dense: the predictions.
        targets: the objects.
        cost_bst: from `matching_cost`.
        positives: positions of an object.
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
    # One more column of infinite cost, so that the minimum exists for images without objects.
    least, owner = torch.cat([claims, claims.new_full((*claims.shape[:2], 1), math.inf)], dim=2).min(dim=2)
    image, query = torch.where(least.isfinite())
    return Assignment(torch.zeros_like(image), image, query, owner[image, query])
