"""Split a dataset into few fully annotated images and many with points (PointWSSIS, arXiv 2303.15062, section 4.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.annotations import Problem, judge_annotations, list_problems, refuse_only_crowds, sound_segmentation
from detkit.data.points.file import point_problem
from detkit.files import refuse_to_overwrite, write_json
from detkit.ops.rle import decode_mask

logger = logging.getLogger(__name__)

POINTS = ("centre", "random", "given")
SPLIT_FILES = {"strong": "strong.json", "weak": "weak.json", "truth": "weak_truth.json"}


@dataclass
class Split:
    """A dataset in two parts, each a COCO instances json with all categories.

    Attributes:
        strong: some images with their full annotations, each with its point.
        weak: the other images; their annotations have id, image, category and point, and optionally a box.
        truth: the full annotations of the weak images under the same ids, and crowd regions.
        problems: annotations that are in no part, and why.
    """

    strong: dict[str, Any]
    weak: dict[str, Any]
    truth: dict[str, Any]
    problems: list[Problem]

    def classes_without_strong_label(self) -> list[str]:
        """Names of the classes of points that no strong annotation shows."""
        strong, weak = _classes(self.strong), _classes(self.weak)
        return [c["name"] for c in self.weak["categories"] if c["id"] in weak - strong]

    def table(self) -> str:
        """Images, objects and classes of each part."""
        lines = [f"{'part':10} {'images':>9} {'objects':>9} {'classes':>9} {'crowds':>9}"]
        for name, full in (("strong", self.strong), ("weak", self.truth)):
            part = vars(self)[name]
            objects, crowds = len(_objects(part)), len(full["annotations"]) - len(_objects(full))
            lines.append(f"{name:10} {len(part['images']):9,} {objects:9,} {len(_classes(part)):9,} {crowds:9,}")
        return "\n".join(lines)


def split_annotations(
    content: Mapping[str, Any],
    *,
    percent: float,
    seed: int = 0,
    points: str = "centre",
    boxes: bool = False,
    name: Any = "json",
) -> Split:
    """Keep the full annotations of some images and reduce those of all others to points.

    The images are drawn at random. The draw depends on their ids and the seed only, and a smaller percentage draws a
    part of what a larger one draws.

    Args:
        content: of a COCO instances json.
        percent: part of the images that stays fully annotated, above 0 and below 100; one image at least, all but one
            at most.
        seed: of the draw and of random points.
        points: "centre": the centre of mass of the mask, the mean column and row of its pixels; it may lie outside of a
            mask that is bent or has a hole. "random": one of the mask's pixels, each as likely as the other; which one
            depends on the seed and the place of the annotation in the file. "given": the annotation's own `point`. For
            what the numbers mean see `detkit.data.points.file`; no half pixel is added.
        boxes: let weak annotations keep their boxes, for the prompt "point_with_size".
        name: of the json, for messages.

    Returns:
        The parts. Crowd regions are no objects to point at: they are kept in `strong` and `truth`.

    Raises:
        ValueError: an argument out of range, fewer than two images, or no annotation that can be used.
    """
    if points not in POINTS:
        raise ValueError(f"unknown points {points!r}: choose from {', '.join(POINTS)}")
    images = {image["id"]: image for image in content["images"]}
    chosen = draw_images(list(images), percent, seed)
    judged = judge_annotations(content["annotations"], images, {c["id"] for c in content["categories"]}, boxes=False)
    usable, problems = judged.annotations, judged.problems
    pointed = _with_points(usable, images, points, seed, boxes, problems)
    if problems and all(a["iscrowd"] for a in pointed):
        raise ValueError(f"{name}: no annotation can be used: {list_problems(problems)}")
    if judged.mended:
        logger.warning("%s: mended %d annotations: %s", name, len(judged.mended), list_problems(judged.mended))
    refuse_only_crowds(name, len(pointed) - judged.crowds, judged.crowds)
    # A full label is worth keeping where its point was never given.
    full = usable if points == "given" else pointed
    weak = [a for a in pointed if a["image_id"] not in chosen]
    split = Split(
        strong=_part(content, chosen, [a for a in full if a["image_id"] in chosen]),
        weak=_part(content, images.keys() - chosen, [_reduced(a, boxes) for a in weak if not a["iscrowd"]]),
        truth=_part(content, images.keys() - chosen, weak),
        problems=problems,
    )
    if lost := split.classes_without_strong_label():
        logger.warning("classes with points but without any full annotation to learn from: %s", ", ".join(lost))
    return split


def draw_images(image_ids: list[int], percent: float, seed: int) -> set[int]:
    """The ids of the images that stay fully annotated, see `split_annotations`."""
    if not 0 < percent < 100:
        raise ValueError(f"percent must lie above 0 and below 100, got {percent}")
    if len(image_ids) < 2:
        raise ValueError(f"there must be two images at least, one of each kind; there are {len(image_ids)}")
    count = min(max(1, round(len(image_ids) * percent / 100)), len(image_ids) - 1)
    order = np.random.default_rng(seed).permutation(np.sort(np.array(image_ids, dtype=np.int64)))
    return set(order[:count].tolist())


def write_split(split: Split, folder: str | Path, *, force: bool = False) -> dict[str, Path]:
    """Write `strong.json`, `weak.json` and `weak_truth.json` into a folder, each in one move.

    Args:
        force: replace files that are there.

    Returns:
        The files of "strong", "weak" and "truth".

    Raises:
        ValueError: one of them exists and `force` is not set.
    """
    paths = {name: Path(folder) / file_name for name, file_name in SPLIT_FILES.items()}
    if not force:
        refuse_to_overwrite(paths.values())
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        write_json(path, vars(split)[name])
    return paths


def mask_centre(mask_hw: np.ndarray) -> list[float]:
    """Mean column and row x, y of the pixels of a bool mask that is not empty."""
    sums = mask_hw.sum(axis=0), mask_hw.sum(axis=1)
    return [float(counts @ np.arange(len(counts)) / counts.sum()) for counts in sums]


def random_pixel(mask_hw: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Column and row x, y of a pixel of a bool mask that is not empty."""
    pixels = np.flatnonzero(mask_hw)
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask_hw.shape[1])
    return [column, row]


