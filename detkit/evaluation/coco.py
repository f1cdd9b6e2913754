"""COCO average precision for boxes and masks, over any number of ranks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch.distributed as dist
from annotated_types import Ge, Le, MinLen

from detkit.evaluation.backends import (
    BACKENDS,
    DETECTION,
    clean_ground_truth,
    detection_rows,
    result_dicts,
    summarize,
)
from detkit.registry import register
from detkit.registry.ranges import OneOf
from detkit.structures import Annotations, Detections

IOU_TYPES = ("bbox", "segm")
# One image: its detections as rows of DETECTION, and their masks as compressed RLE (None without "segm").
Record = tuple[np.ndarray, list[dict[str, Any]] | None]


@register
class CocoEvaluator:
    """The twelve COCO figures and the AP of each class.

    Feed it with `update`, on as many ranks as there are, then call `compute` on all of them. An image that a
    distributed sampler gave to two ranks counts once.

    Args:
        dataset: COCO ground truth (a dict with images, annotations, categories), or a dataset whose `.coco()`
            gives it. Annotations without iscrowd are no crowds; without area they take that of their box.
        iou_types: "bbox", "segm" or both; "segm" needs predictions with masks.
        backend: "hotcoco" or "pycocotools" (the reference, slower); the figures are the same.
        max_detections: how many of the best detections of an image and class count, at least 10.

    Raises:
        ValueError: an unknown option, or a ground truth that lacks something; the message names it.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        iou_types: Annotated[Sequence[Annotated[str, OneOf(IOU_TYPES)]], MinLen(1)] = ("bbox",),
        backend: Annotated[str, OneOf(BACKENDS)] = "hotcoco",
        max_detections: Annotated[int, Ge(10), Le(100_000)] = 100,
    ):
        unknown = [iou_type for iou_type in iou_types if iou_type not in IOU_TYPES]
        if isinstance(iou_types, str) or unknown or not iou_types:
            raise ValueError(f"iou_types must be a list of {', '.join(IOU_TYPES)}; got {iou_types!r}")
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; valid: {', '.join(BACKENDS)}")
        if max_detections < 10:
            raise ValueError(f"max_detections must be at least 10, got {max_detections}")
        self.iou_types, self.backend, self.max_detections = tuple(iou_types), backend, max_detections
        ground_truth = dataset if isinstance(dataset, dict) else dataset.coco()
        self.ground_truth = clean_ground_truth(ground_truth, with_masks="segm" in iou_types)
        self._image_ids = {image["id"] for image in self.ground_truth["images"]}
        self.class_names = _unique_names(self.ground_truth["categories"])
        self._reported_ids: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all detections and figures."""
        self._records: dict[int, Record] = {}
        self._counted: dict[int, Record] = {}
        self._figures: dict[str, float] = {}
        self._classes: dict[str, dict[str, dict[str, float]]] = {}

    def update(self, predictions: Sequence[Detections], annotations: Sequence[Annotations]) -> None:
        """Add the detections of some images; of the annotations only `image_id` is read.

        Raises:
            ValueError: an image that has no id, is not in the ground truth or came before; boxes or scores
                that are not finite; no masks where "segm" is evaluated.
        """
        for found, annotation in zip(predictions, annotations, strict=True):
            image_id = annotation.image_id
            if image_id is None or image_id not in self._image_ids:
                raise ValueError(f"image {image_id} ({annotation.file_name}) is not in the evaluator's ground truth")
            if image_id in self._records:
                raise ValueError(f"image {image_id} ({annotation.file_name}) was evaluated before; call reset()")
            self._records[image_id] = self._record(image_id, found)

    def _record(self, image_id: int, found: Detections) -> Record:
        corners = found.boxes.detach().cpu().double().numpy()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        scores = found.scores.detach().cpu().double().numpy()
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"detections of image {image_id} have boxes or scores that are NaN or infinite")
        rows = detection_rows(image_id, boxes, scores, found.category_ids())
        if "segm" not in self.iou_types:
            return rows, None
        if found.stored_masks is None:
            raise ValueError(f"detections of image {image_id} have no masks, which iou_types 'segm' needs")
        return rows, found.encode_masks()

    def compute(self) -> dict[str, float]:
        """The figures over all images of the ground truth, the same on every rank; all ranks must call it.

        Returns:
            "bbox/AP", "bbox/AP50", AP75, APs, APm, APl, AR1, AR10, AR100 (or AR<max_detections>), ARs, ARm, ARl,
            and the same for "segm"; 0..1, or -1 where the ground truth has no such object.
        """
        counted = _gather(self._records)
        if counted is not None:
            self._counted = counted
            self._evaluate()
        self._figures, self._classes = _broadcast((self._figures, self._classes))
        return dict(self._figures)

    def per_class(self) -> dict[str, float]:
        """ "bbox/AP/<class name>" of the last `compute`, 0..1, or -1 for a class without objects."""
        return {
            f"{iou_type}/AP/{name}": figures["AP"]
            for iou_type, classes in self._classes.items()
            for name, figures in classes.items()
        }

    def class_figures(self) -> dict[str, dict[str, dict[str, float]]]:
        """The twelve figures of each class at the last `compute`: `{"bbox": {"<class name>": {"AP": 0.4, ...}}}`."""
        return self._classes

    def _evaluate(self) -> None:
        self._warn_about_missing()
        rows, masks = self.detections()
        self._figures, self._classes = {}, {}
        for iou_type in self.iou_types:
            precision, recall = BACKENDS[self.backend](
                self.ground_truth, rows, masks if iou_type == "segm" else None, self.max_detections
            )
            figures = summarize(precision, recall, self.max_detections)
            self._figures |= {f"{iou_type}/{name}": value for name, value in figures.items()}
            self._classes[iou_type] = {
                name: summarize(precision[:, :, k : k + 1], recall[:, k : k + 1], self.max_detections)
                for k, name in enumerate(self.class_names)
            }

    def detections(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """What the last `compute` counted, of the categories of the ground truth, images in the order of their ids.

        Returns:
            Rows of `detkit.evaluation.backends.DETECTION`, and the mask of each as RLE (none without "segm").
        """
        records = [self._counted[image_id] for image_id in sorted(self._counted)]
        rows = np.concatenate([np.empty(0, DETECTION), *(rows for rows, _ in records)])
        masks = [mask for _, of_image in records for mask in of_image or ()]
        known = np.isin(rows["category_id"], [category["id"] for category in self.ground_truth["categories"]])
        unknown = set(rows["category_id"][~known].tolist()) - self._reported_ids
        if unknown:
            self._reported_ids |= unknown
            warnings.warn(
                f"detections of categories {sorted(unknown)} do not count: the ground truth has no such category ids",
                stacklevel=4,
            )
        return rows[known], [masks[i] for i in np.flatnonzero(known)] if masks else []

    def _warn_about_missing(self) -> None:
        missing = len(self._image_ids) - len(self._counted)
        if missing:
            warnings.warn(
                f"{missing} of {len(self._image_ids)} images of the ground truth were not evaluated; "
                "they count as images without detections",
                stacklevel=4,
            )

    def results(self) -> list[dict[str, Any]]:
        """COCO result dictionaries of what the last `compute` counted, on rank 0; elsewhere an empty list."""
        results = []
        for image_id in sorted(self._counted):
            rows, masks = self._counted[image_id]
            results += result_dicts(rows, masks)
        return results

    def table(self, *, per_class: bool = False) -> str:
        """The last figures as text, in percent; "-" where the ground truth has no such object."""
        names = [key.split("/")[1] for key in self._figures if key.startswith(self.iou_types[0])]
        lines = [" " * 6 + "".join(f"{name:>7}" for name in names)]
        for iou_type in self.iou_types:
            lines.append(f"{iou_type:6}" + "".join(_percent(self._figures[f"{iou_type}/{name}"]) for name in names))
        if per_class:
            width = max(map(len, [*self.class_names, "class"]))
            lines += ["", f"{'class':{width}}" + "".join(f"{iou_type + ' AP':>9}" for iou_type in self.iou_types)]
            for name in self.class_names:
                values = (self._classes[iou_type][name]["AP"] for iou_type in self.iou_types)
                lines.append(f"{name:{width}}" + "".join("  " + _percent(value) for value in values))
        return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{'-':>7}" if value < 0 else f"{100 * value:7.1f}"


def _unique_names(categories: list[dict[str, Any]]) -> list[str]:
    names = [category["name"] for category in categories]
    return [n if names.count(n) == 1 else f"{n} (id {c['id']})" for n, c in zip(names, categories, strict=True)]


def _gather(records: dict[int, Record]) -> dict[int, Record] | None:
    """The records of all ranks on rank 0, None elsewhere; of an image on two ranks the lower rank's counts."""
    if not (dist.is_available() and dist.is_initialized()):
        return records
    parts: list[dict[int, Record]] | None = [{}] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(records, parts)
    if parts is None:
        return None
    return {image_id: record for part in reversed(parts) for image_id, record in part.items()}


def _broadcast(value: Any) -> Any:
    """Rank 0's value."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
