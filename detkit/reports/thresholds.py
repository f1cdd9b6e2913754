"""Precision, recall and F1 of each class against the score, and the score to set as threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detkit.reports.matching import Matching
from detkit.structures.detections import MIN_SCORE

LOWEST = 0.05  # no threshold is below: so low a score is noise, whatever the validation data says
GRID = np.linspace(0, 1, 101)


@dataclass
class ScoreCurve:
    """What a class gains and loses when detections below a score are left out.

    Attributes:
        objects: the number of true objects.
        score: [n] of the detections that count, highest first.
        right: [n] bool.
        threshold: the least score to accept, where F1 is best; `detkit.structures.detections.MIN_SCORE` where no
            detection is right.
        f1, precision, recall: at that threshold; 0 where no detection is right.
    """

    objects: int
    score: np.ndarray
    right: np.ndarray
    threshold: float = MIN_SCORE
    f1: float = 0.0
    precision: float = 0.0
    recall: float = 0.0

    def __post_init__(self) -> None:
        if not self.objects or not self.right.any():
            return
        f1 = self.f1_after(np.arange(1, len(self.score) + 1))
        f1[:-1][self.score[:-1] == self.score[1:]] = -1  # equal scores are accepted together
        best = int(f1.argmax())
        below = self.score[best + 1] if best + 1 < len(self.score) else 0.0
        middle = math.floor(5000 * (self.score[best] + below)) / 10_000  # between the last accepted and the next
        self.threshold = max(LOWEST, middle if middle > below else float(self.score[best]))
        accepted = int((self.score >= self.threshold).sum())
        hits = int(self.right[:accepted].sum())
        self.f1 = 2 * hits / (accepted + self.objects)
        self.precision, self.recall = hits / max(accepted, 1), hits / self.objects

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


def score_curves(matching: Matching, classes: int, iou: float) -> list[ScoreCurve]:
    """The curve of each class, and last that of all classes together."""
    right, counted, _ = matching.match(iou)
    order = np.argsort(-matching.score, kind="stable")
    order = order[counted[order]]
    objects = np.bincount(matching.objects.category, minlength=classes)
    groups: list[np.ndarray] = [order[matching.category[order] == k] for k in range(classes)]
    curves = [ScoreCurve(int(count), matching.score[g], right[g]) for count, g in zip(objects, groups, strict=True)]
    return [*curves, ScoreCurve(int(objects.sum()), matching.score[order], right[order])]


def choose_thresholds(
    curves: Sequence[ScoreCurve], names: Sequence[str], known: Sequence[str | None]
) -> dict[str, float]:
    """The threshold of each class of a model.

    A class without objects in the validation data takes that of all classes together.

    Args:
        curves: of `score_curves`.
        names: of the classes of the validation data.
        known: class names of the model.
    """
    *of_classes, of_all = curves
    own = {name: curve.threshold for name, curve in zip(names, of_classes, strict=True) if curve.objects}
    return {name: own.get(name, of_all.threshold) for name in known if name is not None}


def accepted(matching: Matching, thresholds: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Which detections `[n]` reach the threshold of their class."""
    least = np.array([thresholds.get(name, MIN_SCORE) for name in names])
    return matching.score >= least[matching.category]
