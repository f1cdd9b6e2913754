"""Batches of images and what is known about them.

Shape letters: b images, n objects, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detkit.images import image_size
from detkit.ops.masks import MaskCrops, RegionMasks
from detkit.structures.masks import DENSE_MASKS, DenseMasks, MaskStruct
from detkit.structures.tensors import TensorStruct


@dataclass
class ImageBatch(TensorStruct):
    """Images padded bottom-right to one size.

    Attributes:
        images: [b, 3, h, w], uint8 in 0..255 before normalisation, float after it; padding is 0.
        mask: [b, h, w] bool, True on padding.
        sizes: the unpadded (h, w) of each image.
    """

    images: Tensor
    mask: Tensor
    sizes: list[tuple[int, int]]

    @classmethod
    def from_images(cls, images: Sequence[Tensor]) -> ImageBatch:
        """Pad `[3, h, w]` tensors of one dtype bottom-right with zeros; nothing is normalised.

        Raises:
            ValueError: no images, or one of another shape or dtype.
        """
        if not images:
            raise ValueError("an image batch needs at least one image")
        for i, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(f"image {i} has shape {tuple(image.shape)}, expected [3, h, w]")
            if image.dtype != images[0].dtype:
                raise ValueError(f"image {i} is {image.dtype} but image 0 is {images[0].dtype}")
        sizes = [image_size(image) for image in images]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        padded = images[0].new_zeros(len(images), 3, height, width)
        mask = torch.ones(len(images), height, width, dtype=torch.bool, device=padded.device)
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            padded[i, :, :h, :w] = image
            mask[i, :h, :w] = False
        return cls(padded, mask, sizes)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(repr=False)
class Annotations(MaskStruct):
    """What is known about one image.

    Attributes:
        boxes: [n, 4] float, x1 y1 x2 y2 in pixels of the (resized, unpadded) image.
        labels: [n] int64, contiguous from 0.
        masks: [n, h, w] bool, or None. They may be given as `RegionMasks`, which become a tensor the first time that
            they are read; `mask_crops` does without.
        points: [n, 2] float, x y, or None. The pixel in column 3 and row 5 is the point (3, 5).
        image_id: the id in the dataset's file, or None.
        original_size: (h, w) of the upright image before resizing, or None when it was never resized.
        file_name: where the image came from, for error messages.
    """

    boxes: Tensor
    labels: Tensor
    masks: DenseMasks = DENSE_MASKS
    points: Tensor | None = None
    image_id: int | None = None
    original_size: tuple[int, int] | None = None
    file_name: str | None = None

    def __post_init__(self):
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes have shape {tuple(self.boxes.shape)}, expected [n, 4]")
        for name in ("labels", "masks", "points"):
            value = vars(self)[name]
            if value is not None and len(value) != len(self.boxes):
                raise ValueError(f"{len(self.boxes)} boxes but {len(value)} {name}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def mask_crops(self) -> MaskCrops | None:
        """`masks` in little memory; None where there are none."""
        masks = self.stored_masks
        if masks is None or isinstance(masks, MaskCrops):
            return masks
        masks = masks.dense() if isinstance(masks, RegionMasks) else masks
        return MaskCrops.of_masks(masks, (masks.shape[1], masks.shape[2]))


@dataclass
class Batch(TensorStruct):
    """What a training or evaluation step receives.

    Attributes:
        images: the padded, not yet normalised images.
        annotations: one per image.
        num_objects: the number of objects that the losses divide by, a float scalar tensor; None means the
            number in this batch. The runner sets it to (objects in all micro-batches of all ranks) / ranks,
            so that accumulated and distributed gradients equal those of one large batch.
    """

    images: ImageBatch
    annotations: list[Annotations]
    num_objects: Tensor | None = None

    @classmethod
    def collate(cls, samples: Sequence[tuple[Tensor, Annotations]]) -> Batch:
        """Make a batch of `(image [3, h, w] uint8, Annotations)` samples."""
        images, annotations = zip(*samples, strict=True)
        return cls(ImageBatch.from_images(images), [replace(a, masks=a.mask_crops) for a in annotations])

    def __len__(self) -> int:
        return len(self.annotations)

    def count_objects(self) -> int:
        """The number of objects in all images together."""
        return sum(len(a) for a in self.annotations)
