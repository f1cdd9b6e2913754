"""Detections of made-up images, as if a model had found them."""

from pathlib import Path

import numpy as np
import torch

from detkit.evaluation.coco import CocoEvaluator
from detkit.reports.evaluated import Evaluated
from detkit.structures import Annotations, Detections, LabelMap

SIDE = 100


class Pictures:
    """Grey images of 100 x 100 pixels."""

    def __init__(self, image_ids):
        self.image_ids = image_ids

    def __getitem__(self, index):
        image = torch.full((3, SIDE, SIDE), 128, dtype=torch.uint8)
        none = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), file_name=f"picture_{index}.jpg")
        return image, none


def evaluated(objects, found, names, *, with_masks=False):
    """What a checkpoint finds.

    Args:
        objects: of each image a list of (label, box xyxy, iscrowd).
        found: of each image a list of (label, box xyxy, score).
        names: of the classes, whose category ids are 10, 11, ...
        with_masks: the boxes are masks too.
    """
    label_map = LabelMap(tuple(names), tuple(range(10, 10 + len(names))))
    image_ids = list(range(5, 5 + len(objects)))
    evaluator = CocoEvaluator(
        ground_truth(objects, image_ids, label_map), iou_types=("bbox", "segm") if with_masks else ("bbox",)
    )
    for image_id, of_image in zip(image_ids, found, strict=True):
        annotations = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image_id=image_id)
        evaluator.update([_detections(of_image, label_map, with_masks)], [annotations])
    figures = evaluator.compute()
    config = dict(model=dict(type="ViDT"), data=dict(train=None))
    header = dict(config=config, label_map=label_map.to_dict())
    weights = Path("nowhere") / "best.safetensors"
    classes = evaluator.class_figures()
    return Evaluated(weights, header, config, Pictures(image_ids), evaluator, *evaluator.detections(), figures, classes)


def ground_truth(objects, image_ids, label_map):
    """The objects of `evaluated` as a COCO dict."""
    annotations = []
    for image_id, of_image in zip(image_ids, objects, strict=True):
        for label, (x1, y1, x2, y2), crowd in of_image:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image_id, category_id=label_map.category_ids[label])
                | dict(bbox=box, area=box[2] * box[3], iscrowd=crowd, segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]])
            )
    categories = [dict(id=i, name=n) for n, i in zip(label_map.names, label_map.category_ids, strict=True)]
    images = [dict(id=i, height=SIDE, width=SIDE) for i in image_ids]
    return dict(images=images, annotations=annotations, categories=categories)


def _detections(found, label_map, with_masks):
    boxes = torch.tensor([box for _, box, _ in found], dtype=torch.float64).reshape(-1, 4)
    masks = None
    if with_masks:
        masks = torch.zeros(len(found), SIDE, SIDE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[max(0, y1) : y2, max(0, x1) : x2] = True
    scores = torch.tensor([score for _, _, score in found], dtype=torch.float64)
    return Detections(boxes, scores, torch.tensor([label for label, _, _ in found]).long(), masks, label_map)


def random_scenes(images, *, classes=3, seed=0):
    """Objects and detections for `evaluated`: most objects are found, some twice or as another class; much noise."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for _ in range(images):
        objects.append(
            [(int(rng.integers(classes)), _box(rng), int(rng.random() < 0.1)) for _ in range(rng.integers(5))]
        )
        of_image = [(int(rng.integers(classes)), _box(rng), float(rng.random() * 0.7)) for _ in range(3)]
        for label, box, _ in objects[-1]:
            for _ in range(rng.integers(3)):
                moved = (np.array(box) + rng.normal(0, 2, 4)).tolist()
                seen = label if rng.random() < 0.8 else int(rng.integers(classes))
                of_image.append((seen, moved, float(rng.random())))
        found.append(of_image)
    return objects, found


def _box(rng):
    x, y = rng.uniform(0, 60, 2)
    width, height = rng.uniform(10, 40, 2)
    return [float(x), float(y), float(x + width), float(y + height)]
