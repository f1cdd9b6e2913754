"""The two heads of SOLOv2 (arXiv 2003.10152, section 3): classes and mask filters on grids, and mask features.

Shape letters: b images, k classes, c channels, d kernel channels, p cells of all levels, h/w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class SoloOutputs:
    """The predictions for a batch. The mask of a cell is its filter applied to the mask features.

    Attributes:
        category: class logits [b, k, side, side] of each level.
        kernels: 1 x 1 filters [b, d, side, side] of each level.
        mask_features: [b, d, h / 4, w / 4], not negative; h, w of the padded images.
    """

    category: list[Tensor]
    kernels: list[Tensor]
    mask_features: Tensor

    def flat_category(self) -> Tensor:
        """Class logits of all levels, `[b, k, p]`."""
        return torch.cat([level.flatten(2) for level in self.category], dim=2)

    def flat_kernels(self) -> Tensor:
        """Filters of all levels, `[b, d, p]`."""
        return torch.cat([level.flatten(2) for level in self.kernels], dim=2)


def conv_norm_relu(in_channels: int, out_channels: int, size: int = 3) -> nn.Sequential:
    """A convolution without bias, a group norm and a ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    nn.init.normal_(conv.weight, std=0.01)
    return nn.Sequential(conv, nn.GroupNorm(math.gcd(32, out_channels), out_channels), nn.ReLU(inplace=True))


def prediction(in_channels: int, out_channels: int, prior: float | None = None) -> nn.Conv2d:
    """The last convolution of a branch. Its sigmoid starts at the probability `prior`; without it the bias is 0."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, 0.0 if prior is None else -math.log((1 - prior) / prior))
    return conv


def with_coordinates(x_bchw: Tensor) -> Tensor:
    """Append the x and the y coordinate, -1 to 1 over the map, as two channels (CoordConv, arXiv 1807.03247)."""
    b, _, h, w = x_bchw.shape
    x = torch.linspace(-1, 1, w, device=x_bchw.device, dtype=x_bchw.dtype).expand(b, 1, h, w)
    y = torch.linspace(-1, 1, h, device=x_bchw.device, dtype=x_bchw.dtype)[:, None].expand(b, 1, h, w)
    return torch.cat([x_bchw, x, y], dim=1)


def resize(x_bchw: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps `[b, c, h, w]` to `size` (h, w), bilinear."""
    return F.interpolate(x_bchw, size=tuple(size), mode="bilinear", align_corners=False)


class InstanceHead(nn.Module):
    """Class logits and mask filters for each cell of each level; all levels share the weights.

    Args:
        num_classes: k.
        sides: of the grid of each level.
        in_channels, channels: of the pyramid and inside the branches.
        convs: convolutions of a branch before its last.
        kernel_channels: d.
    """

    def __init__(
        self,
        num_classes: int,
        sides: Sequence[int],
        *,
        in_channels: int = 256,
        channels: int = 512,
        convs: int = 4,
        kernel_channels: int = 256,
    ):
        super().__init__()
        self.sides = tuple(sides)
        widths = [channels] * convs
        self.category_tower = nn.Sequential(*map(conv_norm_relu, [in_channels, *widths[1:]], widths))
        self.kernel_tower = nn.Sequential(*map(conv_norm_relu, [in_channels + 2, *widths[1:]], widths))
        self.category = prediction(channels, num_classes, prior=0.01)
        self.kernel = prediction(channels, kernel_channels)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits `[b, k, side, side]` and filters `[b, d, side, side]` of each level.

        Args:
            pyramid: maps `[b, in_channels, h', w']` of stride 4, 8, 16, 32 and 64.
        """
        category, kernels = [], []
        for x, side in zip(self.five_maps(pyramid), self.sides, strict=True):
            x = resize(with_coordinates(x), (side, side))
            kernels.append(self.kernel(self.kernel_tower(x)))
            category.append(self.category(self.category_tower(x[:, :-2])))
        return category, kernels

    @staticmethod
    def five_maps(pyramid: Sequence[Tensor]) -> list[Tensor]:
        """The maps of the five levels, of stride 8, 8, 16, 32 and 32: the finest is halved, the coarsest doubled."""
        finest = F.interpolate(pyramid[0], scale_factor=0.5, mode="bilinear", align_corners=False)
        return [finest, *pyramid[1:4], resize(pyramid[4], pyramid[3].shape[2:])]


class MaskHead(nn.Module):
    """The mask features, which all cells share, at a quarter of the image's size."""

    def __init__(self, *, in_channels: int = 256, channels: int = 128, out_channels: int = 256):
        super().__init__()
        self.branches = nn.ModuleList()
        for level in range(4):
            first = conv_norm_relu(in_channels + (2 if level == 3 else 0), channels)
            more = (conv_norm_relu(channels, channels) for _ in range(level - 1))
            self.branches.append(nn.ModuleList([first, *more]))
        self.output = conv_norm_relu(channels, out_channels, size=1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """`[b, out_channels, h / 4, w / 4]` from maps of stride 4, 8, 16 and 32."""
        return self.output(sum(self.branch(level, pyramid[level]) for level in range(4)))

    def branch(self, level: int, x_bchw: Tensor) -> Tensor:
        """Bring the map of a level to stride 4, with `channels` channels.

        Each convolution but that of level 0 is followed by a doubling; the coarsest map gets its coordinates first.
        """
        x = with_coordinates(x_bchw) if level == 3 else x_bchw
        for conv in self.branches[level]:
            x = conv(x)
            if level > 0:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return x
