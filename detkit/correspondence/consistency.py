"""Forward-backward consistency: which matches of a flow lead back to where they started (SemiMatch, arXiv 2203.16038).

Flows are `[b, 2, h, w]` in cells; see `detkit.ops.correlation`.

Shape letters: b pairs, h/w cells of the target, n_h/n_w cells of the source.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from detkit.ops.correlation import cell_positions, sample_at


def return_flow(flow_b2hw: Tensor, back_b2hw: Tensor, *, official: bool = False) -> Tensor:
    """The backward flow, sampled at the source place that each target cell is matched with.

    Args:
        flow_b2hw: forward flow, on the target, pointing into the source.
        back_b2hw: backward flow `[b, 2, n_h, n_w]`, on the source, pointing into the target.
        official: as in the authors' code, take the centres of the outermost cells for the edges of the grid.

    Returns:
        `[b, 2, h, w]` in cells; 0 where the match lies outside of the source.
    """
    h, w = flow_b2hw.shape[2:]
    n_h, n_w = back_b2hw.shape[2:]
    match = cell_positions(h, w, flow_b2hw) + flow_b2hw
    size = match.new_tensor([n_w, n_h])[:, None, None]
    if official:
        return F.grid_sample(back_b2hw, (2 * match / (size - 1) - 1).permute(0, 2, 3, 1), align_corners=False)
    inside = ((match > -0.5) & (match < size - 0.5)).all(1, keepdim=True)
    found = sample_at(back_b2hw, match.flatten(2).transpose(1, 2)).transpose(1, 2)
    return found.view_as(flow_b2hw) * inside


def consistency_margin(
    flow_b2hw: Tensor, back_b2hw: Tensor, *, relative: float = 0.1, absolute: float = 0.5, official: bool = False
) -> Tensor:
    """How far each match is from leading back to its cell, beyond what is tolerated.

    The margin is `|f + g|^2 - relative * (|f|^2 + |g|^2) - absolute`, where g is the `return_flow` of f.

    Args:
        flow_b2hw, back_b2hw, official: see `return_flow`.
        relative: tolerated share of the squared lengths of both flows.
        absolute: tolerated squared distance, in squared cells.

    Returns:
        `[b, h, w]` in squared cells; a match is consistent where it is at most 0.
    """
    back = return_flow(flow_b2hw, back_b2hw, official=official)
    lengths = flow_b2hw.square().sum(1) + back.square().sum(1)
    return (flow_b2hw + back).square().sum(1) - relative * lengths - absolute


def cells_in_box(box_b4: Tensor, position_b2hw: Tensor, stride: float) -> Tensor:
    """Whether places lie in the box of their image.

    Args:
        box_b4: x1 y1 x2 y2 in pixels.
        position_b2hw: x y in cells, `[b or 1, 2, h, w]`; 0 is the centre of the first cell.
        stride: pixels of a cell.

    Returns:
        `[b, h, w]` bool.
    """
    low, high = (corner[:, :, None, None] for corner in (box_b4[:, :2] / stride, box_b4[:, 2:] / stride))
    return ((position_b2hw + 0.5 >= low) & (position_b2hw + 0.5 <= high)).all(1)
