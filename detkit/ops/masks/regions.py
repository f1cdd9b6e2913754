"""What all forms of instance masks have that are smaller than full masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from detkit.ops.rle import encode_region


class RegionMasks(ABC):
    """The instance masks of one image that are kept as something smaller than `[n, h, w]`.

    A hundred full masks of a large photograph take gigabytes; they are made only when they are needed.

    Attributes:
        size: (h, w) of the image.
    """

    size: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int:
        """The number of masks."""

    @abstractmethod
    def __getitem__(self, keep: Any) -> Self:
        """Select masks by a bool mask, an index tensor or a slice."""

    @abstractmethod
    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy with `function`, which moves tensors, applied to those that follow a device."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the masks are."""

    @abstractmethod
    def regions(self) -> Iterator[tuple[int, int, Tensor]]:
        """For each mask a part of the image that holds it: top row, left column, and pixels `[h, w]` bool."""

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return self.map_tensors(lambda tensor: tensor.to(device))

    def cpu(self) -> Self:
        """The same on the CPU."""
        return self.to("cpu")

    def dense(self) -> Tensor:
        """The full masks, `[n, h, w]` bool."""
        shape = (len(self), *self.size)
        if self.device.type == "cpu":
            # numpy asks for huge pages, which makes the first touch of so much memory several times faster.
            masks = torch.from_numpy(np.zeros(shape, dtype=bool))
        else:
            masks = torch.zeros(shape, dtype=torch.bool, device=self.device)
        for mask, (top, left, pixels) in zip(masks, self.regions(), strict=True):
            mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return masks

    def encode(self) -> list[dict[str, Any]]:
        """The masks as compressed RLE, without the full masks in between; see `detkit.ops.rle.encode_masks`."""
        return [encode_region(pixels, top, left, *self.size) for top, left, pixels in self.cpu().regions()]
