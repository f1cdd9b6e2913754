"""Correlation of feature maps, and flow from it.

A correlation is `[..., s, t]`: every cell of the source grid against every cell of the target grid, both row by row
(cell = y * w + x). A flow is `[b, 2, h, w]` on the target grid, x then y in cells: the place of the match in the source
minus the place of the target cell.

Shape letters: b pairs, l levels, c channels, s source cells, t target cells, n points, h/w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def normalize_features(x_bchw: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each feature of `[b, c, h, w]` by its norm over the channels, `sqrt(sum(x^2) + eps)`."""
    return x_bchw / (x_bchw.square().sum(1, keepdim=True) + eps).sqrt()


def cosine_correlation(source_bchw: Tensor, target_bchw: Tensor, eps: float = 1e-6) -> Tensor:
    """The cosine between all cells of two maps, `[b, s, t]` in -1..1; 0 where a feature is zero."""
    source, target = (normalize_features(x, eps).flatten(2) for x in (source_bchw, target_bchw))
    return source.transpose(1, 2) @ target


def correlate_levels(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The cosine correlations of several levels, all on grids of one size, `[b, l, s, t]`."""
    return torch.stack([cosine_correlation(s, t) for s, t in zip(sources, targets, strict=True)], dim=1)


def hyper_correlation(source_bchw: Tensor, target_bchw: Tensor, eps: float = 1e-5) -> Tensor:
    """The correlation that CATs++ (arXiv 2202.06817) starts from, `[b, ht, wt, hs, ws]`: cosines, at least 0.

    Unlike in `cosine_correlation` the target comes first, and features are divided by `norm(x) + eps`.
    """
    b, _, hs, ws = source_bchw.shape
    ht, wt = target_bchw.shape[2:]
    source, target = (x.flatten(2) for x in (source_bchw, target_bchw))
    source, target = (x / (x.norm(dim=1, keepdim=True) + eps) for x in (source, target))
    return (target.transpose(1, 2) @ source).clamp(min=0).view(b, ht, wt, hs, ws)


def mutual_filter(corr_st: Tensor) -> Tensor:
    """Soft mutual nearest neighbours (NCNet, arXiv 1810.10510) of `[..., s, t]`.

    Each entry is multiplied by its ratio to the maximum of its source cell and by its ratio to the maximum of its
    target cell.
    """
    best_of_source, best_of_target = corr_st.amax(-1, keepdim=True), corr_st.amax(-2, keepdim=True)
    best_of_source, best_of_target = (m.masked_fill(m == 0, 1e-30) for m in (best_of_source, best_of_target))
    return corr_st * ((corr_st / best_of_source) * (corr_st / best_of_target))


def cell_positions(height: int, width: int, like: Tensor) -> Tensor:
    """x and y of each cell, `[2, h, w]` in cells: 0, 1, ...; dtype and device are those of `like`."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([x, y])


def normalized_positions(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x `[w]` and y `[h]` of the cell centres, from -1 (first cell) to 1 (last cell)."""
    x, y = (torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device) for side in (width, height))
    return x, y


def expected_position(probability_bst: Tensor, x_w: Tensor, y_h: Tensor) -> Tensor:
    """The mean x, y of the source cells for each target cell, weighted by probability: `[b, 2, t]`.

    Args:
        probability_bst: adds up to 1 over the source cells.
        x_w, y_h: x of the columns and y of the rows of the source grid.
    """
    b, _, t = probability_bst.shape
    grid = probability_bst.view(b, len(y_h), len(x_w), t)
    return torch.stack([x_w @ grid.sum(1), y_h @ grid.sum(2)], dim=1)


def probabilities(corr_bst: Tensor, temperature: float) -> Tensor:
    """The softmax over source cells, `[b, s, t]`, in at least float32."""
    return (corr_bst.float() / temperature).softmax(1)


def map_to_flow(map_b2hw: Tensor, source_size: tuple[int, int]) -> Tensor:
    """The flow `[b, 2, h, w]` in cells of a map of source places.

    Args:
        map_b2hw: x, y in -1..1, see `normalized_positions`.
        source_size: (h, w) of the source grid.
    """
    h, w = source_size
    last = map_b2hw.new_tensor([w - 1, h - 1])[:, None, None]
    return (map_b2hw + 1) * last / 2 - cell_positions(map_b2hw.shape[2], map_b2hw.shape[3], map_b2hw)


def hard_flow(corr_bst: Tensor, source_size: tuple[int, int], target_size: tuple[int, int]) -> Tensor:
    """The flow to the best source cell of each target cell, `[b, 2, h, w]`."""
    best = corr_bst.argmax(1)
    found = torch.stack([best % source_size[1], best // source_size[1]], dim=1).to(corr_bst.dtype)
    return found.view(-1, 2, *target_size) - cell_positions(*target_size, corr_bst)


def sample_at(grid_bchw: Tensor, points_bn2: Tensor) -> Tensor:
    """Sample a grid at points, bilinear.

    Args:
        points_bn2: x y in cells; 0 is the centre of the first cell. Points beyond the outermost centres get the value
            at the border.

    Returns:
        `[b, n, c]`.
    """
    h, w = grid_bchw.shape[2:]
    where = (2 * points_bn2 + 1) / points_bn2.new_tensor([w, h]) - 1
    values = F.grid_sample(grid_bchw, where[:, :, None].to(grid_bchw), padding_mode="border", align_corners=False)
    return values[..., 0].transpose(1, 2)


def transfer_points(
    flow_b2hw: Tensor, points_bn2: Tensor, frame: tuple[int, int], *, whole_pixels: bool = False
) -> Tensor:
    """Move target points along the flow to their matches in the source.

    Args:
        points_bn2: x y in pixels of the target image, which the grid covers. A point outside of the image moves like
            the nearest place on its border.
        frame: (h, w) of both images in pixels.
        whole_pixels: cut the points to whole pixels inside the image first, as the authors' code of CATs does.

    Returns:
        The matches in pixels of the source, `[b, n, 2]`; they may lie outside of it.
    """
    h, w = flow_b2hw.shape[2:]
    stride = points_bn2.new_tensor([frame[1] / w, frame[0] / h])
    if whole_pixels:
        last = points_bn2.new_tensor([frame[1] - 1, frame[0] - 1])
        points_bn2 = points_bn2.trunc().clamp(min=0).minimum(last)
    cells = (points_bn2 + (0.5 if whole_pixels else 0)) / stride - 0.5
    return points_bn2 + sample_at(flow_b2hw, cells) * stride


def position_map(flow_b2hw: Tensor, target_size: tuple[int, int], source_size: tuple[int, int]) -> Tensor:
    """The match of each pixel of a target image in the source image.

    Args:
        flow_b2hw: on a grid over the target.
        target_size, source_size: (h, w) of the images in pixels, of any size.

    Returns:
        `[b, 2, h, w]` of the target's size: x y in pixels of the source.
    """
    h, w = flow_b2hw.shape[2:]
    flow = F.interpolate(flow_b2hw, size=target_size, mode="bilinear", align_corners=False)
    own = cell_positions(*target_size, flow) + 0.5
    cells = own * flow.new_tensor([w / target_size[1], h / target_size[0]])[:, None, None] + flow
    return cells * flow.new_tensor([source_size[1] / w, source_size[0] / h])[:, None, None]


def warp(image_bchw: Tensor, map_b2hw: Tensor) -> Tensor:
    """Rearrange an image `[b, c, h, w]` by a `position_map` `[b, 2, h', w']`: `[b, c, h', w']`.

    Each pixel of the result is sampled, bilinear, at the place that the map gives for it; 0 outside of the image.
    """
    h, w = image_bchw.shape[2:]
    where = 2 * map_b2hw / map_b2hw.new_tensor([w, h])[:, None, None] - 1
    return F.grid_sample(image_bchw, where.permute(0, 2, 3, 1), align_corners=False)
