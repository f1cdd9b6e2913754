"""Moving what is annotated on the stored pixels of a photo to its upright picture (see `detkit.images.Frame`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from detkit.images import Frame
from detkit.ops.rle import decode_mask, encode_masks

# EXIF orientation: (exchange x and y first, then mirror x, then mirror y).
STEPS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class Turn:
    """The way from the pixels that annotations mean to those of the upright picture.

    Attributes:
        size: (h, w) of the upright picture.
        orientation: EXIF, 1 to 8; with 1 everything stays as it is.
    """

    size: tuple[int, int]
    orientation: int = 1

    @classmethod
    def of(cls, frame: Frame, annotated: Sequence[int]) -> Turn:
        """For annotations of an image of (h, w) `annotated`: turned only where that is its size as stored."""
        return cls(frame.size, frame.orientation if frame.is_stored(annotated) else 1)

    def __bool__(self) -> bool:
        """Whether anything moves."""
        return self.orientation > 1

    @property
    def annotated_size(self) -> tuple[int, int]:
        """(h, w) of the image that the annotations mean."""
        return Frame(self.size, self.orientation).stored_size

    def boxes(self, boxes: Any) -> Any:
        """Boxes `[n, 4]`, x1 y1 x2 y2, an array."""
        if not self:
            return boxes
        swap, mirror_x, mirror_y = STEPS[self.orientation]
        x1, y1, x2, y2 = boxes[:, [1, 0, 3, 2]].T if swap else boxes.T
        height, width = self.size
        if mirror_x:
            x1, x2 = width - x2, width - x1
        if mirror_y:
            y1, y2 = height - y2, height - y1
        return np.stack([x1, y1, x2, y2], axis=1).astype(boxes.dtype)

    def points(self, points: Any) -> Any:
        """Points `[n, 2]`, x y, an array; the pixel in column 3 and row 5 is the point (3, 5)."""
        return self._places(points, 1)

    def corners(self, corners: Any) -> Any:
        """Places `[n, 2]`, x y, an array; (0, 0) is the corner of the image, as in polygons and pairs of images."""
        return self._places(corners, 0)

    def masks(self, masks: Tensor) -> Tensor:
        """Masks `[n, h, w]`."""
        swap, mirror_x, mirror_y = STEPS[self.orientation]
        turned = masks.transpose(1, 2) if swap else masks
        mirrored = [axis for axis, mirror in ((2, mirror_x), (1, mirror_y)) if mirror]
        return (turned.flip(mirrored) if mirrored else turned).contiguous()

    def segmentation(self, segmentation: Any) -> Any:
        """A segmentation in one of COCO's forms.

        Raises:
            ValueError: it cannot be read.
        """
        if not self or not segmentation:
            return segmentation
        if isinstance(segmentation, list):
            return [self._polygon(polygon) for polygon in segmentation]
        mask = Tensor(decode_mask(segmentation, *self.annotated_size)).bool()
        return encode_masks(self.masks(mask[None]))[0]

    def _polygon(self, polygon: Any) -> Any:
        try:
            return self.corners(np.array(polygon, dtype=np.float64).reshape(-1, 2)).ravel().tolist()
        except (ValueError, TypeError):  # no polygon: reported where it is used
            return polygon

    def annotation(self, annotation: dict[str, Any]) -> dict[str, Any]:
        """An annotation of a COCO file: its "bbox" and, where it has them, "segmentation" and "point"."""
        if not self:
            return annotation
        turned = dict(annotation)
        if "bbox" in turned:
            x, y, width, height = annotation["bbox"]
            x1, y1, x2, y2 = self.boxes(np.array([[x, y, x + width, y + height]], dtype=np.float64))[0].tolist()
            turned["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if "segmentation" in turned:
            turned["segmentation"] = self.segmentation(annotation["segmentation"])
        if "point" in turned:
            turned["point"] = self.points(np.array([annotation["point"]], dtype=np.float64))[0].tolist()
        return turned

    def _places(self, points: Any, pixel: int) -> Any:
        if not self:
            return points
        swap, mirror_x, mirror_y = STEPS[self.orientation]
        turned = points[:, ::-1].copy() if swap else points.copy()
        for axis, mirror in ((0, mirror_x), (1, mirror_y)):
            if mirror:
                turned[:, axis] = (self.size[1 - axis] - pixel - turned[:, axis]).clip(0)
        return turned
