"""Non-maximum suppression of masks and of category maps (SOLOv2, arXiv 2003.10152, section 3.3).

Shape letters: m masks, p pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.linear import linear

# Side of the squares in which masks are compared.
TILE = 40


def same_class_iou(masks: Tensor, labels: Tensor) -> Tensor:
    """IoU of masks of one class, 0 between classes and 1 between two empty masks.

    Args:
        masks: [m, h, w] bool.
        labels: [m] int64.

    Returns:
        `[m, m]` float32; counts of pixels are exact up to 2**24.
    """
    common = common_pixels(masks)
    area = common.diagonal().clone()
    union = (area[:, None] + area).sub_(common)
    iou = common.div_(union).nan_to_num_(nan=1.0)
    return iou.masked_fill_(labels[:, None] != labels, 0)


def common_pixels(masks: Tensor) -> Tensor:
    """The number of pixels that each two of `[m, h, w]` bool masks share, `[m, m]` float32.

    On a CPU it is computed tile by tile: in most tiles only a few masks have pixels.
    """
    tile = TILE if masks.device.type == "cpu" else max(masks.shape)
    common = torch.zeros(len(masks), len(masks), device=masks.device)
    for strip in masks.view(torch.uint8).split(tile, dim=1):
        for part, shadow in zip(strip.split(tile, dim=2), strip.amax(1).split(tile, dim=1), strict=True):
            present = shadow.amax(1).nonzero()[:, 0]
            pixels = part.index_select(0, present).flatten(1).float()
            common[present[:, None], present] += linear(pixels, pixels)
    return common


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, *, kernel: str = "gaussian", sigma: float = 2.0
) -> Tensor:
    """Lower the scores of masks by their overlap with better ones of the same class, all at once.

    Args:
        masks: [m, h, w] bool, best first.
        labels: [m] int64.
        scores: [m] float, descending.
        kernel: "gaussian" or "linear", how the score falls with the overlap.
        sigma: of the gaussian kernel: exp(-sigma * iou**2).

    Returns:
        `[m]` new scores. A third copy of one mask gets 0 from the linear kernel (0 / 0 in the paper's formula).

    Raises:
        ValueError: another kernel.
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"matrix NMS has the kernels gaussian and linear, not {kernel!r}")
    if len(masks) == 0:
        return scores
    overlap = same_class_iou(masks, labels).triu(1)
    compensation = overlap.amax(0)[:, None]
    if kernel == "gaussian":
        factor = torch.exp(-sigma * overlap**2) / torch.exp(-sigma * compensation**2)
    else:
        factor = torch.where(overlap < 1, (1 - overlap) / (1 - compensation), 0)
    return scores * factor.amin(0)


def mask_nms(masks: Tensor, labels: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Greedy suppression: drop a mask if its IoU with a better one of its class that is kept is above `threshold`.

    All masks are tested at once, and again until nothing changes. After k rounds the best k masks are final; in
    practice a few rounds are enough for all.

    Args:
        masks: [m, h, w] bool, best first.
        labels: [m] int64.
        threshold: IoU in 0..1.

    Returns:
        `[m]` bool, True for the masks that are kept. Of several empty masks of a class the first is kept.
    """
    suppresses = (same_class_iou(masks, labels) > threshold).triu(1)
    keep = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    for _ in range(len(masks)):
        settled = ~(suppresses & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            break
        keep = settled
    return keep


def point_nms(heat: Tensor) -> Tensor:
    """Keep the local maxima of `[b, k, h, w]`, set the others to 0.

    A cell is compared with the cells above it, to its left and above left.
    """
    peaks = F.max_pool2d(heat, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return heat.where(heat == peaks, 0)
