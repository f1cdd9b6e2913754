"""From arrays of detections to COCO precision and recall, by hotcoco or by pycocotools."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from detkit.data.annotations import id_problem, judge_annotations
from detkit.data.coco_file import check_size

logger = logging.getLogger(__name__)

# One detection: ids of the ground truth, which float64 would not hold; box x, y, width, height in pixels.
DETECTION = np.dtype([("image_id", np.int64), ("box", np.float64, 4), ("score", np.float64), ("category_id", np.int64)])
FIELDS = ("image_id", "box", "score", "category_id")


def detection_rows(image_ids: Any, boxes: Any, scores: Any, category_ids: Any) -> np.ndarray:
    """Detections as an array of DETECTION.

    Args:
        image_ids: `[n]`, or one for all.
        boxes: `[n, 4]` x, y, width, height in pixels.
        scores, category_ids: `[n]`.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    rows = np.empty(len(boxes), dtype=DETECTION)
    rows["image_id"], rows["box"] = np.asarray(image_ids, dtype=np.int64), boxes
    rows["score"], rows["category_id"] = scores, np.asarray(category_ids, dtype=np.int64)
    return rows


def clean_ground_truth(ground_truth: dict[str, Any], *, with_masks: bool = False) -> dict[str, Any]:
    """A copy of a COCO dict with what evaluation reads, completed.

    Categories are ordered by id. Annotations are numbered from 1 (pycocotools never matches an annotation with id 0)
    and have "iscrowd" and "area" (by default the area of the box). Those that cannot be used, see
    `detkit.data.annotations`, are left out and reported.

    Raises:
        ValueError: a key is missing, an id repeats or does not fit into 64 bits, or no annotation can be used; the
            message names it.
    """
    for key in ("images", "annotations", "categories"):
        if key not in ground_truth:
            raise ValueError(f"the ground truth has no {key!r}; it must be a COCO dict")
    for key in ("images", "categories"):
        ids = [entry.get("id") if isinstance(entry, dict) else None for entry in ground_truth[key]]
        if wrong := [reason for reason in map(id_problem, ids) if reason]:
            raise ValueError(f"one of the ground truth's {key} {wrong[0]}")
        if len(set(ids)) != len(ids):
            raise ValueError(f"ids of the ground truth's {key} repeat")
    images = [
        {key: image[key] for key in ("id", "height", "width") if key in image} for image in ground_truth["images"]
    ]
    for image in images:
        if with_masks or len(image) == 3:
            image.update({"height": image.get("height"), "width": image.get("width")})
            check_size(image, f"image {image['id']} of the ground truth")
    categories = [{"id": c["id"], "name": c.get("name", str(c["id"]))} for c in ground_truth["categories"]]
    return {
        "images": images,
        "annotations": _clean_annotations(ground_truth["annotations"], images, categories, with_masks),
        "categories": sorted(categories, key=lambda category: category["id"]),
    }


def _clean_annotations(
    annotations: list[dict], images: list[dict], categories: list[dict], with_masks: bool
) -> list[dict[str, Any]]:
    by_id, known = {image["id"]: image for image in images}, {c["id"] for c in categories}
    judged = judge_annotations(annotations, by_id, known, masks=with_masks, unique=False)
    judged.report("the ground truth")
    if judged.crowds == len(judged.annotations):
        logger.warning("the ground truth has no object (%d crowd regions): all figures are -1", judged.crowds)
    keys = ["image_id", "category_id", "bbox", "iscrowd"] + ["segmentation"] * with_masks
    return [
        {**{key: source[key] for key in keys}, "id": number, "area": float(source["area"])}
        for number, source in enumerate(judged.annotations, 1)
    ]


def _with_numbers(ground_truth: dict[str, Any], rows: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The ground truth and the detections with images and categories numbered in the order of their ids.

    The numbers fit into float64, in which hotcoco takes its arrays `[n, 7]`.
    """
    image_ids, category_ids = (np.sort([item["id"] for item in ground_truth[k]]) for k in ("images", "categories"))
    image_number, category_number = ({i: n for n, i in enumerate(ids.tolist())} for ids in (image_ids, category_ids))
    numbered = {
        "images": [{**image, "id": image_number[image["id"]]} for image in ground_truth["images"]],
        "categories": [{"id": number, "name": str(number)} for number in category_number.values()],
        "annotations": [
            {**a, "image_id": image_number[a["image_id"]], "category_id": category_number[a["category_id"]]}
            for a in ground_truth["annotations"]
        ],
    }
    images, categories = (
        np.searchsorted(image_ids, rows["image_id"]),
        np.searchsorted(category_ids, rows["category_id"]),
    )
    return numbered, np.column_stack([images, rows["box"], rows["score"], categories])


def evaluate_hotcoco(
    ground_truth: dict[str, Any], rows: np.ndarray, masks: list[dict[str, Any]] | None, max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Match detections with the ground truth by boxes or, where masks are given, by masks.

    Args:
        ground_truth: as `clean_ground_truth` gives it.
        rows: [n] of DETECTION, of images and categories of the ground truth.
        masks: n compressed RLE dicts, or None.
        max_detections: how many detections of an image and class count.

    Returns:
        precision [10 IoU thresholds, 101 recalls, classes, 4 area ranges, 3 limits of detections] and
        recall [10, classes, 4, 3], -1 where the ground truth has no object.
    """
    evaluation = match_hotcoco(ground_truth, rows, masks, max_detections)
    evaluation.accumulate()
    curves = evaluation.eval
    assert curves is not None
    return curves["precision"], curves["recall"]


def match_hotcoco(
    ground_truth: dict[str, Any], rows: np.ndarray, masks: list[dict[str, Any]] | None, max_detections: int
) -> Any:
    """The `hotcoco.COCOeval` of `evaluate_hotcoco`, matched but not accumulated.

    In it images and categories are numbered from 0 in the order of their ids, annotations and detections from 1 in
    their own order; detections of unknown categories are left out.
    """
    import hotcoco

    known = np.isin(rows["category_id"], [category["id"] for category in ground_truth["categories"]])
    numbered, found_rows = _with_numbers(ground_truth, rows[known])
    masks = masks and [masks[i] for i in np.flatnonzero(known)]
    truth = hotcoco.COCO(numbered)
    if masks:
        found = truth.load_res(found_rows, segmentation=list(masks))
        found.update_anns(ids=np.arange(1, len(found_rows) + 1), area=np.asarray(hotcoco.mask.area(masks), dtype=float))
    else:
        found = truth.load_res(found_rows)
    evaluation = hotcoco.COCOeval(truth, found, "bbox" if masks is None else "segm")
    evaluation.params.max_dets = [1, 10, max_detections]
    evaluation.evaluate()
    return evaluation


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
        rows: [n] of DETECTION.
        masks: one for each row, or None.
    """
    results = [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for image_id, box, score, category in zip(*(rows[name].tolist() for name in FIELDS), strict=True)
    ]
    if masks is not None:
        for result, mask in zip(results, masks, strict=True):
            result["segmentation"] = mask
    return results
