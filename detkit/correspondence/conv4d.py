"""Separable convolutions of 4-D correlations (CATs++, arXiv 2202.06817).

A correlation is `[b, c, ht, wt, hs, ws]`: the target plane (height, width), then the source plane.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size4 = tuple[int, int, int, int]  # target height and width, source height and width


def swap_planes(x: Tensor) -> Tensor:
    """Exchange target and source: `[b, c, ht, wt, hs, ws]` to `[b, c, hs, ws, ht, wt]`."""
    return x.permute(0, 1, 4, 5, 2, 3)


def upsample(x: Tensor, size: int) -> Tensor:
    """Resize both planes to `size` x `size` cells, bilinear; corner cells stay at the corners."""
    for _ in range(2):
        x = swap_planes(_resize_source(x, size))
    return x


def _resize_source(x: Tensor, size: int) -> Tensor:
    b, c, ht, wt, _, _ = x.shape
    planes = F.interpolate(x.flatten(1, 3), size=(size, size), mode="bilinear", align_corners=True)
    return planes.view(b, c, ht, wt, size, size)


class Conv4d(nn.Module):
    """The sum of a 2-D convolution over the target plane and one over the source plane.

    With a stride in one plane, the convolution over the other plane reads a max-pooled input of the same resolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Size4 = (3, 3, 3, 3), stride: Size4 = (1, 1, 1, 1)):
        super().__init__()
        self.stride = stride
        padding = tuple(k // 2 for k in kernel)
        self.target = nn.Conv2d(in_channels, out_channels, kernel[:2], stride[:2], padding[:2])
        self.source = nn.Conv2d(in_channels, out_channels, kernel[2:], stride[2:], padding[2:])

    def forward(self, x: Tensor) -> Tensor:
        """`[b, in_channels, ht, wt, hs, ws]` to `[b, out_channels, ...]`; each side becomes ceil(side / stride)."""
        over_target = convolve_target(pool_source(x, self.stride[2:]), self.target)
        return over_target + convolve_source(pool_target(x, self.stride[:2]), self.source)


def convolve_source(x: Tensor, conv: nn.Module) -> Tensor:
    """A 2-D convolution over the source planes of all target cells; `[b, c, ht, wt, hs, ws]` in and out.

    `conv` is any module for maps `[n, c, h, w]`.
    """
    b, _, ht, wt, _, _ = x.shape
    planes = conv(x.flatten(2, 3).transpose(1, 2).flatten(0, 1))
    return planes.unflatten(0, (b, ht, wt)).permute(0, 3, 1, 2, 4, 5)


def convolve_target(x: Tensor, conv: nn.Module) -> Tensor:
    """A 2-D convolution over the target planes of all source cells; `[b, c, ht, wt, hs, ws]` in and out."""
    return swap_planes(convolve_source(swap_planes(x), conv))


def pool_source(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Max-pool the source plane by (vertical, horizontal) strides; `hs` and `ws` become ceil(side / stride)."""
    return pool_axis(pool_axis(x, 4, stride[0]), 5, stride[1])


def pool_target(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Max-pool the target plane by (vertical, horizontal) strides; `ht` and `wt` become ceil(side / stride)."""
    return pool_axis(pool_axis(x, 2, stride[0]), 3, stride[1])


def pool_axis(x: Tensor, axis: int, stride: int) -> Tensor:
    """Max-pool one axis with windows of `stride`; the last window may be shorter."""
    if stride == 1:
        return x
    missing = -x.shape[axis] % stride
    x = torch.cat([x, *[x.narrow(axis, -1, 1)] * missing], dim=axis) if missing else x
    return x.unflatten(axis, (-1, stride)).amax(axis + 1)


class NormConv4d(nn.Module):
    """A 4-D convolution and a group norm of one group."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size4 = (3, 3, 3, 3), stride: Size4 = (1, 1, 1, 1)):
        super().__init__()
        self.conv = Conv4d(in_channels, out_channels, kernel, stride)
        self.norm = nn.GroupNorm(1, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, normalised; shapes as in `Conv4d.forward`."""
        return self.norm(self.conv(x))


class MlpConv4d(nn.Module):
    """Two 4-D convolutions with a GELU between."""

    def __init__(self, channels: int, hidden: int, kernel: Size4):
        super().__init__()
        self.conv1 = Conv4d(channels, hidden, kernel)
        self.conv2 = Conv4d(hidden, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """`[b, channels, ht, wt, hs, ws]` in and out."""
        return self.conv2(F.gelu(self.conv1(x)))
