"""What is wrong with each detection, which objects are missed, and the images where most is wrong.

Shape letters: n detections, m true objects, k classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkit.reports.matching import IOU, Matching

RIGHT, CONFUSED, DOUBLED, MISPLACED, INVENTED, IGNORED = range(6)
KINDS = {
    "right": "an object of its class, overlap (IoU) at least 0.5",
    "confused": "an object of another class that nothing else has found",
    "doubled": "an object that another detection has already",
    "misplaced": "overlaps an object of its class by 0.1 to 0.5 only",
    "invented": "nothing is there",
}
NEAR = 0.1  # IoU from which a detection is misplaced and not invented


@dataclass
class Errors:
    """What became of detections and objects.

    Attributes:
        kind: [n] RIGHT, CONFUSED, DOUBLED, MISPLACED, INVENTED, or IGNORED (on a crowd region).
        found: [m] bool, the objects with a right detection.
        seen_as: [m] the class that an object was confused with, -1 for none.
    """

    kind: np.ndarray
    found: np.ndarray
    seen_as: np.ndarray


def find_errors(matching: Matching, truth: dict[str, Any]) -> Errors:
    """Say of each detection what it is.

    A wrong detection is confused, or else doubled, misplaced or invented, see `KINDS`; the best come first to an
    object that they confuse, and an object is confused once.
    """
    right, counted, found = matching.match(IOU)
    kind = np.full(len(right), INVENTED)
    kind[right], kind[~counted] = RIGHT, IGNORED
    errors = Errors(kind, found, np.full(len(found), -1))
    shapes = _true_shapes(matching, truth)
    wrong = np.flatnonzero(kind == INVENTED)
    if not len(wrong):
        return errors
    for detections, objects in _by_image(matching, wrong[np.argsort(-matching.score[wrong], kind="stable")]):
        overlaps = _overlaps(matching, detections, [shapes[i] for i in objects])
        for detection, overlap in zip(detections, overlaps, strict=True):
            _judge(errors, detection, objects, overlap, matching)
    return errors


def _judge(errors: Errors, detection: int, objects: np.ndarray, overlap: np.ndarray, matching: Matching) -> None:
    same = matching.objects.category[objects] == matching.category[detection]
    taken = errors.found[objects] | (errors.seen_as[objects] >= 0)
    if (free := np.where(taken | same, 0, overlap)).max() >= IOU:
        errors.kind[detection] = CONFUSED
        errors.seen_as[objects[free.argmax()]] = matching.category[detection]
    elif np.where(taken, overlap, 0).max() >= IOU:
        errors.kind[detection] = DOUBLED
    elif np.where(same, overlap, 0).max() >= NEAR:
        errors.kind[detection] = MISPLACED


def _by_image(matching: Matching, detections: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each image with some of the detections and with objects: these detections in their order, its objects."""
    images, objects = matching.image[detections], np.argsort(matching.objects.image, kind="stable")
    order = np.argsort(images, kind="stable")
    present, starts = np.unique(images[order], return_index=True)
    first, last = (np.searchsorted(matching.objects.image[objects], present, side=side) for side in ("left", "right"))
    for group, start, stop in zip(np.split(detections[order], starts[1:]), first, last, strict=True):
        if stop > start:
            yield group, objects[start:stop]


def _true_shapes(matching: Matching, truth: dict[str, Any]) -> list[Any]:
    """The box, or the mask as RLE, of each object."""
    annotations = [truth["annotations"][i] for i in matching.objects.position]
    if matching.masks is None:
        return [annotation["bbox"] for annotation in annotations]
    coco = matching.evaluation.coco_gt
    return [coco.ann_to_rle(coco.load_anns([int(i) + 1])[0]) for i in matching.objects.position]


def _overlaps(matching: Matching, detections: np.ndarray, shapes: list[Any]) -> np.ndarray:
    from hotcoco import mask

    if matching.masks is None:
        return mask.iou(np.asarray(matching.rows["box"][detections]), np.array(shapes, dtype=float), [0] * len(shapes))
    return mask.iou([matching.masks[i] for i in detections], shapes, [0] * len(shapes))


def confusion_matrix(errors: Errors, matching: Matching, classes: int) -> np.ndarray:
    """Counts `[k + 1, k + 1]`: true class down, detected class across, "nothing" last.

    A row sums up to the number of true objects of the class.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    objects = matching.objects.category
    detected = np.where(errors.found, objects, np.where(errors.seen_as >= 0, errors.seen_as, classes))
    np.add.at(matrix, (objects, detected), 1)
    without = np.isin(errors.kind, (DOUBLED, MISPLACED, INVENTED))
    np.add.at(matrix, (np.full(int(without.sum()), classes), matching.category[without]), 1)
    return matrix


def count_kinds(errors: Errors, matching: Matching, classes: int) -> np.ndarray:
    """Counts `[k, 6]` of each class: the kinds of detections in the order of `KINDS`, then objects missed."""
    counts = np.zeros((classes, len(KINDS) + 1), dtype=np.int64)
    judged = errors.kind != IGNORED
    np.add.at(counts, (matching.category[judged], errors.kind[judged]), 1)
    counts[:, -1] = np.bincount(matching.objects.category[~errors.found], minlength=classes)
    return counts


def worst_images(errors: Errors, matching: Matching, each: int = 3) -> dict[str, list[int]]:
    """Indices of images for each kind of trouble, the worst first; no image stands twice.

    Returns:
        "missed", "confused", "doubled", "invented": the images with most of it; "crowded": those with most objects
        among the images where something is wrong.
    """
    images = len(matching.image_ids)
    of_kind = {
        name: np.bincount(matching.image[errors.kind == kind], minlength=images)
        for name, kind in (("confused", CONFUSED), ("doubled", DOUBLED), ("invented", INVENTED))
    }
    counts = {"missed": np.bincount(matching.objects.image[~errors.found], minlength=images), **of_kind}
    wrong = sum(counts.values()) + np.bincount(matching.image[errors.kind == MISPLACED], minlength=images)
    counts["crowded"] = np.where(wrong > 0, np.bincount(matching.objects.image, minlength=images), 0)
    chosen: dict[str, list[int]] = {}
    used: set[int] = set()
    for name, count in counts.items():
        order = [int(i) for i in np.argsort(-count, kind="stable") if count[i] and int(i) not in used]
        chosen[name] = order[:each]
        used.update(order[:each])
    return chosen
