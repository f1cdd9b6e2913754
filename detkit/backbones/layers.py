"""Small layers that several backbones share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training a whole residual branch of an image is dropped at `rate`."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def keep(self, batch: int, like: Tensor) -> Tensor | None:
        """The factor of each image's branch, `[batch]`: 0 or 1 / (1 - rate); None when nothing is dropped."""
        if not self.training or self.rate == 0.0:
            return None
        return like.new_empty(batch).bernoulli_(1 - self.rate).div_(1 - self.rate)


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def sine_positions(mask_bhw: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sinusoidal positions `[b, h, w, dim]`, y then x, that span 0..2 pi over the unpadded part of each image.

    Source: DETR (arXiv 2005.12872, appendix A.4), as ViDT uses it for [PATCH] tokens.
    """
    valid = ~mask_bhw
    y, x = valid.cumsum(1, dtype=torch.float32), valid.cumsum(2, dtype=torch.float32)
    y = y / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
    x = x / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
    half = dim // 2
    exponent = 2 * (torch.arange(half, device=mask_bhw.device) // 2) / half
    period = temperature**exponent

    def encode(position_bhw: Tensor) -> Tensor:
        angle = position_bhw[..., None] / period
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)

    return torch.cat([encode(y), encode(x)], dim=-1)


def resize_mask(mask_bhw: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour resize of a bool mask to (h, w)."""
    if tuple(mask_bhw.shape[1:]) == tuple(size):
        return mask_bhw
    return F.interpolate(mask_bhw[None].float(), size=tuple(size))[0].bool()
