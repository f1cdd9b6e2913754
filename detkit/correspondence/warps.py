"""Affine and thin-plate-spline warps of images and of correlations (as in SemiMatch, arXiv 2203.16038).

Grids are what `grid_sample` takes: for each place of the result, the x y in -1..1 of the place to fetch from.

Shape letters: b images, k control points, h/w cells or pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.splines import control_points, spline_basis, spline_weights

VALID = 0.9999  # the least weight of what comes from inside the image


def tps_grid(moved_bk2: Tensor, size: tuple[int, int]) -> Tensor:
    """The grid `[b, h, w, 2]` of the thin-plate spline that takes a square grid of control points to `moved_bk2`.

    Args:
        moved_bk2: where the points of `control_points` come from; k is a square number.
        size: (h, w) of the grid, whose outermost places lie at -1 and 1.
    """
    b, k, _ = moved_bk2.shape
    fixed = control_points(round(k**0.5), moved_bk2)
    weights = spline_weights(fixed, moved_bk2)
    y, x = (torch.linspace(-1, 1, side, dtype=fixed.dtype, device=fixed.device) for side in size)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 2)
    return (spline_basis(places, fixed) @ weights).view(b, *size, 2)


def fetch(x_bchw: Tensor, grid_bhw2: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample at the places of a grid; 0 where that needs anything from outside of the image."""
    grid = grid_bhw2.to(x_bchw.dtype)
    inside = F.grid_sample(torch.ones_like(x_bchw[:, :1]), grid, align_corners=False) >= VALID
    return F.grid_sample(x_bchw, grid, mode=mode, align_corners=False) * inside


def warp_affine_tps(x_bchw: Tensor, affine_b23: Tensor, moved_bk2: Tensor, mode: str = "bilinear") -> Tensor:
    """Warp by an affine map, then by a thin-plate spline (see `tps_grid`).

    Args:
        affine_b23: takes places of the result to those to fetch from, in -1..1.
        mode: "bilinear" or "nearest".
    """
    size = (int(x_bchw.shape[2]), int(x_bchw.shape[3]))
    grid = F.affine_grid(affine_b23, [len(x_bchw), 1, *size], align_corners=False)
    return fetch(fetch(x_bchw, grid, mode), tps_grid(moved_bk2, size), mode)
