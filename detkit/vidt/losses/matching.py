"""Hungarian matching of predictions and objects (DETR, arXiv 2005.12872, section 3.1; focal class cost of
Deformable DETR).

Shape letters: s stages, b images, q queries, t objects of an image (padded to the largest number), k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detkit.ops.boxes import cxcywh_to_xyxy, generalized_iou


@dataclass
class Targets:
    """The objects of a batch, padded to one number.

    Attributes:
        labels: [b, t] int64, 0 on padding.
        boxes: [b, t, 4] cxcywh relative to the unpadded image, in 0..1.
        counts: number of objects of each image.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]


@dataclass
class Assignment:
    """Which queries are assigned to which objects: one entry for each matched pair, by stage, image and query.

    Attributes:
        stage, image, query, target: [m] indices, int64.
    """

    stage: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


@torch.no_grad()
def matching_cost(
    logits_sbqk: Tensor, boxes_sbq4: Tensor, targets: Targets, *, class_cost: float, box_cost: float, giou_cost: float
) -> Tensor:
    """The cost of assigning each query to each object: weighted focal, L1 and negative GIoU terms, `[s, b, q, t]`.

    Args:
        logits_sbqk: class logits.
        boxes_sbq4: cxcywh in 0..1.
        targets: the objects.
        class_cost, box_cost, giou_cost: weights of the terms.
    """
    prob = logits_sbqk.float().sigmoid()
    positive = 0.25 * (1 - prob) ** 2 * -(prob + 1e-8).log()
    negative = 0.75 * prob**2 * -(1 - prob + 1e-8).log()
    labels = targets.labels[None, :, None, :].expand(*prob.shape[:3], -1)
    cost_class = (positive - negative).gather(-1, labels)
    predicted, wanted = boxes_sbq4.float()[:, :, :, None], targets.boxes[None, :, None]
    cost_box = (predicted - wanted).abs().sum(-1)
    cost_giou = -generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    return box_cost * cost_box + class_cost * cost_class + giou_cost * cost_giou


def hungarian_assignment(cost_sbqt: Tensor, counts: Sequence[int]) -> Assignment:
    """The one-to-one assignment of lowest cost for every stage and image.

    Costs that are not finite count as very high, so that the loss reports them and not this function. All costs go to
    the CPU in one transfer.

    Args:
        cost_sbqt: from `matching_cost`.
        counts: number of objects of each image; further columns are padding.
    """
    table = cost_sbqt.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    pairs = []
    for s, stage in enumerate(table):
        for b, (cost, count) in enumerate(zip(stage, counts, strict=True)):
            query, target = linear_sum_assignment(cost[:, :count])
            pairs += [(s, b, int(q), int(t)) for q, t in zip(query, target, strict=True)]
    indices = torch.tensor(pairs, dtype=torch.int64).view(-1, 4).to(cost_sbqt.device)
    return Assignment(*indices.unbind(1))
