"""The few data types that pass between the rooms of the house.

Shape letters: b images, n objects, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detkit.images import image_size
from detkit.ops.masks import BoxMasks
from detkit.ops.rle import encode_masks

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class LabelMap:
    """What the outputs of a classifier mean: output i is class `names[i]` with category id `category_ids[i]`.

    Labels are contiguous from 0 everywhere inside detkit; category ids exist only where data comes in and
    results go out. A name of None marks an output that no category uses (the gaps in the 91 COCO ids of an
    imported official checkpoint).
    """

    names: tuple[str | None, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self):
        self.names, self.category_ids = tuple(self.names), tuple(int(i) for i in self.category_ids)
        if len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.category_ids)} category ids")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(f"category ids repeat: {self.category_ids}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, num_classes: int) -> LabelMap:
        """A map for a model whose classes have no names: output i is category i."""
        return cls(tuple(f"class_{i}" for i in range(num_classes)), tuple(range(num_classes)))

    def to_dict(self) -> dict[str, list]:
        return {"names": list(self.names), "category_ids": list(self.category_ids)}


@dataclass
class ImageBatch:
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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        return ImageBatch(
            self.images.to(device, non_blocking=non_blocking),
            self.mask.to(device, non_blocking=non_blocking),
            self.sizes,
        )

    def pin_memory(self) -> ImageBatch:
        return ImageBatch(self.images.pin_memory(), self.mask.pin_memory(), self.sizes)


@dataclass
class Annotations:
    """What is known about one image.

    Attributes:
        boxes: [n, 4] float, x1 y1 x2 y2 in pixels of the (resized, unpadded) image.
        labels: [n] int64, contiguous from 0.
        masks: [n, h, w] bool, or None.
        points: [n, 2] float, x y, or None. The pixel in column 3 and row 5 is the point (3, 5).
        image_id: the id in the dataset's file, or None.
        original_size: (h, w) of the image as stored, or None when it was never resized.
        file_name: where the image came from, for error messages.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None
    points: Tensor | None = None
    image_id: int | None = None
    original_size: tuple[int, int] | None = None
    file_name: str | None = None

    def __post_init__(self):
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes have shape {tuple(self.boxes.shape)}, expected [n, 4]")
        for name in ("labels", "masks", "points"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.boxes):
                raise ValueError(f"{len(self.boxes)} boxes but {len(value)} {name}")

    def __len__(self) -> int:
        return len(self.labels)

    def _map_tensors(self, function) -> Annotations:
        tensors = {name: getattr(self, name) for name in ("boxes", "labels", "masks", "points")}
        return replace(self, **{name: function(t) for name, t in tensors.items() if t is not None})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Annotations:
        return self._map_tensors(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Annotations:
        return self._map_tensors(lambda t: t.pin_memory())


@dataclass
class Batch:
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
        return cls(ImageBatch.from_images(images), list(annotations))

    def __len__(self) -> int:
        return len(self.annotations)

    def count_objects(self) -> int:
        return sum(len(a) for a in self.annotations)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        annotations = [a.to(device, non_blocking) for a in self.annotations]
        num_objects = None if self.num_objects is None else self.num_objects.to(device)
        return Batch(self.images.to(device, non_blocking), annotations, num_objects)

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), [a.pin_memory() for a in self.annotations], self.num_objects)


class _DenseMasks:
    """The field `Detections.masks`: masks that came as `BoxMasks` are pasted when they are first read."""

    def __get__(self, found: Detections | None, owner: type) -> Tensor | None:
        if found is None:
            return None  # the field's default
        if isinstance(found.stored_masks, BoxMasks):
            self.__set__(found, found.stored_masks.dense())
        return found.stored_masks

    def __set__(self, found: Detections, masks: Tensor | BoxMasks | None) -> None:
        vars(found)["masks"] = masks


@dataclass
class Detections:
    """What a model found in one image, best first.

    Attributes:
        boxes: [n, 4] float, x1 y1 x2 y2 in pixels of the original image.
        scores: [n] float in 0..1.
        labels: [n] int64, contiguous from 0.
        masks: [n, h, w] bool at the original size, or None. They may be given as `BoxMasks`, which become a tensor
            the first time that they are read; `encode_masks` and selecting do without.
        label_map: what the labels mean; None leaves them numbers.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: _DenseMasks = _DenseMasks()
    label_map: LabelMap | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        shown = ("boxes", "scores", "labels", "masks")
        return f"Detections({', '.join(f'{name}={vars(self)[name]}' for name in shown)})"

    @property
    def stored_masks(self) -> Any:
        """`masks` as they are kept: `BoxMasks` that nobody has read yet, a tensor, or None."""
        return vars(self)["masks"]

    def __getitem__(self, keep: Any) -> Detections:
        """Select detections by a bool mask, an index tensor or a slice."""
        return self._map(lambda part: part[keep])

    def cpu(self) -> Detections:
        return self._map(lambda part: part.cpu())

    def _map(self, function: Callable) -> Detections:
        masks = None if self.stored_masks is None else function(self.stored_masks)
        boxes, scores, labels = (function(tensor) for tensor in (self.boxes, self.scores, self.labels))
        return Detections(boxes, scores, labels, masks, self.label_map)

    def encode_masks(self) -> list[dict[str, Any]]:
        """The masks as compressed RLE; there must be masks."""
        masks = self.stored_masks
        return masks.encode() if isinstance(masks, BoxMasks) else encode_masks(masks)

    def names(self) -> list[str]:
        """The class name of each detection (its number where there is no name)."""
        known = self.label_map.names if self.label_map else ()
        return [(known[i] if i < len(known) else None) or str(i) for i in self.labels.tolist()]

    def category_ids(self) -> list[int]:
        """The category id of each detection (its label where there is no label map)."""
        labels = self.labels.tolist()
        return labels if self.label_map is None else [self.label_map.category_ids[i] for i in labels]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO result dictionaries: boxes as x, y, width, height in pixels, masks as compressed RLE."""
        found = self.cpu()
        boxes = found.boxes.double()
        boxes_xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
        results = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(self.category_ids(), boxes_xywh, found.scores.tolist(), strict=True)
        ]
        if found.stored_masks is not None:
            for result, rle in zip(results, found.encode_masks(), strict=True):
                result["segmentation"] = rle
        return results

    def draw(self, image: Any, min_score: float = 0.3) -> Image:
        """The image with boxes, masks, class names and scores of detections of at least `min_score`."""
        from detkit.visualize import draw_detections

        return draw_detections(image, self[self.scores >= min_score])
