"""Boxes as `[..., 4]` tensors: cxcywh (centre, size) and xyxy (corners), pixels or relative alike."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """`[..., 4]` centre x, centre y, width, height to `[..., 4]` x1 y1 x2 y2, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """`[..., 4]` x1 y1 x2 y2 to `[..., 4]` centre x, centre y, width, height, in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def mirror_boxes(boxes_xyxy: Tensor, width: int) -> Tensor:
    """Boxes `[n, 4]` in pixels of an image of `width` that is mirrored left to right."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """The areas `[...]` of boxes `[..., 4]`, in the square of their unit; 0 where x2 < x1 or y2 < y1."""
    size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def iou_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union in 0..1 and area of the union of boxes `[..., 4]` whose leading dimensions broadcast."""
    low = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    overlap = (high - low).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_area(a_xyxy) + box_area(b_xyxy) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny), union


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union in 0..1 of boxes `[..., 4]` whose leading dimensions broadcast; 0 for two empty boxes."""
    return iou_and_union(a_xyxy, b_xyxy)[0]


def generalized_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU in -1..1 (arXiv 1902.09630) of boxes `[..., 4]` whose leading dimensions broadcast.

    Empty boxes give finite values and never raise, unlike implementations that assert on them.
    """
    iou, union = iou_and_union(a_xyxy, b_xyxy)
    low = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    return iou - (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).tiny)
