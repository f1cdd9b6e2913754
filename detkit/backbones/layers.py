"""Layers that several backbones share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.ops.linear import Linear, linear, linear_gelu

MASKED = -100.0


@dataclass
class DetFeatures:
    """The output of a backbone with [DET] tokens.

    Attributes:
        features: [b, c, h, w] maps, fine to coarse.
        det: [b, n, c] final det tokens.
        det_pos: [1, n, pos_dim] learned det positions.
    """

    features: list[Tensor]
    det: Tensor
    det_pos: Tensor


def det_parameters(num_tokens: int, dim: int, pos_dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Learned [DET] tokens `[1, num_tokens, dim]` and their positions `[1, num_tokens, pos_dim]`, initialized."""
    token, position = (nn.Parameter(torch.empty(1, num_tokens, channels)) for channels in (dim, pos_dim))
    nn.init.trunc_normal_(token, std=0.02)
    nn.init.trunc_normal_(position, std=0.02)
    return token, position


@dataclass
class CrossInputs:
    """For [DET] x [PATCH] attention of a stage: patch positions [b, h, w, c] and key bias [b, 1, 1, h * w + n]."""

    positions: Tensor
    key_bias: Tensor

    @classmethod
    def of(cls, x_bhwc: Tensor, mask_bhw: Tensor, num_tokens: int) -> CrossInputs:
        """For patches `[b, h, w, c]` and `num_tokens` [DET] tokens; `mask_bhw` is True on padding, of any size."""
        mask = resize_mask(mask_bhw, x_bhwc.shape[1:3])
        bias = F.pad(mask.flatten(1) * MASKED, (0, num_tokens))
        return cls(sine_positions(mask, x_bhwc.shape[-1]), bias[:, None, None])


class DetAttention(nn.Module):
    """Projections that [PATCH] and [DET] tokens share, and the attention of the [DET] tokens.

    Source: the reconfigured attention module of ViDT (arXiv 2110.03921, section 3.1).
    """

    attend: ClassVar[Callable[..., Tensor]] = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def heads(self, x_btc: Tensor, parts: int) -> Sequence[Tensor]:
        """Split `[b, t, parts * c]` into `parts` tensors `[b, m, t, d]`."""
        b, t, _ = x_btc.shape
        return x_btc.view(b, t, parts, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def dets(self, det_bnc: Tensor, patches_btc: Tensor | None, key_bias: Tensor | None) -> Tensor:
        """[DET] tokens attend to each other and, where given, to all `patches_btc` in the same softmax.

        Args:
            det_bnc: normalised [DET] tokens with their positions added.
            patches_btc: the same of all patches of the stage, or None.
            key_bias: [b, 1, 1, t + n], added to the scores (very low on padding), see `CrossInputs`; or None.

        Returns:
            `[b, n, c]`, without the residual.
        """
        q, k, v = self.heads(self.qkv(det_bnc), 3)
        if patches_btc is not None:
            c = det_bnc.shape[-1]
            patch_k, patch_v = self.heads(linear(patches_btc, self.qkv.weight[c:], self.qkv.bias[c:]), 2)
            k, v = torch.cat([patch_k, k], dim=2), torch.cat([patch_v, v], dim=2)
        bias = None if key_bias is None else key_bias.to(q.dtype)
        out = self.attend(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))


class PatchEmbed(nn.Module):
    """Non-overlapping square patches of `[b, in_channels, h, w]`, projected and normalised: `[b, h, w, c]`."""

    def __init__(self, dim: int, patch: int = 4, in_channels: int = 3):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """The patches `[b, ceil(h / patch), ceil(w / patch), c]` of a map, padded with zeros to whole patches."""
        h, w = x_bchw.shape[-2:]
        x = self.proj(F.pad(x_bchw, (0, -w % self.patch, 0, -h % self.patch)))
        return self.norm(x.permute(0, 2, 3, 1))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Softmax attention of `[b, m, t, d]` in the order of operations of a textbook, for equal rounding."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1) @ v


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
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` in and out."""
        return self.fc2(linear_gelu(x, self.fc1.weight, self.fc1.bias))


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
    """Nearest-neighbour resize of a bool mask `[b, h, w]` to `size` (h, w)."""
    if tuple(mask_bhw.shape[1:]) == tuple(size):
        return mask_bhw
    return F.interpolate(mask_bhw[None].float(), size=tuple(size))[0].bool()
