"""The simple feature pyramid of ViTDet (arXiv 2203.16527, section 3): maps of several strides from one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of `[b, c, h, w]`."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Normalise each cell over its channels; `[b, c, h, w]` in and out."""
        return super().forward(x_bchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """Each map is made from the last map of a plain transformer alone, without lateral or top-down connections.

    Up by deconvolutions, down by max-pooling once and strided convolutions from then on; then a 1 x 1 and a 3 x 3
    convolution, each with a norm. Resolutions are doubled and halved only: where `stride` is no power of two, the maps
    have the nearest strides that this allows (7, 14, 28 and 56 for patches of 14 pixels).

    Args:
        dim: channels of the input.
        out_channels: channels of the maps.
        stride: stride of the input in pixels.
        strides: wanted strides of the maps in pixels.
    """

    def __init__(self, dim: int, out_channels: int, stride: int, strides: Sequence[int] = (8, 16, 32, 64)):
        super().__init__()
        self.levels = nn.ModuleList(self._level(dim, out_channels, round(math.log2(stride / s))) for s in strides)

    @staticmethod
    def _level(dim: int, out_channels: int, doublings: int) -> nn.Sequential:
        """`doublings` of the resolution, halvings where negative."""
        layers: list[nn.Module] = []
        for i in range(doublings):
            layers += [LayerNorm2d(dim), nn.GELU()] if i else []
            layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, stride=2))
            dim //= 2
        for i in range(-doublings):
            layers.append(nn.Conv2d(dim, dim, 3, stride=2, padding=1) if i else nn.MaxPool2d(2, ceil_mode=True))
        layers += [nn.Conv2d(dim, out_channels, 1, bias=False), LayerNorm2d(out_channels)]
        layers += [nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), LayerNorm2d(out_channels)]
        return nn.Sequential(*layers)

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """One map `[b, out_channels, h', w']` for each of `strides`, from the map `[b, dim, h, w]`."""
        return [level(x_bchw) for level in self.levels]
