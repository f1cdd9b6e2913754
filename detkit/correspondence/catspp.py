"""CATs++: cost aggregation with convolutions and transformers (arXiv 2202.06817)."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor, nn

from detkit.correspondence.convolutional import PyramidAggregator
from detkit.correspondence.matcher import Matcher, MatcherOptions
from detkit.ops.correlation import hyper_correlation
from detkit.registry import register
from detkit.registry.ranges import Channels, Pixels, ShareBelowOne


@register
class CATsPlusPlus(Matcher):
    """Correlates all blocks of three backbone stages and refines the correlations from coarse to fine.

    Args:
        backbone: gives maps (see `detkit.correspondence.features.maps`) and has `num_channels`. Maps with equal
            channels form a stage; each stage has half the resolution of the one before, the finest has stride 8. Stages
            2 to 4 are `layers=range(4, 34)` of ResNet-101 and `range(4, 17)` of ResNet-50.
        side: pixels of the square that images are stretched to, a multiple of 16; the grid has `side / 16` cells.
        width, appearance_dim, dropout: of the `PyramidAggregator`.
        options: of `Matcher`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        side: Pixels = 512,
        width: Channels = 4,
        appearance_dim: Channels = 128,
        dropout: ShareBelowOne = 0.5,
        **options: MatcherOptions,
    ):
        if side % 16:
            raise ValueError(f"side must be a multiple of 16, got {side}")
        super().__init__(side=side, grid=side // 16, **options)
        self.backbone = backbone
        stages = [(channels, len(list(run))) for channels, run in groupby(backbone.num_channels)][::-1]
        self.levels = [levels for _, levels in stages]
        options = dict(grid=self.grid, width=width, appearance_dim=appearance_dim, dropout=dropout)
        self.aggregator = PyramidAggregator(self.levels, [channels for channels, _ in stages], **options)

    def correlation(self, source_b3hw: Tensor, target_b3hw: Tensor) -> Tensor:
        """The correlations of all blocks, refined stage by stage from coarse to fine: `[b, s, t]` on the finest grid.

        Args:
            source_b3hw, target_b3hw: normalised squares of `side` pixels.
        """
        b, maps = source_b3hw.shape[0], self.backbone(torch.cat([source_b3hw, target_b3hw]))
        correlations, sources, targets = [], [], []
        for levels in self.levels:
            stage = [(x[:b], x[b:]) for x in maps[-levels:]]
            maps = maps[:-levels]
            with torch.autocast(source_b3hw.device.type, enabled=False):
                stack = [hyper_correlation(source.float(), target.float()) for source, target in stage]
                correlations.append(torch.stack(stack, dim=1))
            source, target = stage[-1]
            sources.append(source)
            targets.append(target)
        return self.aggregator(correlations, sources, targets)
