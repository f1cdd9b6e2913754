"""What a report is made of: detections matched with the truth, thresholds, and errors at these thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detkit.reports.errors import RIGHT, Errors, find_errors
from detkit.reports.evaluated import Evaluated
from detkit.reports.matching import Matching
from detkit.reports.thresholds import ScoreCurve, class_thresholds, score_curves


@dataclass
class Findings:
    """What a checkpoint finds, by one IoU type.

    Attributes:
        evaluated: the checkpoint and its detections.
        iou_type: "bbox" or "segm".
        matching: of all detections.
        curves: of each class, and last of all together.
        thresholds: the least score of each class, [k].
        kept: the matching of the detections that reach it.
        errors: of those.
    """

    evaluated: Evaluated
    iou_type: str
    matching: Matching
    curves: list[ScoreCurve]
    thresholds: np.ndarray
    kept: Matching
    errors: Errors

    @property
    def names(self) -> list[str]:
        """The name of each class."""
        return self.evaluated.names

    def image_f1(self) -> np.ndarray:
        """F1 of each image at the thresholds; 1 where there is nothing and nothing was found."""
        images = len(self.kept.image_ids)
        right = np.bincount(self.kept.image[self.errors.kind == RIGHT], minlength=images)
        found = np.bincount(self.kept.image, minlength=images)
        both = found + np.bincount(self.kept.objects.image, minlength=images)
        return np.where(both > 0, 2 * right / np.maximum(both, 1), 1.0)


def find(evaluated: Evaluated, iou_type: str, thresholds: np.ndarray | None = None) -> Findings:
    """Match detections with the truth, and again those that reach the thresholds.

    Args:
        thresholds: None takes those where F1 is best.
    """
    matching = Matching(evaluated, iou_type)
    curves = score_curves(matching, len(evaluated.names))
    thresholds = class_thresholds(curves) if thresholds is None else thresholds
    kept = Matching(evaluated, iou_type, matching.score >= thresholds[matching.category])
    return Findings(evaluated, iou_type, matching, curves, thresholds, kept, find_errors(kept, evaluated.truth))
