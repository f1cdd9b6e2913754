"""Measure what the report of a large validation set takes beyond the evaluation: CPU seconds, and the size of the page.

The images and detections are made up: COCO's number of images, classes and objects, about 95 detections an image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from detkit.evaluation.coco import CocoEvaluator
from detkit.reports.bootstrap import PrecisionTable
from detkit.reports.evaluated import Evaluated
from detkit.reports.findings import find
from detkit.reports.page import write_page
from detkit.structures import Annotations, Detections, LabelMap

WIDTH, HEIGHT, CLASSES, OBJECTS, FOUND = 640, 480, 80, 7, 95


class Noise:
    """A dataset of images of noise."""

    def __init__(self, length: int):
        self.image_ids = list(range(1, length + 1))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Annotations]:
        """The image uint8 [3, h, w] and annotations without objects."""
        return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8), nothing_in(index + 1)


def nothing_in(image_id: int) -> Annotations:
    """Annotations without objects."""
    return Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image_id=image_id)


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Boxes `[number, 4]`, x1 y1 x2 y2 in pixels, with sides of 8 to 140."""
    corner = rng.uniform(0, (WIDTH - 140, HEIGHT - 140), (number, 2))
    return np.concatenate([corner, corner + np.exp(rng.uniform(np.log(8), np.log(140), (number, 2)))], axis=1)


def make(images: int) -> Evaluated:
    """What a detector finds that sees three quarters of the objects, among noise."""
    rng, frequency = np.random.default_rng(0), 1 / np.arange(1, CLASSES + 1)
    frequency /= frequency.sum()
    label_map = LabelMap(tuple(f"class {k}" for k in range(CLASSES)), tuple(range(1, CLASSES + 1)))
    annotations, predictions = [], []
    for image_id in range(1, images + 1):
        boxes, labels = random_boxes(rng, n := rng.poisson(OBJECTS)), rng.choice(CLASSES, n, p=frequency)
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "iscrowd": 0}
                | {"bbox": box, "area": box[2] * box[3]}
            )
        seen = rng.random(n) < 0.75
        sides = np.tile(boxes[seen, 2:] - boxes[seen, :2], 2)
        right = boxes[seen] + rng.normal(0, 0.06, sides.shape) * sides
        noise = max(0, FOUND - int(seen.sum()))
        found = torch.from_numpy(np.concatenate([right, random_boxes(rng, noise)]))
        scores = torch.from_numpy(np.concatenate([rng.beta(5, 2, int(seen.sum())), rng.beta(1, 12, noise)]))
        classes = np.concatenate([labels[seen], rng.choice(CLASSES, noise)])
        predictions.append(Detections(found, scores, torch.from_numpy(classes), label_map=label_map))
    truth = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)],
    }
    evaluator = CocoEvaluator(truth)
    evaluator.update(predictions, [nothing_in(i) for i in range(1, images + 1)])
    figures = evaluator.compute()
    config = {"model": {"type": "none"}, "data": {"train": None}}
    header = {"config": config, "label_map": label_map.to_dict()}
    data, path = Noise(images), Path("none.safetensors")
    return Evaluated(path, header, config, data, evaluator, *evaluator.detections(), figures, evaluator.class_figures())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    images = parser.parse_args().images
    evaluated = make(images)
    start = time.process_time()
    found = find(evaluated, "bbox")
    content = write_page(evaluated, [found])
    print(f"page of {images} images, {len(evaluated.rows)} detections: {time.process_time() - start:.1f} CPU s")
    print(f"size {len(content.encode()) / 1e6:.2f} MB")
    table = PrecisionTable(found.matching, CLASSES)
    start = time.process_time()
    table.average_precision(np.ones(images))
    print(f"AP of one draw of images: {1000 * (time.process_time() - start):.0f} CPU ms, 2000 for an interval")


if __name__ == "__main__":
    main()
