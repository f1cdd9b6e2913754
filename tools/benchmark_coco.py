"""How long COCO evaluation takes with each backend, from arrays of detections in memory to the twelve figures.

    python tools/benchmark_coco.py --images 5000 --detections 500000

The scenes are synthetic: 80 classes, about 7.3 objects an image (as in COCO val2017), detections that lie around
objects or anywhere. Both backends get the same ground truth and the same rows.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from detkit.evaluation.backends import BACKENDS, clean_ground_truth, detection_rows, summarize

CLASSES, OBJECTS_PER_IMAGE, WIDTH, HEIGHT = 80, 7.3, 640, 480


def synthetic(num_images: int, num_detections: int, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """A COCO ground truth and detections as rows of `detkit.evaluation.backends.DETECTION`."""
    rng = np.random.default_rng(seed)
    owners = np.sort(rng.integers(num_images, size=round(num_images * OBJECTS_PER_IMAGE)))
    boxes = random_boxes(rng, len(owners))
    labels = rng.integers(1, CLASSES + 1, size=len(owners))
    truth = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(num_images)],
        "categories": [{"id": i, "name": f"class_{i}"} for i in range(1, CLASSES + 1)],
        "annotations": [
            {"image_id": image, "category_id": label, "bbox": box, "iscrowd": int(crowd)}
            for image, label, box, crowd in zip(
                owners.tolist(), labels.tolist(), boxes.tolist(), rng.random(len(owners)) < 0.01, strict=True
            )
        ],
    }
    return clean_ground_truth(truth), random_detections(rng, owners, boxes, labels, num_images, num_detections)


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    sides = np.exp(rng.uniform(np.log(8), np.log(300), size=(number, 2)))
    return np.concatenate([rng.random((number, 2)) * [WIDTH, HEIGHT], sides], axis=1)


def random_detections(rng, owners, boxes, labels, num_images: int, number: int) -> np.ndarray:
    near = rng.random(number) < 0.5
    source = rng.integers(len(owners), size=number)
    images = np.where(near, owners[source], rng.integers(num_images, size=number))
    jitter = rng.normal(0, 0.1, size=(number, 4)) * boxes[source][:, [2, 3, 2, 3]]
    found = np.where(near[:, None], boxes[source] + jitter, random_boxes(rng, number))
    found[:, 2:] = found[:, 2:].clip(1)
    right = near & (rng.random(number) < 0.7)
    classes = np.where(right, labels[source], rng.integers(1, CLASSES + 1, size=number))
    scores = rng.random(number) * np.where(near, 1.0, 0.6)
    return detection_rows(images, found, scores, classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    truth, rows = synthetic(options.images, options.detections, options.seed)
    print(f"{options.images} images, {len(truth['annotations'])} objects, {len(rows)} detections, seed {options.seed}")

    seconds, figures = {}, {}
    for name, evaluate in BACKENDS.items():
        start = time.perf_counter()
        figures[name] = summarize(*evaluate(truth, rows, None, 100))
        seconds[name] = time.perf_counter() - start
    print(f"{'backend':12}{'seconds':>9}" + "".join(f"{key:>8}" for key in figures["hotcoco"]))
    for name in BACKENDS:
        print(f"{name:12}{seconds[name]:9.2f}" + "".join(f"{value:8.4f}" for value in figures[name].values()))
    difference = max(abs(figures["hotcoco"][key] - value) for key, value in figures["pycocotools"].items())
    ratio = seconds["pycocotools"] / seconds["hotcoco"]
    print(f"hotcoco is {ratio:.1f}x as fast; largest difference of a figure: {difference:.1e}")


if __name__ == "__main__":
    main()
