"""Instance masks as small square bitmaps that are stretched over boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.masks.regions import RegionMasks


@dataclass
class BoxMasks(RegionMasks):
    """The instance masks of one image as bitmaps that are stretched over boxes, bilinearly.

    The bitmaps take kilobytes; they are resized and pasted only when the full masks are needed.

    Attributes:
        bitmaps: [n, s, s] bool.
        boxes: [n, 4] xyxy in pixels of the image; they may reach beyond it.
        size: (h, w) of the image.
    """

    bitmaps: Tensor
    boxes: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.bitmaps)

    def __getitem__(self, keep: Any) -> BoxMasks:
        """Select masks by a bool mask, an index tensor or a slice."""
        return BoxMasks(self.bitmaps[keep], self.boxes[keep], self.size)

    @property
    def device(self) -> torch.device:
        """Where the bitmaps are."""
        return self.bitmaps.device

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> BoxMasks:
        """A copy with `function` applied to both tensors."""
        return BoxMasks(function(self.bitmaps), function(self.boxes), self.size)

    def regions(self) -> Iterator[tuple[int, int, Tensor]]:
        """For each mask the part of it that lies in the image: top row, left column, and pixels `[h, w]` bool."""
        (height, width), device = self.size, self.bitmaps.device
        padded = F.pad(self.bitmaps.float(), (1, 1, 1, 1))
        for bitmap, (x1, y1, x2, y2) in zip(padded, self.boxes.double().cpu().tolist(), strict=True):
            top, rows = pixel_coordinates(y1, y2, height, self.bitmaps.shape[1], device)
            left, columns = pixel_coordinates(x1, x2, width, self.bitmaps.shape[2], device)
            yield top, left, interpolate_axis(interpolate_axis(bitmap, 1, columns), 0, rows) >= 0.5


def pixel_coordinates(low: float, high: float, size: int, cells: int, device: torch.device) -> tuple[int, Tensor]:
    """The pixels whose centres lie in an interval, and their places in the bitmap that is stretched over it.

    Args:
        low, high: ends of the interval in pixels.
        size: pixels of the image along this axis.
        cells: cells of the bitmap along this axis.
        device: of the result.

    Returns:
        The index of the first such pixel, and for it and each further one its place `[m]` in cells; 0 is the centre of
        the first cell.
    """
    if not high > low:
        return 0, torch.zeros(0, device=device)
    first, last = math.ceil(max(low - 0.5, 0)), math.floor(min(high - 0.5, size - 1))
    pixels = torch.arange(first, max(first, last + 1), device=device, dtype=torch.float32)
    return first, (pixels + (0.5 - low)) * (cells / (high - low)) - 0.5


def interpolate_axis(padded: Tensor, dim: int, at: Tensor) -> Tensor:
    """Interpolate `[h, w]` linearly along `dim` at the places `at`; `padded` has one more element at each end, so that
    place 0 is its element 1."""
    low = at.floor()
    fraction, index = at - low, low.long() + 1
    if dim == 0:
        fraction = fraction[:, None]
    return torch.lerp(padded.index_select(dim, index), padded.index_select(dim, index + 1), fraction)
