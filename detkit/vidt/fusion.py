"""Multi-scale fusion of ViDT+ (EPFF, efficient pyramid feature fusion, arXiv 2204.07962).

Shape letters: b images, c channels, h/w cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detkit.ops.linear import Conv2d

BOTTLENECK = 64


class ResidualBottleneck(nn.Module):
    """Adds a branch of 1 x 1, 3 x 3 and 1 x 1 convolutions, each after a ReLU."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = Conv2d(dim, BOTTLENECK, 1)
        self.conv2 = Conv2d(BOTTLENECK, BOTTLENECK, 3, padding=1)
        self.conv3 = Conv2d(BOTTLENECK, dim, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, dim, h, w]` in and out."""
        hidden = F.relu_(self.conv1(F.relu(x_bchw)))
        return self.conv3(F.relu_(self.conv2(hidden))).add_(x_bchw)


class PyramidFusion(nn.Module):
    """Adds coarse maps to finer ones, level by level from coarse to fine (top-down); all maps have `dim` channels."""

    def __init__(self, dim: int, levels: int):
        super().__init__()
        self.smoothing = nn.ModuleList(Conv2d(dim, dim, 1) for _ in range(levels - 1))
        self.lateral = nn.ModuleList(ResidualBottleneck(dim) for _ in range(levels - 1))
        self.refine = nn.ModuleList(ResidualBottleneck(dim) for _ in range(levels))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Fuse maps `[b, c, h, w]`, given fine to coarse; the fused maps are returned coarse to fine."""
        fused = [self.refine[-1](maps[-1])]
        for level in reversed(range(len(maps) - 1)):
            # A 1 x 1 convolution and interpolation commute: smoothing the small map costs less.
            smooth = self.smoothing[level](fused[-1])
            coarse = F.interpolate(smooth, size=maps[level].shape[2:], mode="bilinear", align_corners=True)
            fused.append(self.refine[level](self.lateral[level](maps[level]).add_(coarse)))
        return fused
