"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) in plain PyTorch.

Shape letters: b images, q queries, s positions of all levels together, m heads, d channels of a head,
l levels, p points, c channels of all heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ms_deform_attn(
    value_bsmd: Tensor, shapes: Sequence[tuple[int, int]], locations_bqmlp2: Tensor, weights_bqmlp: Tensor
) -> Tensor:
    """Sample `value` bilinearly around each query and sum the samples by their attention weights.

    Args:
        value_bsmd: projected features of all levels, flattened row by row and concatenated: s is the sum of
            h * w over `shapes`. float32, float64 or bfloat16.
        shapes: (h, w) of each level.
        locations_bqmlp2: where to sample, x and y, (0, 0) the top-left and (1, 1) the bottom-right corner of
            the level. Outside of it the value is 0.
        weights_bqmlp: attention weights, normalised by the caller over levels and points.

    Returns:
        `[b, q, m * d]` in the dtype of `value`. The arithmetic is at least float32.

    Raises:
        ValueError: `shapes` do not add up to s.
    """
    _check_shapes(shapes, value_bsmd)
    dtype = torch.promote_types(value_bsmd.dtype, torch.float32)
    inputs = [tensor.to(dtype) for tensor in (value_bsmd, locations_bqmlp2, weights_bqmlp)]
    return _sample_by_grid(inputs[0], shapes, *inputs[1:]).to(value_bsmd.dtype)


def project_and_attend(
    features_bsc: Tensor,
    padding_bs: Tensor,
    projection: nn.Linear,
    shapes: Sequence[tuple[int, int]],
    locations_bqmlp2: Tensor,
    weights_bqmlp: Tensor,
) -> Tensor:
    """`ms_deform_attn` of `projection(features)`, 0 on padding, split into heads.

    Projection and sampling are both linear. Where there are far more positions than samples, the features are
    therefore sampled first on a CPU, and only the sums are projected: q * m rows instead of s.

    Args:
        features_bsc: features of all levels, not yet projected.
        padding_bs: True on padding.
        shapes, locations_bqmlp2, weights_bqmlp: see `ms_deform_attn`.

    Returns:
        `[b, q, c]`.
    """
    _check_shapes(shapes, features_bsc)
    heads, channels = weights_bqmlp.shape[2], features_bsc.shape[2]
    # Sampling the features costs less than projecting them; its backward pass costs more.
    samples = 4 * weights_bqmlp[0].numel() * (4 if torch.is_grad_enabled() else 2)
    if features_bsc.device.type == "cpu" and features_bsc.shape[1] * channels > samples:
        sums, mass = _sample_features(features_bsc, padding_bs, shapes, locations_bqmlp2, weights_bqmlp)
        weight, bias = projection.weight.unflatten(0, (heads, -1)), projection.bias.unflatten(0, (heads, -1))
        return (torch.einsum("bqmc,mdc->bqmd", sums, weight) + mass[..., None] * bias).flatten(2)
    value = projection(features_bsc).masked_fill(padding_bs[..., None], 0)
    return ms_deform_attn(value.unflatten(-1, (heads, -1)), shapes, locations_bqmlp2, weights_bqmlp)


def _check_shapes(shapes: Sequence[tuple[int, int]], flattened: Tensor) -> None:
    if sum(h * w for h, w in shapes) != flattened.shape[1]:
        raise ValueError(f"levels {list(shapes)} do not add up to {flattened.shape[1]} positions")


def _sample_by_grid(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """One `grid_sample` for each level, then the weighted sum."""
    b, _, m, d = value.shape
    q, points = locations.shape[1], locations.shape[4]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).reshape(len(shapes), b * m, q, points, 2)
    maps = value.permute(0, 2, 3, 1).reshape(b * m, d, -1).split([h * w for h, w in shapes], dim=-1)
    samples = [
        F.grid_sample(flat.unflatten(-1, shape), grid, align_corners=False)
        for flat, shape, grid in zip(maps, shapes, grids, strict=True)
    ]
    weights = weights.transpose(1, 2).reshape(b * m, 1, q, -1)
    out = (torch.cat(samples, dim=-1) * weights).sum(-1)
    return out.view(b, m * d, q).transpose(1, 2)


def _sample_features(
    features: Tensor, padding: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sums `[b, q, m, c]` of the features around each query, and the weight `[b, q, m]` that is not padding.

    A query of a head is a bag of l * p * 4 rows, each weighted by attention times bilinear weight.
    """
    b, s, c = features.shape
    q, m = locations.shape[1:3]
    dtype = torch.promote_types(features.dtype, torch.float32)
    rows, corner_weights = _corners(shapes, locations.to(dtype))
    rows = rows + torch.arange(b).view(b, 1, 1, 1, 1, 1) * s
    bag_weights = corner_weights * weights.to(dtype)[..., None] * ~padding.flatten()[rows]
    bag_weights = bag_weights.view(b * q * m, -1)
    table = features.reshape(b * s, c).to(dtype)
    sums = F.embedding_bag(rows.view(b * q * m, -1), table, mode="sum", per_sample_weights=bag_weights)
    return sums.view(b, q, m, c), bag_weights.sum(-1).view(b, q, m)


def _corners(shapes: Sequence[tuple[int, int]], locations: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in the flattened levels and bilinear weights of the four neighbours, each `[b, q, m, l, p, 4]`."""
    size = locations.new_tensor([(w, h) for h, w in shapes]).view(-1, 1, 2)
    starts = torch.tensor([0] + [h * w for h, w in shapes], device=locations.device).cumsum(0)[:-1]
    pixel = locations * size - 0.5
    low = pixel.detach().floor()
    fraction = pixel - low
    x, y = low.unbind(-1)
    width, height = size.unbind(-1)
    columns = torch.stack([x, x + 1, x, x + 1], dim=-1)
    lines = torch.stack([y, y, y + 1, y + 1], dim=-1)
    inside = (columns >= 0) & (columns < width[..., None]) & (lines >= 0) & (lines < height[..., None])
    fx, fy = fraction.unbind(-1)
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], dim=-1) * inside
    row = (lines * width[..., None] + columns) * inside
    return row.long() + starts.view(-1, 1, 1), weights
