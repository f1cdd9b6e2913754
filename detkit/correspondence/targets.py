"""What a matcher learns from key-points: a flow at the cells near them (CATs, arXiv 2106.02520).

Shape letters: b pairs, n points, h/w cells.
"""

from __future__ import annotations

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
    original: bool = False,
) -> tuple[Tensor, Tensor]:
    """The flow that the key-points of one pair ask for.

    A cell is labelled by every target point within `field // 2` pixels of its centre in both directions; it gets the
    mean displacement of these points.

    Args:
        source_points, target_points: [n, 2], x y in pixels of images of `side` x `side`.
        weights: [n] in 0..1; None is all 1. A point of weight 0 labels nothing.
        grid: cells of the target along each side.
        field: width of the window of a cell in pixels.
        original: as the official code, which takes the mean of the target points but only the last source point, and
            takes a displacement of exactly 0 for no label.

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
    if original:
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
    original: bool = False,
) -> Flow:
    """`sparse_flow` of several pairs."""
    pairs = zip(source_points, target_points, weights, strict=True)
    found = [sparse_flow(*pair, grid=grid, side=side, field=field, original=original) for pair in pairs]
    vectors, trusts = zip(*found, strict=True)
    return Flow(torch.stack(vectors), torch.stack(trusts))


def _last_point(near_nhw: Tensor, points: Tensor) -> Tensor:
    """For each cell the point with the highest number among those near it, `[2, h, w]`."""
    if not len(points):
        return points.new_zeros(2, *near_nhw.shape[1:])
    numbers = torch.arange(len(points), device=points.device)[:, None, None]
    return points.T[:, (near_nhw * numbers).amax(0)]
