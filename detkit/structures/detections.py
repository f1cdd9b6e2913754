"""What a model found in an image.

Shape letters: n objects, h/w pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from detkit.ops.masks import RegionMasks
from detkit.ops.rle import encode_masks
from detkit.structures import conversions
from detkit.structures.images import Annotations
from detkit.structures.labels import LabelMap
from detkit.structures.masks import DENSE_MASKS, DenseMasks, MaskStruct
from detkit.visualize import draw_detections

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(repr=False)
class Detections(MaskStruct):
    """What a model found in one image, best first.

    Attributes:
        boxes: [n, 4] float, x1 y1 x2 y2 in pixels of the original image.
        scores: [n] float in 0..1.
        labels: [n] int64, contiguous from 0.
        masks: [n, h, w] bool at the original size, or None. They may be given as `RegionMasks`, which become a tensor
            the first time that they are read; `encode_masks` and selecting do without.
        label_map: what the labels mean; None leaves them numbers.
        source: path or URL of the image, where it came from one and the model was asked by `predict`.
        size: (h, w) of the image, where `predict` has noted it.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: DenseMasks = DENSE_MASKS
    label_map: LabelMap | None = field(default=None, repr=False)
    source: str | None = field(default=None, kw_only=True)
    size: tuple[int, int] | None = field(default=None, kw_only=True)

    @classmethod
    def of_annotations(cls, annotations: Annotations, label_map: LabelMap | None = None) -> Self:
        """The true objects of an image as if a model had found them, each with score 1."""
        boxes, labels, masks = annotations.boxes, annotations.labels, annotations.stored_masks
        return cls(boxes, torch.ones(len(annotations), device=boxes.device), labels, masks, label_map)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        masks = ", with masks" if self.stored_masks is not None else ""
        return (
            f"{type(self).__name__}({conversions.describe(self)}{masks}{f', in {self.source}' if self.source else ''})"
        )

    def __getitem__(self, keep: Any) -> Self:
        """Select detections by a bool mask, an index tensor or a slice."""
        kept: Any = {k: v[keep] for k, v in vars(self).items() if isinstance(v, (Tensor, RegionMasks))}
        return replace(self, **kept)

    def noted(self, source: str | None, size: tuple[int, int]) -> Self:
        """The same detections with the source and the size (h, w) of their image."""
        noted = copy.copy(self)
        noted.source, noted.size = source, size
        return noted

    def clipped(self, height: int, width: int) -> Self:
        """The same detections with their boxes clipped to an image of that size."""
        limits = self.boxes.new_tensor([width, height, width, height])
        clipped = copy.copy(self)
        clipped.boxes = self.boxes.clamp(min=0).minimum(limits)
        return clipped

    def encode_masks(self) -> list[dict[str, Any]]:
        """The masks as compressed RLE; there must be masks."""
        masks = self.stored_masks
        return masks.encode() if isinstance(masks, RegionMasks) else encode_masks(masks)

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

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict for each object, of values that json can write.

        Returns:
            "name" and "label" of the class, "score", "box" (x1 y1 x2 y2 in pixels) and, where there are masks, "mask"
            (compressed RLE).
        """
        return conversions.to_dicts(self)

    def to_yolo(self, size: tuple[int, int] | None = None, *, scores: bool = False) -> str:
        """The text of a YOLO label file: a line `label x y width height` for each object, relative to the image.

        Args:
            size: (h, w) of the image; by default the one that `predict` has noted.
            scores: add the score to each line.

        Raises:
            ValueError: the size is neither given nor known.
        """
        return conversions.to_yolo(self, size, scores=scores)

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, which that package draws, tracks and counts.

        Raises:
            ImportError: supervision is not installed.
        """
        return conversions.to_supervision(self)

    def to_pandas(self) -> Any:
        """As a `pandas.DataFrame` with the columns source, name, label, score, x1, y1, x2, y2; a row for each object.

        Raises:
            ImportError: pandas is not installed.
        """
        return conversions.to_pandas(self)

    def crops(self, image: Any) -> list[Image]:
        """The parts of the image inside of the boxes, at least one pixel each.

        Args:
            image: the image that was searched, whatever `detkit.images.load_image` takes.
        """
        return conversions.crops(self, image)

    def draw(self, image: Any, min_score: float = 0.3) -> Image:
        """The image with boxes, masks, class names and scores of detections of at least `min_score`."""
        return draw_detections(image, self[self.scores >= min_score])


@dataclass(repr=False)
class PromptedDetections(Detections):
    """Detections that know which prompt they answer.

    Attributes:
        owners: [n] number of the prompted object in its image; -1 for none. An object that no detection answers got
            no mask: none was found, or one of the same class at the same place was better.
        points: [n, 2] its point, x, y in pixels of the original image; 0, 0 where there is none.
    """

    owners: Tensor | None = None
    points: Tensor | None = None

    def to_coco(self, image_id: int, annotation_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO result dictionaries, with the "point" that each answers.

        Args:
            annotation_ids: of the prompted objects; then results also have the "annotation_id" of theirs.
        """
        results = super().to_coco(image_id)
        if self.owners is None:
            return results
        for i, (result, owner) in enumerate(zip(results, self.owners.tolist(), strict=True)):
            if owner >= 0 and self.points is not None:
                result["point"] = [round(x, 2) for x in self.points[i].tolist()]
            if owner >= 0 and annotation_ids is not None:
                result["annotation_id"] = annotation_ids[owner]
        return results
