"""Training MaskRefineNet: the target of each rough mask, and the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def match_masks(
    points: Tensor, labels: Tensor, centres: Tensor, true_labels: Tensor, *, official: bool = False
) -> Tensor:
    """Pair each rough mask with the true one of its class whose centre is nearest to its point.

    The distance is not limited, and several rough masks may have the same true mask.

    Args:
        points: [p, 2] x, y of the points of the rough masks, in pixels of one image.
        labels: [p] classes of the rough masks.
        centres: [g, 2] centres of mass of the true masks; NaN for empty ones, which get no pair.
        true_labels: [g] classes of the true masks.
        official: as the authors' code, also give the pair (rough mask, -1) where all true masks of the class are empty.

    Returns:
        `[m, 2]` int64 pairs of rough and true mask, ordered by rough mask. Of equally near true masks the first is
        taken.
    """
    same = labels[:, None] == true_labels
    distance = (points.double()[:, None] - centres.double()).square().sum(-1)
    distance = distance.nan_to_num(torch.inf).masked_fill(~same, torch.inf)
    if distance.shape[1] == 0:
        return torch.zeros(0, 2, dtype=torch.int64, device=points.device)
    nearest, match = distance.min(dim=1)
    match = match.masked_fill(nearest.isinf(), -1)
    kept = same.any(1) if official else match >= 0
    return torch.stack([kept.nonzero()[:, 0], match[kept]], dim=1)


def refine_loss(logits: Tensor, targets: Tensor, *, official: bool = False) -> Tensor:
    """1 - the mean Dice coefficient of background and foreground.

    Args:
        logits: [b, 2, h, w], or [b, 1, h, w] of the foreground alone.
        targets: [b, h, w] of 0, 1 and 255; 255 counts as background.
        official: as the authors' code, one coefficient for each of the two classes and each column of pixels, over the
            rows of all crops of the batch. By default one for each class and crop.
    """
    if logits.shape[1] == 1:
        logits = F.pad(logits, (0, 0, 0, 0, 1, 0))  # its sigmoid is its softmax against 0
    prob, object_ = logits.softmax(1), (targets == 1).to(logits.dtype)
    wanted = torch.stack([1 - object_, object_], dim=1)
    axes = (0, 2) if official else (2, 3)
    common, total = (prob * wanted).sum(axes), (prob + wanted).sum(axes)
    return 1 - (2 * common / (total + 1e-7)).mean()
