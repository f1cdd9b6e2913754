"""How far a difference between two checkpoints may be chance: average precision of images drawn again and again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detkit.reports.matching import Matching
from detkit.reports.thresholds import GRID

IOUS = tuple(0.5 + 0.05 * i for i in range(10))
RESAMPLES, SEED = 1000, 0
INTERVAL = (2.5, 97.5)  # percentiles


class PrecisionTable:
    """The average precision of each class, for any weights of the images.

    Shape letters: k classes, t IoU thresholds, g images.
    """

    def __init__(self, matching: Matching, classes: int):
        matches = [matching.match(iou)[:2] for iou in IOUS]
        order = np.argsort(-matching.score, kind="stable")
        self.classes = []
        for k in range(classes):
            members = order[matching.category[order] == k]
            of_iou = [_positions(right[members], counted[members]) for right, counted in matches]
            objects = matching.objects.image[matching.objects.category == k]
            self.classes.append((matching.image[members], of_iou, objects))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """AP `[k, t]` where each image counts `weights` `[g]` times; NaN for a class without objects."""
        return np.stack([_of_class(*parts, weights) for parts in self.classes])


def _positions(right: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Where the right detections are, and which count (None for all): precision is highest at a right one."""
    return np.flatnonzero(right), None if counted.all() else counted


def _of_class(images: np.ndarray, of_iou: list, objects: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights[objects].sum()
    if not total:
        return np.full(len(of_iou), np.nan)
    weight = weights[images]
    all_seen = np.cumsum(weight)
    values = []
    for positions, counted in of_iou:
        seen = all_seen if counted is None else np.cumsum(weight * counted)
        hits = np.cumsum(weight[positions])
        precision = hits / np.maximum(seen[positions], 1)
        precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
        values.append(precision[np.searchsorted(hits / total, GRID, side="left")].mean())
    return np.array(values)


def bootstrap(
    compute: Callable[[np.ndarray], np.ndarray], images: int, *, resamples: int = RESAMPLES, seed: int = SEED
) -> np.ndarray:
    """The interval of 95 % of some values when images are drawn anew, with replacement.

    Args:
        compute: gives values for the number of times that each image counts, float `[images]`; NaN is left out.
        images: how many there are.
        resamples: how often they are drawn.
        seed: of the random numbers.

    Returns:
        `[2, ...]`, the lower and the upper end for each value.
    """
    rng = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    values = np.stack([compute(rng.multinomial(images, share).astype(float)) for _ in range(resamples)])
    defined = ~np.isnan(values).all(axis=0)
    ends = np.full((2, *values.shape[1:]), np.nan)
    ends[:, defined] = np.nanpercentile(values[:, defined], INTERVAL, axis=0)
    return ends
