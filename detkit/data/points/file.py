"""Files of points: one place in an image and a class for each object.

The file is a COCO instances json whose annotations have `point: [x, y]` and a category; box and segmentation may be
missing. A point is in pixels of the image as stored. As in COCO's key-points the pixel in column 3 and row 5 is the
point (3, 5); no half pixel is added. x may be 0 to the width and y 0 to the height, both included.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from detkit.data.coco_file import COCO_KEYS, check_section, load_json
from detkit.ops.points import points_inside


class Problem(NamedTuple):
    """An annotation, or (annotation None) an image, that cannot be used, and why; an unknown id is None."""

    annotation: Any
    image: Any
    reason: str

    def __str__(self) -> str:
        of = f"annotation {self.annotation} of " if self.annotation is not None else ""
        return f"{of}image {self.image}: {self.reason}"


def read_instances(path: str | Path) -> dict[str, Any]:
    """The content of a COCO json whose images and categories are in order; its annotations are not looked at.

    Raises:
        ValueError: the file cannot be read, is not json, or has broken lists of images or categories.
    """
    path = Path(path)
    content = load_json(path)
    for section in ("images", "categories"):
        check_section(content, section, COCO_KEYS[section], path)
    if not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path}: no list "annotations"; a COCO file has {", ".join(COCO_KEYS)}')
    return content


def read_points(path: str | Path) -> tuple[dict[str, Any], list[Problem]]:
    """Read a file of points.

    Returns:
        Its content with the usable points only, and the problems of the others. Crowd regions are left out.

    Raises:
        ValueError: see `read_instances`, or no annotation can be used; the message names the file and up to ten ids.
    """
    content = read_instances(path)
    images = {image["id"]: image for image in content["images"]}
    objects, problems = usable_annotations(content["annotations"], images, {c["id"] for c in content["categories"]})
    points = []
    for annotation in objects:
        image = images[annotation["image_id"]]
        if annotation.get("iscrowd"):
            continue
        reason = point_problem(annotation, image)
        if reason is None and "bbox" in annotation:
            reason = box_problem(annotation, image)
        if reason is None:
            points.append(annotation)
        else:
            problems.append(Problem(annotation["id"], annotation["image_id"], reason))
    if problems and not points:
        raise ValueError(f"{path}: none of its annotations is a usable point: {list_problems(problems)}")
    return {**content, "annotations": points}, problems


def usable_annotations(
    annotations: list, images: Collection[int], categories: Collection[int]
) -> tuple[list[dict], list[Problem]]:
    """The annotations with a unique id, a known image and a known category, and the problems of the others.

    Of several annotations with one id the first is kept.
    """
    usable, problems, used_ids = [], [], set()
    for position, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or not isinstance(annotation.get("id"), int):
            problems.append(Problem(f"number {position} in the list", None, "is not a dict with a whole number as id"))
            continue
        own, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        if not isinstance(image, int) or image not in images:
            problems.append(Problem(own, image, "there is no such image"))
        elif not isinstance(category, int) or category not in categories:
            problems.append(Problem(own, image, f"there is no category {category!r}"))
        elif own in used_ids:
            problems.append(Problem(own, image, "an earlier annotation has the same id"))
        else:
            used_ids.add(own)
            usable.append(annotation)
    return usable, problems


def point_problem(annotation: Mapping, image: Mapping) -> str | None:
    """Why the point of an annotation cannot be used; None if it can."""
    given = annotation.get("point")
    if given is None:
        return "has no point"
    if (point := _numbers(given, 2)) is None:
        return f"its point is {str(given)[:60]}, not two finite numbers x, y"
    x, y = point
    if not points_inside(np.array([point]), (image["height"], image["width"])).all():
        return f"its point {x:g}, {y:g} lies outside the {image['width']} x {image['height']} pixels"
    return None


def box_problem(annotation: Mapping, image: Mapping) -> str | None:
    """Why the box of an annotation cannot be used; None if it can."""
    given = annotation.get("bbox")
    if (box := _numbers(given, 4)) is None:
        return f"its bbox is {str(given)[:60]}, not four finite numbers x, y, width, height"
    x, y, width, height = box
    inside = x < image["width"] and y < image["height"] and x + width > 0 and y + height > 0
    if width <= 0 or height <= 0 or not inside:
        return f"its bbox {box} has no area inside the {image['width']} x {image['height']} pixels"
    return None


def list_problems(problems: list[Problem]) -> str:
    """The first ten problems in one line."""
    return "; ".join(map(str, problems[:10])) + (f"; ... ({len(problems)} in all)" if len(problems) > 10 else "")


def _numbers(values: Any, count: int) -> list[float] | None:
    """The values if they are a list of `count` finite numbers."""
    if not isinstance(values, list) or len(values) != count:
        return None
    return values if all(type(value) in (int, float) and math.isfinite(value) for value in values) else None


@dataclass
class PointReport:
    """What `check_points` found: counts of the file's usable parts, and the problems."""

    images: int
    images_without_points: int
    points: int
    with_box: int
    by_class: dict[str, int]
    problems: list[Problem]

    def table(self) -> str:
        """Counts, points of each class and all problems, a line each."""
        counts = {
            "images": self.images,
            "images without points": self.images_without_points,
            "points": self.points,
            "points with a box": self.with_box,
            "problems": len(self.problems),
        }
        rows = [*counts.items(), *((f"class {name}", count) for name, count in self.by_class.items())]
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"{name:{width}} {count:9,}" for name, count in rows] + list(map(str, self.problems)))


def check_points(annotation_file: str | Path, image_folder: str | Path | None = None) -> PointReport:
    """Look through a file of points and, where its folder is given, for its images and their sizes.

    Raises:
        ValueError: see `read_points`, or there is no such folder.
    """
    content, problems = read_points(annotation_file)
    images, points = content["images"], content["annotations"]
    counts = Counter(a["category_id"] for a in points)
    if image_folder is not None:
        problems = problems + _image_problems(images, Path(image_folder))
    return PointReport(
        images=len(images),
        images_without_points=len(images) - len({a["image_id"] for a in points}),
        points=len(points),
        with_box=sum("bbox" in a for a in points),
        by_class={c["name"]: counts[c["id"]] for c in sorted(content["categories"], key=lambda c: c["id"])},
        problems=problems,
    )


def _image_problems(images: list[dict], folder: Path) -> list[Problem]:
    if not folder.is_dir():
        raise ValueError(f"image folder {folder} does not exist")
    problems = []
    for image in images:
        path = folder / image["file_name"]
        try:
            with Image.open(path) as opened:
                size = opened.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            problems.append(Problem(None, image["id"], f"cannot read {path}: {error}"))
            continue
        if size != (image["width"], image["height"]):
            stated = f"the file says {image['width']} x {image['height']}"
            problems.append(Problem(None, image["id"], f"{path} has {size[0]} x {size[1]} pixels, {stated}"))
    return problems
