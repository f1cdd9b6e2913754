"""Thin-plate splines: smooth maps of the plane through given points.

Shape letters: b maps, k control points, n places.
"""

from __future__ import annotations

import torch
from torch import Tensor


def control_points(side: int, like: Tensor) -> Tensor:
    """A square grid of control points over -1..1, `[side * side, 2]`, column by column."""
    steps = torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(steps, steps)


def spline_basis(places_n2: Tensor, fixed_k2: Tensor) -> Tensor:
    """The spline's functions at some places: one around each control point, then 1, x, y; `[n, k + 3]`."""
    (x, y), (fixed_x, fixed_y) = places_n2.unbind(1), fixed_k2.unbind(1)
    distance = (x[:, None] - fixed_x).square() + (y[:, None] - fixed_y).square()
    radial = torch.xlogy(distance, distance)
    return torch.cat([radial, torch.ones_like(radial[:, :1]), places_n2], dim=1)


def spline_weights(fixed_k2: Tensor, moved_bk2: Tensor) -> Tensor:
    """What to multiply `spline_basis` with so that it passes through the moved points, `[b, k + 3, 2]`."""
    k = len(fixed_k2)
    basis = spline_basis(fixed_k2, fixed_k2)
    system = torch.zeros(k + 3, k + 3, dtype=basis.dtype, device=basis.device)
    system[:k], system[k:, :k] = basis, basis[:, k:].T
    known = torch.cat([moved_bk2, moved_bk2.new_zeros(len(moved_bk2), 3, 2)], dim=1)
    return torch.linalg.solve(system, known)