def _with_points(
    annotations: list[dict], images: Mapping[int, Mapping], points: str, seed: int, boxes: bool, problems: list[Problem]
) -> list[dict]:
    """Annotations with their points, crowds without; what is wrong with the others is added to `problems`."""
    pointed = []
    for position, annotation in enumerate(annotations):
        image = images[annotation["image_id"]]
        if annotation["iscrowd"]:
            pointed.append(annotation)
            continue
        found, reason = point_of(annotation, image, points, (seed, position))
        if reason is None and boxes and "bbox" not in annotation:
            reason = "has no bbox"
        if reason is None:
            pointed.append({**annotation, "point": found})
        else:
            problems.append(Problem(annotation["id"], annotation["image_id"], reason))
    return pointed


def point_of(
    annotation: Mapping, image: Mapping, points: str, seeds: tuple[int, int] = (0, 0)
) -> tuple[list | None, str | None]:
    """The point of an annotation, see `split_annotations`, or why it has none."""
    if points == "given":
        return annotation.get("point"), point_problem(annotation, image)
    try:
        segmentation = sound_segmentation(annotation, image, [])
    except ValueError as error:
        return None, str(error)
    mask = decode_mask(segmentation, int(image["height"]), int(image["width"]))
    if not mask.any():
        return None, "its mask is empty"
    if points == "centre":
        return mask_centre(mask), None
    return random_pixel(mask, np.random.default_rng(seeds)), None


def _part(content: Mapping[str, Any], image_ids: Any, annotations: list[dict]) -> dict[str, Any]:
    images = [image for image in content["images"] if image["id"] in image_ids]
    return {**content, "images": images, "annotations": annotations}


def _reduced(annotation: Mapping, boxes: bool) -> dict[str, Any]:
    keys = ("id", "image_id", "category_id", "point", *(["bbox"] if boxes else []))
    return {**{key: annotation[key] for key in keys}, "iscrowd": 0}


def _objects(part: Mapping[str, Any]) -> list[dict]:
    return [a for a in part["annotations"] if not a["iscrowd"]]


def _classes(part: Mapping[str, Any]) -> set[int]:
    return {a["category_id"] for a in _objects(part)}
