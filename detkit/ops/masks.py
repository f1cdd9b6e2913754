"""Instance masks as small square bitmaps that are stretched over boxes: cut out of images and pasted back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.rle import encode_region

# Masks that are converted to float32 at the same time.
MASKS_AT_ONCE = 16


def crop_masks(masks: Tensor, boxes: Tensor, side: int, *, frame: tuple[int, int] | None = None) -> Tensor:
    """Stretch the content of each box over a `side` x `side` bitmap.

    RoIAlign (arXiv 1703.06870) with pixel centres at half pixels and as many samples for each cell as it has
    pixels, done as a matrix product along y and one along x. A cell is True where the mean is at least a half.

    Args:
        masks: [n, h, w] bool.
        boxes: [n, 4] xyxy in pixels, inside the frame.
        frame: (h, w) to which the masks were padded with False at the bottom and on the right, by default their own
            size. It matters at an edge of the masks: the last pixel extends beyond the edge of the frame only.

    Returns:
        `[n, side, side]` bool.
    """
    height, width = frame or masks.shape[1:]
    boxes = boxes.float()
    along_y = cell_weights(boxes[:, 1], boxes[:, 3], side, height)[..., : masks.shape[1]]
    along_x = cell_weights(boxes[:, 0], boxes[:, 2], side, width)[..., : masks.shape[2]].transpose(1, 2)
    parts = zip(along_y.split(MASKS_AT_ONCE), masks.split(MASKS_AT_ONCE), along_x.split(MASKS_AT_ONCE), strict=True)
    return torch.cat([y @ part.float() @ x for y, part, x in parts]) >= 0.5


def cell_weights(low: Tensor, high: Tensor, cells: int, size: int) -> Tensor:
    """Sampling weights of RoIAlign along one axis.

    Args:
        low, high: [n] ends of the intervals in pixels.
        cells: parts of each interval.
        size: pixels of the axis.

    Returns:
        `[n, cells, size]`: the weight of each pixel in the mean over each cell.
    """
    cell = ((high - low) / cells)[:, None, None]
    samples = cell.ceil().clamp(min=1)
    number = torch.arange(math.ceil(size / cells), device=low.device)
    place = torch.arange(cells, device=low.device)[:, None] + (number + 0.5) / samples
    at = (low[:, None, None] - 0.5 + cell * place).clamp(0, size - 1)
    first, weight = at.floor(), (number < samples) / samples
    pixels = torch.stack([first, (first + 1).clamp(max=size - 1)], dim=-1).long()
    weights = torch.stack([(first + 1 - at) * weight, (at - first) * weight], dim=-1)
    return low.new_zeros(len(low), cells, size).scatter_add_(2, pixels.flatten(2), weights.flatten(2))


@dataclass
class BoxMasks:
    """The instance masks of one image as bitmaps that are stretched over boxes, bilinearly.

    A hundred full masks of a large photograph take gigabytes. The bitmaps take kilobytes; they are resized and pasted
    only when the full masks are needed.

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

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> BoxMasks:
        """A copy with `function` applied to both tensors."""
        return BoxMasks(function(self.bitmaps), function(self.boxes), self.size)

    def cpu(self) -> BoxMasks:
        """The same on the CPU."""
        return self.map_tensors(lambda tensor: tensor.cpu())

    def dense(self) -> Tensor:
        """The full masks, `[n, h, w]` bool."""
        shape = (len(self), *self.size)
        if self.bitmaps.device.type == "cpu":
            # numpy asks for huge pages, which makes the first touch of so much memory several times faster.
            masks = torch.from_numpy(np.zeros(shape, dtype=bool))
        else:
            masks = self.bitmaps.new_zeros(shape)
        for mask, (top, left, pixels) in zip(masks, self.regions(), strict=True):
            mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return masks

    def encode(self) -> list[dict[str, Any]]:
        """The masks as compressed RLE, without the full masks in between; see `detkit.ops.rle.encode_masks`."""
        return [encode_region(pixels, top, left, *self.size) for top, left, pixels in self.cpu().regions()]

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
