"""Precision, recall and F1 of each class against the score, and the score to set as threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkit.reports.matching import Matching
from detkit.structures import LabelMap

UNKNOWN = 0.3  # the threshold where no detection is right, as `detkit predict` has it without thresholds
LOWEST = 0.05  # no threshold is below: so low a score is noise, whatever the validation data says
GRID = np.linspace(0, 1, 101)


@dataclass
class ScoreCurve:
    """What a class gains and loses when detections below a score are left out.

    Attributes:
        objects: the number of true objects.
        score: [n] of the detections that count, highest first.
        right: [n] bool.
        threshold: the least score to accept, where F1 is best; `UNKNOWN` where no detection is right.
    """

    objects: int
    score: np.ndarray
    right: np.ndarray
    threshold: float = UNKNOWN

    def __post_init__(self) -> None:
        if not self.objects or not self.right.any():
            return
        f1 = self.f1_after(np.arange(1, len(self.score) + 1))
        f1[:-1][self.score[:-1] == self.score[1:]] = -1  # equal scores are accepted together
        best = int(f1.argmax())
        below = self.score[best + 1] if best + 1 < len(self.score) else 0.0
        middle = math.floor(5000 * (self.score[best] + below)) / 10_000  # between the last accepted and the next
        self.threshold = max(LOWEST, middle if middle > below else float(self.score[best]))

    def at(self, threshold: float) -> tuple[float, float, float]:
        """F1, precision and recall at a threshold."""
        accepted = int((self.score >= threshold).sum())
        hits = int(self.right[:accepted].sum())
        f1 = 2 * hits / max(accepted + self.objects, 1)
        return f1, hits / max(accepted, 1), hits / max(self.objects, 1)

    def f1_after(self, accepted: np.ndarray) -> np.ndarray:
        """F1 when so many of the best detections are accepted."""
        hits = np.concatenate([[0], np.cumsum(self.right)])
        return 2 * hits[accepted] / np.maximum(accepted + self.objects, 1)

    def f1_on_grid(self) -> np.ndarray:
        """F1 at the thresholds `GRID`."""
        return self.f1_after(np.searchsorted(-self.score, -GRID, side="right"))

    def precision_on_grid(self) -> np.ndarray:
        """The precision at the recalls `GRID`, as COCO has it: the best at that recall or a higher one."""
        hits = np.cumsum(self.right)
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        place = np.searchsorted(hits / max(self.objects, 1), GRID, side="left")
        return np.append(precision, 0.0)[place]


def score_curves(matching: Matching, classes: int) -> list[ScoreCurve]:
    """The curve of each class at IoU 0.5, and last that of all classes together."""
    right, counted, _ = matching.match()
    order = np.argsort(-matching.score, kind="stable")
    order = order[counted[order]]
    objects = np.bincount(matching.objects.category, minlength=classes)
    groups: list[np.ndarray] = [order[matching.category[order] == k] for k in range(classes)]
    curves = [ScoreCurve(int(count), matching.score[g], right[g]) for count, g in zip(objects, groups, strict=True)]
    return [*curves, ScoreCurve(int(objects.sum()), matching.score[order], right[order])]


def class_thresholds(curves: Sequence[ScoreCurve]) -> np.ndarray:
    """The threshold of each class; one without objects takes that of all classes together."""
    *of_classes, of_all = curves
    return np.array([curve.threshold if curve.objects else of_all.threshold for curve in of_classes])


def by_name(
    thresholds: np.ndarray, of_all: ScoreCurve, category_ids: Sequence[int], label_map: LabelMap
) -> dict[str, float]:
    """The thresholds of the classes of a model, as its checkpoint stores them.

    Args:
        thresholds: of the classes of the validation data.
        of_all: the curve of all of them, whose threshold the other classes of the model take.
        category_ids: of the classes of the validation data.
        label_map: of the model.
    """
    known = dict(zip(category_ids, thresholds.tolist(), strict=True))
    named = zip(label_map.names, label_map.category_ids, strict=True)
    return {name: known.get(number, of_all.threshold) for name, number in named if name is not None}
