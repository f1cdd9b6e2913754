"""Losses of flows: the sparse end-point error (CATs, arXiv 2106.02520) and SCorrSAN's pseudo labels (arXiv 2208.06974).

Shape letters: b pairs, h/w cells.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.structures import Flow


def end_point_errors(flow_b2hw: Tensor, other_b2hw: Tensor) -> Tensor:
    """The distance between two flows in each cell, `[b, h, w]`, in cells; its gradient is 0 where they are equal."""
    return (flow_b2hw - other_b2hw).norm(dim=1)


def end_point_error(flow_b2hw: Tensor, target: Flow, *, trim: float = 0.0) -> Tensor:
    """The mean distance in cells over the labelled cells of the whole batch, by their weights; 0 without any.

    Args:
        trim: leave out this share (0..1) of the cells of weights below 1, which machines have labelled: those with the
            largest errors, as they are often wrong labels (SCorrSAN's small-loss selection).
    """
    weights = target.weights.to(flow_b2hw.dtype)
    errors = torch.where(weights > 0, end_point_errors(flow_b2hw, target.vectors), 0)
    if trim:
        weights = weights * within_share(errors.detach(), (weights > 0) & (weights < 1), 1 - trim)
    return (errors * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def within_share(errors_bhw: Tensor, mask_bhw: Tensor, share: float) -> Tensor:
    """All cells but those of the mask that are not among its `share` of smallest errors, bool `[b, h, w]`."""
    chosen = errors_bhw[mask_bhw]
    if not len(chosen):
        return torch.ones_like(mask_bhw)
    return ~mask_bhw | (errors_bhw <= chosen.sort().values[max(0, math.ceil(share * len(chosen)) - 1)])


def labelled(vectors_b2hw: Tensor) -> Flow:
    """A flow target from vectors alone, where (0, 0) means no label, as in the official code."""
    return Flow(vectors_b2hw, (vectors_b2hw != 0).any(1).to(vectors_b2hw.dtype))


def dilate(mask_bhw: Tensor, size: int) -> Tensor:
    """The cells with a cell of the mask within a window of `size` (odd) cells, bool `[b, h, w]`."""
    return F.max_pool2d(mask_bhw.float()[:, None], size, stride=1, padding=size // 2)[:, 0] > 0


def pseudo_flow_loss(
    flow_b2hw: Tensor, teacher_b2hw: Tensor, mask_bhw: Tensor, *, ranking_bhw: Tensor | None = None, keep: float = 1.0
) -> Tensor:
    """The mean distance to a teacher's flow over some cells (SCorrSAN).

    Args:
        teacher_b2hw: gets no gradient.
        mask_bhw: the cells that count, for example those near labelled ones (`dilate`).
        ranking_bhw: with it only the share `keep` of these cells counts, those where it is smallest: the errors of
            the other network, when two teach each other.
        keep: 0..1, rounded down to whole cells.

    Returns:
        A scalar; 0 where no cell is left.
    """
    errors = end_point_errors(flow_b2hw, teacher_b2hw.detach())[mask_bhw]
    if ranking_bhw is not None:
        order = ranking_bhw[mask_bhw].detach().argsort()
        errors = errors[order[: int(keep * len(order))]]
    return errors.sum() / max(1, len(errors))
