"""Point prompts for image files, read from a file of points (see `detkit.data.points.file`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detkit.data.annotations import list_problems
from detkit.data.points.file import read_points
from detkit.images import Frame, image_size
from detkit.ops.orientation import Turn
from detkit.ops.points import check_inside
from detkit.structures import LabelMap

logger = logging.getLogger(__name__)


@dataclass
class ImagePoints:
    """The points of one image, and the annotations that they come from.

    Attributes:
        image_id: id in the file of points; None for an image that the file does not list.
        annotation_ids: [n] ids in the file of points.
        labels: [n] the model's labels.
        points: [n, 2] x y in pixels of the image.
        boxes: [n, 4] x1 y1 x2 y2 in the same pixels, or empty.
        size: (h, w) of the image in the file of points.
    """

    image_id: int | None = None
    annotation_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    points: list[list[float]] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    size: tuple[int, int] | None = None

    def upright(self, frame: Frame) -> ImagePoints:
        """The same in pixels of the upright picture, turned where the file of points means the pixels as stored."""
        turn = Turn.of(frame, frame.size if self.size is None else self.size)
        if not turn:
            return self
        points, boxes = turn.points(np.array(self.points).reshape(-1, 2)), np.array(self.boxes).reshape(-1, 4)
        return replace(self, points=points.tolist(), boxes=turn.boxes(boxes).tolist(), size=turn.size)

    def check_inside(self, image: Tensor, name: str) -> None:
        """Raise a ValueError with the ids of annotations whose points lie outside of an image `[3, h, w]`."""
        points = np.array(self.points).reshape(-1, 2)
        check_inside(points, image_size(image), name, [f"annotation {i}" for i in self.annotation_ids])


@dataclass
class PointsByFile:
    """The points of all images.

    Attributes:
        of_file: points of each image file.
        missing: number of points of each image, by name, that is not among the image files.
    """

    of_file: dict[Path, ImagePoints]
    missing: dict[str, int]


def read_point_prompts(
    points_file: Path, files: Sequence[Path], label_map: LabelMap, *, with_boxes: bool
) -> PointsByFile:
    """Read the points of image files. A file belongs to the image whose "file_name" its path ends with.

    Args:
        points_file: see `detkit.data.points.file`.
        files: image files.
        label_map: classes of the model.
        with_boxes: read the boxes of the annotations too; each must have one.

    Raises:
        ValueError: the file of points cannot be read or has no points for any of `files`; one of its images matches
            several files; an annotation lacks its box or is of a class that the model does not know.
    """
    content, problems, _ = read_points(points_file)
    if problems:
        logger.warning("%s: left out %d unusable annotations: %s", points_file, len(problems), list_problems(problems))
    annotations = sorted(content["annotations"], key=lambda a: a["image_id"])
    labels = labels_of(annotations, content["categories"], label_map)
    if with_boxes and (boxless := [a["id"] for a in annotations if "bbox" not in a]):
        missing = f"{len(boxless)} annotations have no bbox: {first_ten(boxless)}"
        raise ValueError(f"{points_file}: the prompt needs boxes; {missing}")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    file_of = match_files(names, files)
    found = PointsByFile({file: ImagePoints(image_id, size=sizes[image_id]) for image_id, file in file_of.items()}, {})
    for image_id, group in groupby(annotations, key=lambda a: a["image_id"]):
        points = list(group)
        if image_id in file_of:
            prompts = _image_points(image_id, points, labels, with_boxes)
            found.of_file[file_of[image_id]] = replace(prompts, size=sizes[image_id])
        else:
            found.missing[names[image_id]] = len(points)
    if not any(prompts.points for prompts in found.of_file.values()):
        raise ValueError(f"{points_file} has no points for any of the {len(files)} images given: {first_ten(files)}")
    return found


def _image_points(image_id: int, points: Sequence[dict], labels: Mapping[int, int], with_boxes: bool) -> ImagePoints:
    return ImagePoints(
        image_id,
        [a["id"] for a in points],
        [labels[a["category_id"]] for a in points],
        [a["point"] for a in points],
        [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in points)] if with_boxes else [],
    )


def match_files(names: Mapping[int, str], files: Iterable[Path]) -> dict[int, Path]:
    """The file of each image id: the one whose path ends with the image's `file_name`.

    Raises:
        ValueError: several files match one image, or several images one file.
    """
    by_end: dict[tuple[str, ...], list[Path]] = {}
    for file in dict.fromkeys(files):
        parts = file.resolve().parts
        for start in range(len(parts)):
            by_end.setdefault(parts[start:], []).append(file)
    found: dict[int, Path] = {}
    for image_id, name in names.items():
        matching = by_end.get(Path(name).parts, [])
        if len(matching) > 1:
            raise ValueError(f"image {image_id} ({name}) is ambiguous: {first_ten(matching)}")
        if matching:
            if matching[0] in found.values():
                raise ValueError(f"{matching[0]} stands for several images of the file of points, one of them {name}")
            found[image_id] = matching[0]
    return found


def labels_of(annotations: Sequence[dict], categories: Sequence[dict], label_map: LabelMap) -> dict[int, int]:
    """The model's label of each category id, matched by name; by id where the model's classes are named `class_ID`.

    Raises:
        ValueError: the model does not know the category of an annotation; the message names both.
    """
    known = {name: label for label, name in enumerate(label_map.names) if name is not None}
    names = {category["id"]: category["name"] for category in categories}
    found = {i: known.get(name, known.get(f"class_{i}")) for i, name in names.items()}
    unknown = [a for a in annotations if found[a["category_id"]] is None]
    if unknown:
        shown = first_ten(f"annotation {a['id']} is of class {names[a['category_id']]!r}" for a in unknown)
        raise ValueError(
            f"the model does not know the classes of {len(unknown)} points: {shown}; it knows {first_ten(known)}"
        )
    return {i: label for i, label in found.items() if label is not None}


def first_ten(values: Iterable[Any]) -> str:
    """The first ten values as text, with "..." where there are more."""
    shown = list(map(str, values))
    return ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "")
