"""Instance masks of which only the part around each object is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from detkit.ops.masks.regions import RegionMasks


@dataclass
class MaskCrops(RegionMasks):
    """The instance masks of one image, each as the pixels in the smallest rectangle around it.

    Their memory grows with the area of the objects, not with the number of objects times that of the image.

    Attributes:
        pixels: [p] bool, the rectangles one after another, each row by row.
        places: [n, 4] int64 on the CPU: top, left, height and width of each rectangle in pixels; zeros for an empty
            mask.
        size: (h, w) of the image.
    """

    pixels: Tensor
    places: Tensor
    size: tuple[int, int]

    @classmethod
    def of_regions(cls, regions: Iterable[tuple[int, int, np.ndarray]], size: tuple[int, int]) -> Self:
        """Of the top row, the left column and the pixels `[h, w]` bool of a region around each mask."""
        cut = [_tight(*region) for region in regions]
        places = [(top, left, *pixels.shape) for top, left, pixels in cut]
        flat = [pixels.ravel() for _, _, pixels in cut]
        pixels = torch.from_numpy(np.concatenate(flat)) if flat else torch.zeros(0, dtype=torch.bool)
        return cls(pixels, torch.tensor(places, dtype=torch.int64).view(-1, 4), (size[0], size[1]))

    @classmethod
    def of_masks(cls, masks: Iterable[np.ndarray] | Tensor, size: tuple[int, int]) -> Self:
        """Of full masks of an image of `size` (h, w), `[h, w]` bool each; they are on the device of a tensor."""
        device = masks.device if isinstance(masks, Tensor) else "cpu"
        arrays = masks.bool().cpu().numpy() if isinstance(masks, Tensor) else masks
        return cls.of_regions(((0, 0, mask) for mask in arrays), size).to(device)

    @classmethod
    def joined(cls, parts: Sequence[MaskCrops], size: tuple[int, int]) -> Self:
        """The masks of several, of which there is at least one, all of an image of `size` (h, w)."""
        pixels, places = (torch.cat([vars(part)[name] for part in parts]) for name in ("pixels", "places"))
        return cls(pixels, places, size)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, keep: Any) -> Self:
        """Select masks by a bool mask, an index tensor, a list or a slice."""
        keep = keep.cpu() if isinstance(keep, Tensor) else keep
        parts = self.pixels.split(self.areas)
        chosen = [parts[i] for i in torch.arange(len(self))[keep].tolist()]
        pixels = torch.cat(chosen) if chosen else self.pixels[:0]
        return replace(self, pixels=pixels, places=self.places[keep])

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    @property
    def areas(self) -> list[int]:
        """The pixels of each rectangle."""
        return (self.places[:, 2] * self.places[:, 3]).tolist()

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy with `function` applied to the pixels; the places stay on the CPU."""
        return replace(self, pixels=function(self.pixels))

    def boxes(self) -> Tensor:
        """The rectangles, `[n, 4]` float32 xyxy in pixels, on the CPU."""
        top_left = self.places[:, :2].flip(1)
        return torch.cat([top_left, top_left + self.places[:, 2:].flip(1)], dim=1).float()

    def regions(self) -> Iterator[tuple[int, int, Tensor]]:
        """For each mask its rectangle: top row, left column, and pixels `[h, w]` bool."""
        for (top, left, height, width), part in zip(self.places.tolist(), self.pixels.split(self.areas), strict=True):
            yield top, left, part.view(height, width)

    def groups(self, number: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The masks in groups of `number`, in order, each padded to the largest rectangle of its group.

        Yields:
            Which masks they are, their places `[m, 4]` on the device of the pixels, and their pixels `[m, h, w]` bool.
        """
        regions = list(self.regions())
        for start in range(0, len(self), number):
            group = slice(start, start + number)
            places = self.places[group]
            padded = self.pixels.new_zeros(len(places), *places[:, 2:].amax(0).tolist())
            for mask, (_, _, pixels) in zip(padded, regions[group], strict=True):
                mask[: pixels.shape[0], : pixels.shape[1]] = pixels
            yield group, places.to(self.device), padded

    def resampled(self, rows: np.ndarray, columns: np.ndarray) -> Self:
        """The masks of another image, made of pixels of this one.

        Resizing to the nearest pixels, cropping and mirroring, in any order, are such a change. On the CPU only.

        Args:
            rows: [h] which row of this image each row of the other one shows, ascending or descending.
            columns: [w] the same of the columns.
        """

        def change(top: int, left: int, pixels: Tensor) -> tuple[int, int, np.ndarray]:
            height, width = pixels.shape
            inside_y = np.flatnonzero((rows >= top) & (rows < top + height))
            inside_x = np.flatnonzero((columns >= left) & (columns < left + width))
            if not (len(inside_y) and len(inside_x)):
                return 0, 0, np.zeros((0, 0), dtype=bool)
            found = pixels.numpy()[rows[inside_y] - top][:, columns[inside_x] - left]
            return int(inside_y[0]), int(inside_x[0]), found

        return self.of_regions((change(*region) for region in self.regions()), (len(rows), len(columns)))


def _tight(top: int, left: int, pixels: np.ndarray) -> tuple[int, int, np.ndarray]:
    """The smallest region around the mask in a region; one without pixels, in the corner of the image, for none."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return 0, 0, np.zeros((0, 0), dtype=bool)
    inner = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return top + int(rows[0]), left + int(columns[0]), inner
