"""The convolutional transformer aggregator of CATs++ (arXiv 2202.06817).

Correlations are `[b, c, ht, wt, hs, ws]`. Shape letters: b pairs, c channels, s source cells, m heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.correspondence.conv4d import MlpConv4d, NormConv4d, swap_planes, upsample
from detkit.ops.linear import Linear


class CorrelationLayer(nn.Module):
    """A transformer layer among the source cells; the token of a cell is made of its correlations and its appearance.

    Args:
        channels: of the correlation, a multiple of `heads`.
        grid: cells along each side.
        appearance_dim: channels of the appearance.
        dim: channels of queries and of keys, all heads together.
        heads: attention heads.
        mlp_ratio: hidden channels of the feed-forward network, in multiples of `channels`.
        target_stride: stride of the convolution that reduces the target cells of a token.
    """

    def __init__(
        self,
        channels: int,
        grid: int,
        *,
        appearance_dim: int = 128,
        dim: int = 512,
        heads: int = 4,
        mlp_ratio: int = 4,
        target_stride: int = 1,
    ):
        super().__init__()
        self.heads = heads
        k, s = (5 if target_stride > 2 else 3), target_stride
        kernel = (k, k, 3, 3)
        self.norm1 = nn.GroupNorm(1, channels)
        self.token_conv = NormConv4d(channels, channels, kernel, (s, s, 1, 1))
        self.token_linear = Linear(channels * (grid // s) ** 2 + appearance_dim, 2 * dim)
        self.value_conv = NormConv4d(channels, channels, kernel)
        self.position = nn.Parameter(torch.zeros(1, grid**2, 1, dim // heads))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.norm2 = nn.GroupNorm(1, channels)
        self.mlp = MlpConv4d(channels, mlp_ratio * channels, kernel)

    def forward(self, x: Tensor, appearance_bchw: Tensor) -> Tensor:
        """The refined correlation `[b, c, ht, wt, hs, ws]`.

        Args:
            x: the correlation, of the same shape.
            appearance_bchw: [b, appearance_dim, hs, ws], appearance of the source cells.
        """
        x = x + self.attention(self.norm1(x), appearance_bchw)
        return x + self.mlp(self.norm2(x))

    def attention(self, x: Tensor, appearance_bchw: Tensor) -> Tensor:
        """Each source cell gathers the correlations of all source cells, weighted by the similarity of their tokens.

        Args:
            x: the normalised correlation `[b, c, ht, wt, hs, ws]`.
            appearance_bchw: as in `forward`.

        Returns:
            What is to be added to the correlation, of the same shape.
        """
        b, c, ht, wt, hs, ws = x.shape
        tokens = self.token_conv(x).flatten(1, 3).flatten(2)
        tokens_bsd = torch.cat([tokens, appearance_bchw.flatten(2)], dim=1).transpose(1, 2)
        query, key = self.token_linear(tokens_bsd).chunk(2, dim=-1)
        # Channels of queries and keys are interleaved over the heads; those of values are contiguous for each head.
        query, key = ((part.unflatten(-1, (-1, self.heads)).transpose(2, 3) + self.position) for part in (query, key))
        value = self.value_conv(x).reshape(b, self.heads, -1, hs * ws).transpose(2, 3)
        mixed_bmsd = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value)
        return mixed_bmsd.transpose(2, 3).reshape(b, c, ht, wt, hs, ws)


class PyramidAggregator(nn.Module):
    """Refines correlations of several resolutions from coarse to fine.

    Each stage halves its resolution by a convolution, adds the upsampled result of the coarser stage, and refines the
    sum in both directions (source to target and back) with the same weights.

    Args:
        levels: correlations of each stage, coarse to fine.
        channels: of the features that give the appearance, for each stage.
        grid: cells along each side of the finest stage after the halving; each coarser one has half of them.
        width: channels of a refined correlation, one for each head.
        appearance_dim: channels of the embedded appearance.
        dropout: share of the channels of the appearance that training drops.
    """

    def __init__(
        self,
        levels: Sequence[int],
        channels: Sequence[int],
        *,
        grid: int = 32,
        width: int = 4,
        appearance_dim: int = 128,
        dropout: float = 0.5,
    ):
        super().__init__()
        last = len(levels) - 1
        if grid % 2**last:
            raise ValueError(f"grid must be a multiple of {2**last} for {last + 1} stages, got {grid}")
        self.grids = [grid >> (last - i) for i in range(last + 1)]
        self.encoders = nn.ModuleList(NormConv4d(n, width, stride=(2, 2, 2, 2)) for n in levels)
        self.appearance = nn.ModuleList(nn.Conv2d(c, appearance_dim, 3, stride=2, padding=1) for c in channels)
        self.dropout = nn.Dropout2d(dropout)
        self.layers = nn.ModuleList(
            CorrelationLayer(width, g, appearance_dim=appearance_dim, heads=width, target_stride=2**i)
            for i, g in enumerate(self.grids)
        )

    def forward(self, correlations: Sequence[Tensor], sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """The refined correlation `[b, s, t]` of the finest grid.

        Args:
            correlations: of each stage `[b, levels, ht, wt, hs, ws]`, coarse to fine.
            sources, targets: the features of each stage `[b, c, h, w]`.
        """
        refined = None
        for i, correlation in enumerate(correlations):
            x = self.encoders[i](correlation).relu()
            if refined is not None:
                x = x + upsample(refined, self.grids[i])
            source, target = (self.dropout(self.appearance[i](maps[i]).relu()) for maps in (sources, targets))
            layer = self.layers[i]
            refined = x + layer(x, source) + swap_planes(layer(swap_planes(x), target))
        assert refined is not None
        return refined.mean(1).flatten(3).flatten(1, 2).transpose(1, 2)
