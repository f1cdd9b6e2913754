"""Point codes: how the authors' code of PointWSSIS packs a point into one integer, and finds its grid cell from it.

A code is `y * 10000 + x` with both in ten-thousandths of the image's height and width, rounded down; 0 means "none".
Prediction files of the authors' code hold them. Inside detkit points stay x, y in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CODE_UNITS = 10000


def encode(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points `[n, 2]` x, y in pixels of an image of (h, w) `size` as codes `[n]` int64."""
    x, y = points.float().unbind(1)
    return (y / size[0] * CODE_UNITS).long() * CODE_UNITS + (x / size[1] * CODE_UNITS).long()


def decode(codes: Tensor, size: tuple[int, int]) -> Tensor:
    """The points `[n, 2]` float64 x, y in pixels of an image of (h, w) `size`, of codes `[n]`."""
    y, x = codes.div(CODE_UNITS, rounding_mode="floor"), codes % CODE_UNITS
    return torch.stack([x / CODE_UNITS * size[1], y / CODE_UNITS * size[0]], dim=1).double()


def cells_of(codes: Tensor, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Row and column `[n, l]` of codes `[n]` in the grid of each level, as the authors' code computes them.

    Because codes are rounded, about 0.6 % of points and axes get a neighbour of their cell in a grid of 80.
    """
    y, x = codes.div(CODE_UNITS, rounding_mode="floor"), codes % CODE_UNITS
    width = torch.tensor([1 / side for side in sides], dtype=torch.float64, device=codes.device)
    last = torch.tensor(sides, device=codes.device) - 1
    at = [torch.div((v.double() / CODE_UNITS)[:, None], width, rounding_mode="floor").long() for v in (y, x)]
    return torch.minimum(at[0].clamp(min=0), last), torch.minimum(at[1].clamp(min=0), last)
