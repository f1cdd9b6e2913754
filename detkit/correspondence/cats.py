"""CATs: cost aggregation with transformers (arXiv 2106.02520).

Shape letters: b pairs, l levels, c channels, n cells of one image, s source cells, t target cells.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.correspondence.aggregator import Aggregator
from detkit.correspondence.matcher import Matcher, MatcherOptions
from detkit.ops.correlation import correlate_levels, mutual_filter
from detkit.ops.linear import Linear
from detkit.registry import register
from detkit.registry.ranges import Channels, Depth, Pixels


def resize_maps(maps: list[Tensor], grid: int) -> list[Tensor]:
    """Resize maps to `[b, c, grid, grid]`, bilinear; the corner cells stay at the corners."""
    return [F.interpolate(x, size=(grid, grid), mode="bilinear", align_corners=True) for x in maps]


@register
class CATs(Matcher):
    """Correlates the features of several backbone layers and refines the correlations by a transformer.

    Args:
        backbone: gives maps (see `detkit.correspondence.features.maps`) and has `num_channels`.
        side, grid: pixels and cells along each side of the square that images are stretched to.
        appearance_dim, depth, heads, mlp_ratio, zero_start: of the `Aggregator`.
        options: of `Matcher`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        side: Pixels = 256,
        grid: Depth = 16,
        appearance_dim: Channels = 128,
        depth: Depth = 1,
        heads: Depth = 6,
        mlp_ratio: Depth = 4,
        zero_start: bool = False,
        **options: MatcherOptions,
    ):
        super().__init__(side=side, grid=grid, **options)
        self.backbone = backbone
        self.appearance = nn.ModuleList(Linear(c, appearance_dim) for c in backbone.num_channels)
        transformer: dict[str, Any] = dict(depth=depth, heads=heads, mlp_ratio=mlp_ratio, zero_start=zero_start)
        self.aggregator = Aggregator(
            len(backbone.num_channels), grid=grid, appearance_dim=appearance_dim, **transformer
        )

    def correlation(self, source_b3hw: Tensor, target_b3hw: Tensor) -> Tensor:
        """The correlations of all levels, refined by the transformer and averaged: `[b, s, t]`.

        Args:
            source_b3hw, target_b3hw: normalised squares of `side` pixels.
        """
        sources, targets = self.features(source_b3hw, target_b3hw)
        corr = self.raw_correlation(sources, targets)
        return self.aggregator(corr, self.embed(sources), self.embed(targets))

    def features(self, source_b3hw: Tensor, target_b3hw: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps `[b, c, grid, grid]` of both images."""
        maps = resize_maps(self.backbone(torch.cat([source_b3hw, target_b3hw])), self.grid)
        b = source_b3hw.shape[0]
        return [x[:b] for x in maps], [x[b:] for x in maps]

    def raw_correlation(self, sources: list[Tensor], targets: list[Tensor]) -> Tensor:
        """The correlations of all levels after the mutual filter, `[b, l, s, t]` in float32."""
        with torch.autocast(sources[0].device.type, enabled=False):
            return mutual_filter(correlate_levels([x.float() for x in sources], [x.float() for x in targets]))

    def embed(self, maps: list[Tensor]) -> Tensor:
        """The embedded appearance of all cells, `[b, l, n, c]`."""
        embedded = [linear(x.flatten(2).transpose(1, 2)) for linear, x in zip(self.appearance, maps, strict=True)]
        return torch.stack(embedded, dim=1)
