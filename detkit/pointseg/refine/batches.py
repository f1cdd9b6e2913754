"""The batches that MaskRefineNet is trained and evaluated with.

Shape letters: b crops, n rough masks of one image, s side of the crops, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detkit.pointseg.refine.crops import Crop
from detkit.structures.tensors import TensorStruct


@dataclass
class RoughMasks(TensorStruct):
    """Rough masks of one image, each with the true mask that the refiner should produce.

    Attributes:
        rough: [n, h, w] bool.
        points: [n, 2] float, x y in pixels of the image.
        category_ids: [n] int64.
        true: [n, h, w] bool, the true mask of each rough one.
        image_id: the id in the annotation file.
        file_name: where the image came from, for error messages.
    """

    rough: Tensor
    points: Tensor
    category_ids: Tensor
    true: Tensor
    image_id: int | None = None
    file_name: str | None = None

    def __len__(self) -> int:
        return len(self.rough)


@dataclass(frozen=True)
class Origin:
    """The image that a crop comes from, for error messages."""

    image_id: int | None
    file_name: str | None = None


@dataclass
class CropBatch(TensorStruct):
    """Crops to train on, see `detkit.pointseg.refine.crops.Crop`.

    Attributes:
        images: [b, 3, s, s] uint8.
        rough, true: [b, s, s] bool.
        points: [b, 2] int64 x, y in pixels of the crop.
        planes: [b] int64, the centre plane of each crop's class; -1 where the crop does not show its point.
        annotations: one per crop.
        num_objects: the number of crops that the loss divides by, see `detkit.structures.Batch`.
    """

    images: Tensor
    rough: Tensor
    true: Tensor
    points: Tensor
    planes: Tensor
    annotations: list[Origin]
    num_objects: Tensor | None = None

    @classmethod
    def collate(cls, samples: Sequence[tuple[Crop, Origin]]) -> CropBatch:
        """Make a batch of crops of one size."""
        crops, origins = zip(*samples, strict=True)
        images, rough, true = (torch.stack([getattr(crop, k) for crop in crops]) for k in ("image", "rough", "true"))
        points = torch.tensor([crop.point or (0, 0) for crop in crops])
        return cls(images, rough, true, points, torch.tensor([crop.plane for crop in crops]), list(origins))

    def __len__(self) -> int:
        return len(self.images)

    def count_objects(self) -> int:
        """The number of crops."""
        return len(self)


@dataclass
class RoughBatch(TensorStruct):
    """Whole images with rough masks to refine: `images` uint8 [3, h, w] of any size, and `annotations`."""

    images: list[Tensor]
    annotations: list[RoughMasks]
    num_objects: Tensor | None = None

    @classmethod
    def collate(cls, samples: Sequence[tuple[Tensor, RoughMasks]]) -> RoughBatch:
        """Make a batch of whole images."""
        images, annotations = zip(*samples, strict=True)
        return cls(list(images), list(annotations))

    def __len__(self) -> int:
        return len(self.images)


def collate(samples: Sequence[tuple[Any, Any]]) -> CropBatch | RoughBatch:
    """A batch of crops, or of whole images."""
    batch: type[CropBatch] | type[RoughBatch] = CropBatch if isinstance(samples[0][0], Crop) else RoughBatch
    return batch.collate(samples)
