"""A matcher without training: the nearest neighbour of a feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detkit.correspondence.cats import resize_maps
from detkit.correspondence.matcher import Matcher, MatcherOptions
from detkit.ops.correlation import correlate_levels, hard_flow, mutual_filter, probabilities, sample_at
from detkit.registry import register
from detkit.registry.ranges import Depth, Pixels
from detkit.structures import Flow


@register
class NearestNeighbourMatcher(Matcher):
    """Matches each cell with the source cell of the most similar features: a baseline for trained matchers.

    The similarity is the mean cosine over the layers. The confidence is the probability of the best cell, by a softmax
    with `temperature`. The similarities of a point are interpolated between cells.

    Args:
        backbone: gives maps (see `detkit.correspondence.features.maps`).
        side, grid: pixels and cells along each side of the square that images are stretched to.
        mutual: filter the similarities by soft mutual nearest neighbours (`mutual_filter`), as CATs does.
        options: of `Matcher`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        side: Pixels = 256,
        grid: Depth = 16,
        mutual: bool = False,
        **options: MatcherOptions,
    ):
        super().__init__(side=side, grid=grid, **options)
        self.backbone, self.mutual = backbone.requires_grad_(False), mutual

    def correlation(self, source_b3hw: Tensor, target_b3hw: Tensor) -> Tensor:
        """The mean cosine of source and target cells over the layers (with `mutual` after the filter), `[b, s, t]`.

        Args:
            source_b3hw, target_b3hw: normalised squares of `side` pixels.
        """
        maps = resize_maps(self.backbone(torch.cat([source_b3hw, target_b3hw])), self.grid)
        pairs = [x.float().chunk(2) for x in maps]
        with torch.autocast(source_b3hw.device.type, enabled=False):
            corr = correlate_levels([source for source, _ in pairs], [target for _, target in pairs])
            return (mutual_filter(corr) if self.mutual else corr).mean(1)

    def flow_of(self, corr_bst: Tensor) -> Flow:
        """The flow `[b, 2, grid, grid]` in cells to the best source cell of each target cell.

        Its confidence is the softmax probability of that cell, `[b, grid, grid]` in 0..1.
        """
        shape = (self.grid, self.grid)
        confidence = probabilities(corr_bst, self.temperature).amax(1)
        return Flow(hard_flow(corr_bst, shape, shape), confidence.unflatten(1, shape))

    def transfer(self, corr_bst: Tensor, points_bn2: Tensor) -> tuple[Tensor, Tensor]:
        """The centres of the best source cells for target points `[b, n, 2]`, and their probabilities `[b, n]`.

        Both points and centres are in pixels of the square.
        """
        cells = points_bn2 * self.grid / self.side - 0.5
        similarity_bns = sample_at(corr_bst.unflatten(2, (self.grid, self.grid)), cells)
        confidence, best = (similarity_bns / self.temperature).softmax(2).max(2)
        found = torch.stack([best % self.grid, best // self.grid], dim=2)
        return (found + 0.5) * (self.side / self.grid), confidence
