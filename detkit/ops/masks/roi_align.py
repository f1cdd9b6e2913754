"""The content of boxes of instance masks as small square bitmaps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detkit.ops.masks.crops import MaskCrops

# Masks that are converted to float32 at the same time.
MASKS_AT_ONCE = 16


def crop_masks(masks: MaskCrops, boxes: Tensor, side: int, *, frame: tuple[int, int] | None = None) -> Tensor:
    """Stretch the content of each box over a `side` x `side` bitmap.

    RoIAlign (arXiv 1703.06870) with pixel centres at half pixels and as many samples for each cell as it has
    pixels, done as a matrix product along y and one along x. A cell is True where the mean is at least a half.

    Args:
        masks: n masks.
        boxes: [n, 4] xyxy in pixels, inside the frame.
        frame: (h, w) to which the masks were padded with False at the bottom and on the right, by default their own
            size. It matters at an edge of the masks: the last pixel extends beyond the edge of the frame only.

    Returns:
        `[n, side, side]` bool.
    """
    (height, width), boxes = frame or masks.size, boxes.float()
    bitmaps = boxes.new_zeros(len(masks), side, side, dtype=torch.bool)
    for group, places, pixels in masks.groups(MASKS_AT_ONCE):
        x1, y1, x2, y2 = boxes[group].unbind(1)
        along_y = cell_weights(y1, y2, side, height, places[:, 0], pixels.shape[1])
        along_x = cell_weights(x1, x2, side, width, places[:, 1], pixels.shape[2])
        bitmaps[group] = along_y @ pixels.float() @ along_x.transpose(1, 2) >= 0.5
    return bitmaps


def cell_weights(low: Tensor, high: Tensor, cells: int, size: int, start: Tensor, length: int) -> Tensor:
    """Sampling weights of RoIAlign along one axis.

    Args:
        low, high: [n] ends of the intervals in pixels.
        cells: parts of each interval.
        size: pixels of the axis.
        start: [n] the first pixel whose weight is wanted.
        length: how many pixels from there.

    Returns:
        `[n, cells, length]`: the weight of each pixel in the mean over each cell.
    """
    cell = ((high - low) / cells)[:, None, None]
    samples = cell.ceil().clamp(min=1)
    number = torch.arange(math.ceil(size / cells), device=low.device)
    place = torch.arange(cells, device=low.device)[:, None] + (number + 0.5) / samples
    at = (low[:, None, None] - 0.5 + cell * place).clamp(0, size - 1)
    first, weight = at.floor(), (number < samples) / samples
    pixels = torch.stack([first, (first + 1).clamp(max=size - 1)], dim=-1).long()
    weights = torch.stack([(first + 1 - at) * weight, (at - first) * weight], dim=-1)
    # What lies beside the wanted pixels goes to a further one at each end.
    index = (pixels - (start - 1)[:, None, None, None]).clamp(0, length + 1)
    summed = low.new_zeros(len(low), cells, length + 2).scatter_add_(2, index.flatten(2), weights.flatten(2))
    return summed[..., 1:-1]
