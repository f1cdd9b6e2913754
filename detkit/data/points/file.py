"""Files of points: one place in an image and a class for each object.

The file is a COCO instances json whose annotations have `point: [x, y]` and a category; box and segmentation may be
missing. A point is in pixels of the image with the width and height of the file; for a photo with an EXIF rotation
these tell whether that is the upright picture or the pixels as stored. As in COCO's key-points the pixel in column 3
and row 5 is the point (3, 5); no half pixel is added. x may be 0 to the width and y 0 to the height, both included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detkit.data.annotations import Judged, Problem, judge_annotations, refuse_only_crowds, short
from detkit.data.coco_file import read_instances, warn_of_doubles
from detkit.files import refuse_url
from detkit.images import read_frame
from detkit.ops.points import points_inside
from detkit.ops.segmentations import all_finite


class Points(NamedTuple):
    """A file of points: its content with the usable points only, why others are not, and how many are crowds."""

    content: dict[str, Any]
    problems: list[Problem]
    crowds: int


def read_points(path: str | Path) -> Points:
    """Read a file of points. Crowd regions are left out and counted.

    Raises:
        ValueError: see `read_instances`, or no annotation can be used; the message names the file and up to ten ids.
    """
    content = read_instances(path)
    images = {image["id"]: image for image in content["images"]}
    judged = judge_annotations(content["annotations"], images, {c["id"] for c in content["categories"]}, boxes=False)
    points, problems = [], judged.problems
    for annotation in judged.annotations:
        if annotation["iscrowd"]:
            continue
        reason = point_problem(annotation, images[annotation["image_id"]])
        if reason is None:
            points.append(annotation)
        else:
            problems.append(Problem(annotation["id"], annotation["image_id"], reason))
    Judged(points, problems if not points else [], judged.mended).report(path)
    refuse_only_crowds(path, len(points), judged.crowds)
    warn_of_doubles(content, path)
    return Points({**content, "annotations": points}, problems, judged.crowds)


def point_problem(annotation: Mapping, image: Mapping) -> str | None:
    """Why the point of an annotation cannot be used; None if it can."""
    given = annotation.get("point")
    if given is None:
        return "has no point"
    if (point := _numbers(given, 2)) is None:
        return f"its point is {short(given)}, not two finite numbers x, y"
    x, y = point
    if not points_inside(np.array([point]), (image["height"], image["width"])).all():
        return f"its point {x:g}, {y:g} lies outside the {image['width']} x {image['height']} pixels"
    return None


def _numbers(values: Any, count: int) -> list[float] | None:
    """The values if they are a list of `count` finite numbers."""
    return values if isinstance(values, list) and len(values) == count and all_finite(values) else None


@dataclass
class PointReport:
    """What `check_points` found: counts of the file's usable parts, and the problems."""

    images: int
    images_without_points: int
    points: int
    with_box: int
    by_class: dict[str, int]
    problems: list[Problem]
    crowds: int = 0

    def table(self) -> str:
        """Counts, points of each class and all problems, a line each."""
        counts = {
            "images": self.images,
            "images without points": self.images_without_points,
            "points": self.points,
            "points with a box": self.with_box,
            "left out as crowds": self.crowds,
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
    content, problems, crowds = read_points(annotation_file)
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
        crowds=crowds,
    )


def _image_problems(images: list[dict], folder: Path) -> list[Problem]:
    refuse_url(folder, "folder")
    if not folder.is_dir():
        raise ValueError(f"image folder {folder} does not exist")
    problems = []
    for image in images:
        path = folder / image["file_name"]
        try:
            frame = read_frame(path)
        except ValueError as error:
            problems.append(Problem(None, image["id"], str(error)))
            continue
        height, width = frame.size
        if (image["height"], image["width"]) not in (frame.size, frame.stored_size):
            stated = f"the file says {image['width']} x {image['height']}"
            problems.append(Problem(None, image["id"], f"{path} has {width} x {height} pixels, {stated}"))
        elif doubt := frame.doubt():
            problems.append(Problem(None, image["id"], f"{path}: {doubt}"))
    return problems
