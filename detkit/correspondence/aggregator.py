"""The transformer aggregator of CATs (arXiv 2106.02520).

Shape letters: b pairs, l levels, n cells of one image, s source cells, t target cells, d channels of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.backbones.layers import Mlp
from detkit.ops.linear import Linear


class Attention(nn.Module):
    """Multi-head self-attention among the n tokens of `[..., n, d]`."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x_nd: Tensor) -> Tensor:
        """Mix the tokens of each sequence; `[..., n, d]` in and out."""
        qkv = self.qkv(x_nd).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(-3, -2).flatten(0, -4) for part in qkv.unbind(-3))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(mixed.reshape(x_nd.shape))


class Residual(nn.Module):
    """`x + part(norm(x))`."""

    def __init__(self, dim: int, part: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d]` in and out."""
        return x + self.part(self.norm(x))


class AggregatorBlock(nn.Module):
    """Attention among the cells of each level, then among the levels of each cell, each followed by an MLP.

    With a single level the second attention and the first MLP are left out.
    """

    def __init__(self, dim: int, heads: int, hidden_dim: int, levels: int):
        super().__init__()
        self.across_cells = Residual(dim, Attention(dim, heads))
        self.across_levels = None
        if levels > 1:
            self.level_mlp = Residual(dim, Mlp(dim, hidden_dim))
            self.across_levels = Residual(dim, Attention(dim, heads))
        self.mlp = Residual(dim, Mlp(dim, hidden_dim))

    def forward(self, x_blnd: Tensor) -> Tensor:
        """Tokens `[b, l, n, d]` in and out."""
        x_blnd = self.across_cells(x_blnd)
        if self.across_levels is not None:
            x_blnd = self.level_mlp(x_blnd)
            x_blnd = self.across_levels(x_blnd.transpose(1, 2)).transpose(1, 2)
        return self.mlp(x_blnd)


class Aggregator(nn.Module):
    """Refines correlations in two passes with the same weights: with target cells as tokens, then with source cells.

    The token of a cell is its row of the correlation, concatenated with its embedded appearance.

    Args:
        levels: number of correlations of a pair.
        grid: cells along each side of both images.
        appearance_dim: channels of the embedded appearance.
        zero_start: start the output layer with zeros, so that the aggregator at first leaves the correlations
            unchanged. This helps with few labelled pairs; the published start is random.
        depth, heads, mlp_ratio: of the transformer; `grid ** 2 + appearance_dim` must be a multiple of 2 and of heads.
    """

    def __init__(
        self,
        levels: int,
        *,
        grid: int = 16,
        appearance_dim: int = 128,
        depth: int = 1,
        heads: int = 6,
        mlp_ratio: int = 4,
        zero_start: bool = False,
    ):
        super().__init__()
        dim = grid**2 + appearance_dim
        if dim % heads or dim % 2:
            raise ValueError(
                f"a token has grid^2 + appearance_dim = {dim} channels, which must be a multiple of 2 and of {heads} "
                "heads"
            )
        self.position_x = nn.Parameter(torch.zeros(1, levels, 1, grid, dim // 2))
        self.position_y = nn.Parameter(torch.zeros(1, levels, grid, 1, dim // 2))
        nn.init.trunc_normal_(self.position_x, std=0.02)
        nn.init.trunc_normal_(self.position_y, std=0.02)
        self.blocks = nn.ModuleList(AggregatorBlock(dim, heads, mlp_ratio * dim, levels) for _ in range(depth))
        self.proj = Linear(dim, grid**2)
        self.apply(_init_linear)
        if zero_start:
            nn.init.zeros_(self.proj.weight)

    def forward(self, corr_blst: Tensor, source_bls: Tensor, target_blt: Tensor) -> Tensor:
        """The refined correlation, averaged over the levels.

        Both passes add their output to the correlation that was given; the second pass reads the output of the first.

        Args:
            corr_blst: correlations of all levels.
            source_bls, target_blt: embedded appearance `[b, l, n, c]` of the cells of both images.

        Returns:
            `[b, s, t]`.
        """
        refined = corr_blst + self.refine(corr_blst.transpose(2, 3), target_blt).transpose(2, 3)
        return (corr_blst + self.refine(refined, source_bls)).mean(1)

    def refine(self, rows_blnm: Tensor, appearance_blnc: Tensor) -> Tensor:
        """One pass over the tokens of one image: what is to be added to their rows, `[b, l, n, m]`."""
        x_blnd = torch.cat([rows_blnm, appearance_blnc], dim=-1) + self.positions()
        for block in self.blocks:
            x_blnd = block(x_blnd)
        return self.proj(x_blnd)

    def positions(self) -> Tensor:
        """Position embeddings `[1, l, n, d]`: x in the first half of the channels, y in the second."""
        grid = self.position_x.shape[3]
        x = self.position_x.expand(-1, -1, grid, -1, -1)
        y = self.position_y.expand(-1, -1, -1, grid, -1)
        return torch.cat([x, y], dim=-1).flatten(2, 3)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
