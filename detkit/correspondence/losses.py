"""What matchers learn from key-points: a flow at the cells near them, and the end-point error (CATs, arXiv 2106.02520).

Shape letters: b pairs, n points, h/w cells of the target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detkit.structures import Flow


def sparse_flow(
    source_points: Tensor,
    target_points: Tensor,
    weights: Tensor | None = None,
    *,
    grid: int,
    side: int,
    field: int,
    official: bool = False,
) -> tuple[Tensor, Tensor]:
    """The flow that the key-points of one pair define.

    A cell is labelled by every target point within `field // 2` pixels of its centre in both directions; it gets the
    mean displacement of these points.

    Args:
        source_points, target_points: [n, 2], x y in pixels of images of `side` x `side`.
        weights: [n] in 0..1; None is all 1. A point of weight 0 labels no cell.
        grid: cells of the target along each side.
        side: pixels of both images along each side.
        field: width in pixels of the window around a cell's centre.
        official: as the authors' code, which takes the mean of the target points but only the last source point, and
            reads a displacement of exactly 0 as "no label".

    Returns:
        The flow [2, grid, grid] in cells, 0 where there is no label, and its weights [grid, grid].
    """
    stride = side / grid
    centres = (torch.arange(grid, device=target_points.device) * stride + stride // 2).to(target_points)
    near_nhw = (target_points[:, 1, None, None] - centres[:, None]).abs() <= field // 2
    near_nhw = near_nhw & ((target_points[:, 0, None, None] - centres).abs() <= field // 2)
    trust = torch.ones_like(target_points[:, 0]) if weights is None else weights.to(target_points)
    trust_nhw = near_nhw * trust[:, None, None]
    total = trust_nhw.sum(0)
    share_nhw = trust_nhw / total.clamp(min=torch.finfo(total.dtype).tiny)
    target = torch.einsum("nhw,nc->chw", share_nhw, target_points)
    if official:
        vectors = torch.where(total > 0, _last_point(near_nhw, source_points) - target, 0) / stride
        return vectors, (vectors != 0).any(0).to(vectors)
    vectors = (torch.einsum("nhw,nc->chw", share_nhw, source_points) - target) / stride
    return vectors, total / near_nhw.sum(0).clamp(min=1)


def batch_flow(
    source_points: Sequence[Tensor],
    target_points: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    *,
    grid: int,
    side: int,
    field: int,
    official: bool = False,
) -> Flow:
    """`sparse_flow` of several pairs, stacked: vectors `[b, 2, grid, grid]`, weights `[b, grid, grid]`."""
    pairs = zip(source_points, target_points, weights, strict=True)
    found = [sparse_flow(*pair, grid=grid, side=side, field=field, official=official) for pair in pairs]
    vectors, trusts = zip(*found, strict=True)
    return Flow(torch.stack(vectors), torch.stack(trusts))


def _last_point(near_nhw: Tensor, points: Tensor) -> Tensor:
    """For each cell the last of the points near it, `[2, h, w]`."""
    if not len(points):
        return points.new_zeros(2, *near_nhw.shape[1:])
    numbers = torch.arange(len(points), device=points.device)[:, None, None]
    return points.T[:, (near_nhw * numbers).amax(0)]


def end_point_errors(flow_b2hw: Tensor, other_b2hw: Tensor) -> Tensor:
    """The distance of two flows in each cell, `[b, h, w]` in cells; its gradient is 0 where they are equal."""
    return (flow_b2hw - other_b2hw).norm(dim=1)


def end_point_error(flow_b2hw: Tensor, target: Flow, *, trim: float = 0.0) -> Tensor:
    """The mean distance to the target flow over the labelled cells of the batch, weighted by their weights.

    Args:
        flow_b2hw: the predicted flow.
        target: the labels; cells of weight 0 are not labelled, cells of a weight below 1 are labelled by a machine.
        trim: share (0..1) of the machine-labelled cells to leave out: those with the largest errors, which are often
            wrong labels (small-loss selection, SCorrSAN, arXiv 2208.06974).

    Returns:
        A scalar in cells; 0 without labelled cells.
    """
    weights = target.weights.to(flow_b2hw.dtype)
    errors = torch.where(weights > 0, end_point_errors(flow_b2hw, target.vectors), 0)
    if trim:
        weights = weights * within_share(errors.detach(), (weights > 0) & (weights < 1), 1 - trim)
    return (errors * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def within_share(errors_bhw: Tensor, mask_bhw: Tensor, share: float) -> Tensor:
    """Which cells count: all outside of the mask, and of those inside the `share` with the smallest errors.

    Returns:
        `[b, h, w]` bool.
    """
    chosen = errors_bhw[mask_bhw]
    if not len(chosen):
        return torch.ones_like(mask_bhw)
    return ~mask_bhw | (errors_bhw <= chosen.sort().values[max(0, math.ceil(share * len(chosen)) - 1)])
