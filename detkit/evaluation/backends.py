"""From arrays of detections to COCO precision and recall, by hotcoco or by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np

# The columns of an array of detections: boxes in pixels, category ids of the ground truth.
DETECTION_COLUMNS = ("image_id", "x", "y", "width", "height", "score", "category_id")


def clean_ground_truth(ground_truth: dict[str, Any], *, with_masks: bool = False) -> dict[str, Any]:
    """A copy of a COCO dict with what evaluation reads, completed.

    Categories are ordered by id. Annotations are numbered from 1 (pycocotools never matches an annotation with id 0)
    and have "iscrowd" and "area" (by default the area of the box).

    Raises:
        ValueError: a key is missing or an id repeats; the message names it.
    """
    for key in ("images", "annotations", "categories"):
        if key not in ground_truth:
            raise ValueError(f"the ground truth has no {key!r}; it must be a COCO dict")
    for key in ("images", "categories"):
        ids = [entry["id"] for entry in ground_truth[key]]
        if len(set(ids)) != len(ids):
            raise ValueError(f"ids of the ground truth's {key} repeat")
    annotations = [_clean_annotation(*numbered, with_masks) for numbered in enumerate(ground_truth["annotations"], 1)]
    images = [
        {key: image[key] for key in ("id", "height", "width") if key in image} for image in ground_truth["images"]
    ]
    categories = [{"id": c["id"], "name": c.get("name", str(c["id"]))} for c in ground_truth["categories"]]
    return {
        "images": images,
        "annotations": annotations,
        "categories": sorted(categories, key=lambda category: category["id"]),
    }


def _clean_annotation(number: int, source: dict[str, Any], with_masks: bool) -> dict[str, Any]:
    keys = ["image_id", "category_id", "bbox"] + ["segmentation"] * with_masks
    missing = [key for key in keys if source.get(key) in (None, [], "")]
    if missing:
        raise ValueError(f"ground truth annotation {source.get('id')} has no {' and no '.join(missing)}")
    clean = {key: source[key] for key in keys}
    area = source.get("area")
    clean["id"] = number
    clean["area"] = float(source["bbox"][2] * source["bbox"][3] if area is None else area)
    clean["iscrowd"] = int(source.get("iscrowd") or 0)
    return clean


def evaluate_hotcoco(
    ground_truth: dict[str, Any], rows: np.ndarray, masks: list[dict[str, Any]] | None, max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Match detections with the ground truth by boxes or, where masks are given, by masks.

    Args:
        ground_truth: as `clean_ground_truth` gives it.
        rows: [n, 7], the DETECTION_COLUMNS.
        masks: n compressed RLE dicts, or None.
        max_detections: how many detections of an image and class count.

    Returns:
        precision [10 IoU thresholds, 101 recalls, classes, 4 area ranges, 3 limits of detections] and
        recall [10, classes, 4, 3], -1 where the ground truth has no object.
    """
    import hotcoco

    truth = hotcoco.COCO(ground_truth)
    if masks:
        found = truth.load_res(rows, segmentation=list(masks))
        found.update_anns(ids=np.arange(1, len(rows) + 1), area=np.asarray(hotcoco.mask.area(masks), dtype=float))
    else:
        found = truth.load_res(rows)
    evaluation = hotcoco.COCOeval(truth, found, "bbox" if masks is None else "segm")
    evaluation.params.max_dets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    curves = evaluation.eval
    assert curves is not None
    return curves["precision"], curves["recall"]


def evaluate_pycocotools(
    ground_truth: dict[str, Any], rows: np.ndarray, masks: list[dict[str, Any]] | None, max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same as `evaluate_hotcoco`, by the reference implementation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = result_dicts(rows, masks)
    if masks is not None:  # with a box, pycocotools would take the area of the box for that of the mask
        for result in results:
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = ground_truth | {"annotations": [dict(a) for a in ground_truth["annotations"]]}
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:
            found.dataset = ground_truth | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox" if masks is None else "segm")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


BACKENDS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "hotcoco": evaluate_hotcoco,
    "pycocotools": evaluate_pycocotools,
}


def summarize(precision: np.ndarray, recall: np.ndarray, max_detections: int = 100) -> dict[str, float]:
    """The twelve COCO figures of a backend's precision and recall."""
    areas = {"s": 1, "m": 2, "l": 3}
    best = precision[..., 0, -1]
    figures = {"AP": mean_defined(best), "AP50": mean_defined(best[0]), "AP75": mean_defined(best[5])}
    figures |= {f"AP{name}": mean_defined(precision[..., area, -1]) for name, area in areas.items()}
    figures |= {f"AR{limit}": mean_defined(recall[..., 0, i]) for i, limit in enumerate((1, 10, max_detections))}
    return figures | {f"AR{name}": mean_defined(recall[..., area, -1]) for name, area in areas.items()}


def mean_defined(values: np.ndarray) -> float:
    """The mean of the values that are not -1, or -1 where all are."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def result_dicts(rows: np.ndarray, masks: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """COCO result dictionaries of detections and, where given, their RLE masks.

    Args:
        rows: [n, 7]: image id, x, y, width, height in pixels, score, category id.
        masks: one for each row, or None.
    """
    results = [
        {"image_id": int(image_id), "category_id": int(category), "bbox": box, "score": score}
        for image_id, *box, score, category in rows.tolist()
    ]
    if masks is not None:
        for result, mask in zip(results, masks, strict=True):
            result["segmentation"] = mask
    return results
