"""Detections and true objects matched, from which all curves and counts come.

Shape letters: n detections, m true objects, k classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detkit.evaluation.backends import match_hotcoco
from detkit.reports.evaluated import Evaluated

IOU = 0.5  # of a detection and an object that it is right about


@dataclass
class Objects:
    """The true objects, without crowd regions.

    Attributes:
        image, category, area: [m] index of the image and the class, and pixels.
        position: [m] in the annotations of the ground truth.
    """

    image: np.ndarray
    category: np.ndarray
    area: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


class Matching:
    """The detections of one checkpoint, matched with the true objects by COCO's rules.

    Args:
        evaluated: detections and ground truth.
        iou_type: "bbox" or "segm".
        keep: [n] bool, the detections that take part; None takes all.

    Attributes:
        evaluation: of hotcoco, matched.
        image, category, score: [n] index of image and class, and score, of the detections that take part.
        rows, masks: the same detections, as in `evaluated`; `masks` is None for "bbox".
        objects: the true objects.
    """

    def __init__(self, evaluated: Evaluated, iou_type: str, keep: np.ndarray | None = None):
        truth, rows = evaluated.truth, evaluated.rows
        kept = np.arange(len(rows)) if keep is None else np.flatnonzero(keep)
        self.rows, self.iou_type = rows[kept], iou_type
        self.masks = [evaluated.masks[i] for i in kept] if iou_type == "segm" else None
        limit = evaluated.evaluator.max_detections
        self.evaluation: Any = match_hotcoco(truth, self.rows, self.masks, limit)
        self.image_ids = np.sort([image["id"] for image in truth["images"]])
        self._category_ids = np.array([category["id"] for category in truth["categories"]])
        self.image = np.searchsorted(self.image_ids, self.rows["image_id"])
        self.category = np.searchsorted(self._category_ids, self.rows["category_id"])
        self.score = self.rows["score"]
        self.objects = self._objects(truth["annotations"])

    def _objects(self, annotations: list[dict[str, Any]]) -> Objects:
        position = np.array([i for i, a in enumerate(annotations) if not a["iscrowd"]], dtype=np.int64)
        image, category = (
            np.array([annotations[i][key] for i in position], dtype=np.int64) for key in ("image_id", "category_id")
        )
        area = np.array([annotations[i]["area"] for i in position], dtype=np.float64)
        return Objects(
            np.searchsorted(self.image_ids, image), np.searchsorted(self._category_ids, category), area, position
        )

    def match(self, iou: float = IOU) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which detections are right at an IoU of 0.5, 0.55, ... 0.95.

        Returns:
            `right` [n] bool; `counted` [n] bool, False for detections on crowd regions and for those beyond the
            limit of an image; `found` [m] bool, the true objects that a right detection has.
        """
        diagnosis = self.evaluation.image_diagnostics(iou_thr=iou)
        right, counted = np.zeros(len(self.rows), dtype=bool), np.zeros(len(self.rows), dtype=bool)
        status = diagnosis["dt_status"]
        numbers = np.fromiter(status.keys(), dtype=np.int64, count=len(status)) - 1
        counted[numbers] = True
        right[numbers] = np.fromiter((value == "tp" for value in status.values()), dtype=bool, count=len(status))
        matched = {number - 1 for number in diagnosis["gt_match"]}
        found = np.array([position in matched for position in self.objects.position.tolist()], dtype=bool)
        return right, counted, found
