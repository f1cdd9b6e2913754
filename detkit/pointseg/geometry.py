"""Centres, extents and resizing of many masks at once.

Shape letters: n masks, h/w pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.masks import MASKS_AT_ONCE, MaskCrops

# Denominator of the integer weights of a bilinear resize, as in OpenCV.
WEIGHT_UNIT = 2048


def profiles(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Number of pixels in each row `[n, h]` and each column `[n, w]` of bool masks `[n, h, w]`, int64.

    Eight pixels are summed as one 64-bit integer; its bytes do not overflow for sums of at most 255.
    """
    n, height, width = masks.shape
    if masks.numel() == 0:
        nothing = torch.zeros(n, height + width, dtype=torch.int64, device=masks.device)
        return nothing[:, :height], nothing[:, height:]
    words = F.pad(masks.view(torch.uint8), (0, -width % 8)).contiguous().view(torch.int64)
    columns = torch.stack([part.sum(1) for part in words.split(255, dim=1)])
    rows = torch.stack([part.sum(2) for part in words.split(255, dim=2)])[..., None]
    by_column = columns.view(torch.uint8).sum(0, dtype=torch.int64)
    return rows.view(torch.uint8).sum((0, 3), dtype=torch.int64), by_column[:, :width]


def centres_of_mass(masks: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Centres of mass of bool masks `[n, h, w]`.

    Args:
        masks: the masks, or parts of them beyond which there is nothing.
        start: [n, 2] int64, the row and the column at which each part begins; None for whole masks.

    Returns:
        The mean pixel index x, y `[n, 2]` float32, NaN for an empty mask, and the areas `[n]` in pixels.
    """
    rows, columns = profiles(masks)
    area = rows.sum(1)
    moments = torch.stack([(p * torch.arange(p.shape[1], device=p.device)).sum(1) for p in (columns, rows)], dim=1)
    if start is not None:
        moments += start.flip(1) * area[:, None]
    return (moments.double() / area[:, None]).float(), area


def centres_of_crops(masks: MaskCrops) -> tuple[Tensor, Tensor]:
    """The same of masks in little memory."""
    parts = [centres_of_mass(pixels, places[:, :2]) for _, places, pixels in masks.groups(MASKS_AT_ONCE)]
    if not parts:
        return torch.zeros(0, 2, device=masks.device), torch.zeros(0, dtype=torch.int64, device=masks.device)
    centres, areas = zip(*parts, strict=True)
    return torch.cat(centres), torch.cat(areas)


def extents(masks: Tensor) -> Tensor:
    """First and last pixel index x1 y1 x2 y2 `[n, 4]` int64 of bool masks `[n, h, w]`; all -1 for an empty mask."""
    rows, columns = (p > 0 for p in profiles(masks))
    firsts = [p.byte().argmax(1) for p in (columns, rows)]
    lasts = [p.shape[1] - 1 - p.flip(1).byte().argmax(1) for p in (columns, rows)]
    return torch.where(rows.any(1, keepdim=True), torch.stack([*firsts, *lasts], dim=1), -1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes `[n, 4]` xyxy around bool masks `[n, h, w]`; x2, y2 are one past the last pixel; zeros where empty."""
    box = extents(masks).float()
    return torch.where(box[:, :1] < 0, 0, box + box.new_tensor([0, 0, 1, 1]))


def quarter_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bool masks `[n, h, w]` to a quarter of their size and pad them bottom-right with 0 to `size` (h, w).

    It is bit-equal to OpenCV's bilinear resize of 8-bit images, which uses fixed-point arithmetic. Where both sides are
    divisible by 4, a pixel is 1 if at least two of the four in the middle of its 4 x 4 block are. Thin objects may
    vanish.

    Returns:
        uint8 of 0 and 1.
    """
    height, width = masks.shape[1:]
    out_h, out_w = int(height / 4 + 0.5), int(width / 4 + 0.5)
    pixels = masks.view(torch.uint8)
    top, bottom, top_weight, bottom_weight = _taps(height, out_h, False, masks.device)
    left, right, left_weight, right_weight = _taps(width, out_w, True, masks.device)
    # Both rows of a pixel in one byte: indexing single columns is slow.
    rows = pixels.index_select(1, top) + 2 * pixels.index_select(1, bottom)
    one, other = rows.index_select(2, left), rows.index_select(2, right)

    def interpolate(bit: int) -> Tensor:
        return (((one >> bit & 1) * left_weight + (other >> bit & 1) * right_weight) >> 4).int()

    blend = ((interpolate(0) * top_weight[:, None]) >> 16) + ((interpolate(1) * bottom_weight[:, None]) >> 16)
    return F.pad(((blend + 2) >> 2).byte(), (0, size[1] - out_w, 0, size[0] - out_h))


def quarter_crops(masks: MaskCrops, size: tuple[int, int]) -> Tensor:
    """The same of masks in little memory, of which there must be one; few of them are full at the same time."""
    groups = range(0, len(masks), MASKS_AT_ONCE)
    return torch.cat([quarter_masks(masks[start : start + MASKS_AT_ONCE].dense(), size) for start in groups])


def _taps(old: int, new: int, is_row: bool, device: torch.device) -> list[Tensor]:
    """For each new pixel along an axis the two old pixels beside it, and their integer weights, all `[new]`."""
    at = ((torch.arange(new, dtype=torch.float64) + 0.5) * (old / max(new, 1)) - 0.5).float()
    first = at.floor()
    part = at - first
    if is_row:  # beyond the first and the last pixel of a row only the nearest one counts
        part = torch.where((first < 0) | (first >= old - 1), 0, part)
    first = first.long()
    weights = [(WEIGHT_UNIT * share).round().short() for share in (1 - part, part)]
    return [tap.to(device) for tap in (first.clamp(0, old - 1), (first + 1).clamp(0, old - 1), *weights)]
