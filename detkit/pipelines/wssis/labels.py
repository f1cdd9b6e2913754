"""Files between the stages of PointWSSIS: predicted masks of points, and the labels that are made of them.

A prediction file is a COCO results file whose entries also have the "point" that they answer and its "annotation_id". A
label file is a COCO instances file, in which pseudo labels are marked by "pseudo": true.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.console import Console
from detkit.images import check_shape, image_size
from detkit.modeling.base import Model
from detkit.ops.rle import decode_mask, encode_masks, mask_areas
from detkit.pointseg.geometry import mask_boxes
from detkit.structures import LabelMap

logger = logging.getLogger(__name__)

Json = dict[str, Any]


def predict_at_points(model: Any, dataset: Any, *, prompt: str, batch_size: int = 1) -> list[Json]:
    """Predict masks for all points of a dataset.

    Args:
        model: a `PromptedModel` in eval mode.
        dataset: a `PointDataset`.
        prompt: "point" or "point_with_size".

    Raises:
        ValueError: a class that the model does not know, or points without the boxes that the prompt needs.
    """
    if prompt == "point_with_size" and not dataset.has_boxes:
        raise ValueError(f"{dataset.annotation_file}: prompt 'point_with_size' needs a bbox with every point")
    label_of = labels_between(dataset.label_map, model.label_map)
    results: list[Json] = []
    for start in _counted(range(0, len(dataset), batch_size), f"{prompt} prompts: batch"):
        samples = usable_samples(model, dataset, range(start, min(start + batch_size, len(dataset))))
        if not samples:
            continue
        numbers, images, annotations = zip(*samples, strict=True)
        given: Json = {"points": [a.points for a in annotations], "labels": [label_of[a.labels] for a in annotations]}
        if prompt == "point_with_size":
            given["boxes"] = [a.boxes for a in annotations]
        detections = model.predict(list(images), batch_size, prompt=prompt, **given)
        for i, one, found in zip(numbers, annotations, detections, strict=True):
            results += found.to_coco(one.image_id, dataset.annotation_ids(i))
    return results


def usable_samples(model: Any, dataset: Any, numbers: Iterable[int]) -> list[tuple[int, Tensor, Any]]:
    """Number, image and annotations of those samples that can be read and resized; the others are reported."""
    samples = []
    for number in numbers:
        try:
            image, known = dataset[number]
            if isinstance(model, Model):
                check_shape(image_size(image), model.input_rule.longest, model.input_rule.multiple)
        except (ValueError, OSError) as error:
            message = "image id %s of %s: %s: its points have no answer"
            logger.warning(message, dataset.image_ids[number], dataset.annotation_file, error)
            continue
        samples.append((number, image, known))
    return samples


def refine_predictions(refiner: Any, dataset: Any, predictions: Sequence[Json]) -> list[Json]:
    """Refine the masks of predictions; their boxes become those of the refined masks.

    Args:
        refiner: a `MaskRefiner` in eval mode.
        dataset: has the images; the predictions must belong to it.
        predictions: as `predict_at_points` gives them.
    """
    label_of = {category: label for label, category in enumerate(refiner.label_map.category_ids)}
    index_of = {image_id: i for i, image_id in enumerate(dataset.image_ids)}
    grouped = [(image_id, list(group)) for image_id, group in groupby(predictions, key=lambda p: p["image_id"])]
    refined: list[Json] = []
    for image_id, group in _counted(grouped, "refinement: image"):
        image, _ = dataset[index_of[image_id]]
        size = image_size(image)
        masks = torch.from_numpy(np.stack([decode_mask(p["segmentation"], *size) for p in group]))
        points = torch.tensor([p["point"] for p in group])
        labels = torch.tensor([label_of[p["category_id"]] for p in group])
        better = refiner.refine(image, masks, points, labels).cpu()
        for prediction, rle, box in zip(group, encode_masks(better), boxes_of(better), strict=True):
            refined.append({**prediction, "segmentation": rle, "bbox": box})
    return refined


def labels_between(of_data: LabelMap, of_model: LabelMap) -> Tensor:
    """The model's label of each label of the data, by category id.

    Raises:
        ValueError: the model lacks a class of the data.
    """
    known = {category: label for label, category in enumerate(of_model.category_ids)}
    named = zip(of_data.category_ids, of_data.names, strict=True)
    missing = [f"{name} (id {category})" for category, name in named if category not in known]
    if missing:
        raise ValueError(f"points of classes that the model does not know: {', '.join(missing[:10])}")
    return torch.tensor([known[category] for category in of_data.category_ids])


def boxes_of(masks: Tensor) -> list[list[float]]:
    """Boxes x, y, width, height around masks `[n, h, w]`; all 0 for an empty mask."""
    boxes = mask_boxes(masks)
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def pseudo_labels(predictions: Sequence[Json]) -> list[Json]:
    """Predictions as annotations without ids; those with an empty mask are left out."""
    kept = ("image_id", "category_id", "bbox", "segmentation", "point", "score")
    return [
        {**{key: prediction[key] for key in kept}, "area": area, "iscrowd": 0, "pseudo": True}
        for prediction, area in zip(
            predictions, mask_areas([p["segmentation"] for p in predictions]).tolist(), strict=True
        )
        if area > 0
    ]


def join_labels(strong: Json, weak: Json, labels: Sequence[Json]) -> Json:
    """A COCO instances file of all images: the strong annotations and `labels` of the weak images, numbered from 1."""
    annotations = [{**a, "id": number} for number, a in enumerate([*strong["annotations"], *labels], 1)]
    images = [*weak["images"], *strong["images"]]
    return {"images": images, "annotations": annotations, "categories": strong["categories"]}


def label_quality(truth: Json, weak: Json, predictions: Sequence[Json]) -> dict[str, float]:
    """The quality of predicted masks of points, compared with the true masks.

    Args:
        truth: COCO instances of the weak images, with masks; its annotations have the ids of those of `weak`.
        weak: the annotations with points.
        predictions: from `predict_at_points`.

    Returns:
        `AP`, `AP50`, `AP75` of the predictions; `mean IoU` over all points, where a point without prediction counts 0
        and of several predictions the one with the highest score counts; `mean IoU of answers`, over points with
        predictions.
    """
    from detkit.evaluation.backends import BACKENDS, clean_ground_truth, detection_rows, summarize

    rows = detection_rows(*([p[key] for p in predictions] for key in ("image_id", "bbox", "score", "category_id")))
    ground_truth = clean_ground_truth(truth, with_masks=True)
    masks = [p["segmentation"] for p in predictions]
    figures = summarize(*BACKENDS["hotcoco"](ground_truth, rows, masks, 100), 100)
    best = best_answers(predictions).values()
    ious = _overlaps({a["id"]: a for a in truth["annotations"]}, {i["id"]: i for i in truth["images"]}, best)
    return {
        **{name: figures[name] for name in ("AP", "AP50", "AP75")},
        "mean IoU": sum(ious) / max(1, len(weak["annotations"])),
        "mean IoU of answers": sum(ious) / max(1, len(ious)),
    }


def _overlaps(truth: dict[int, Json], images: dict[int, Json], predictions: Iterable[Json]) -> list[float]:
    """The IoU of each prediction with the true mask of its point."""
    ious = []
    for prediction in predictions:
        true = truth[prediction["annotation_id"]]
        size = images[true["image_id"]]["height"], images[true["image_id"]]["width"]
        one, other = (decode_mask(a["segmentation"], *size) for a in (true, prediction))
        ious.append(float((one & other).sum() / max(1, (one | other).sum())))
    return ious


def best_answers(predictions: Iterable[Json]) -> dict[int, Json]:
    """The prediction with the highest score for each point, by annotation id."""
    return {p["annotation_id"]: p for p in sorted(predictions, key=lambda p: p["score"])}


def unanswered(weak: Json, predictions: Iterable[Json]) -> int:
    """The number of points without a prediction."""
    return len({a["id"] for a in weak["annotations"]} - {p["annotation_id"] for p in predictions})


def _counted(items: Any, name: str) -> Iterator[Any]:
    """Iterate over `items` and show the progress and the time left."""
    console = Console(sys.stderr)
    for number, item in enumerate(items, 1):
        yield item
        console.progress(number / len(items), f"{name} {number}/{len(items)}")
    console.clear()
