"""What a reader of a format gives: the parts of a dataset, each as the content of a COCO json."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from detkit.data.coco_file import check_size
from detkit.ops.masks.outlines import polygon_area
from detkit.ops.rle import mask_areas

logger = logging.getLogger(__name__)

PART_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass
class Part:
    """One part of a dataset.

    Attributes:
        content: that of a COCO json: "images" with `file_name` relative to `image_folder`, "annotations" with `bbox`
            x, y, width, height in pixels from 0 and `segmentation` where there is one, "categories".
        image_folder: where the file names begin.
    """

    content: dict[str, Any]
    image_folder: Path


@dataclass
class FoundDataset:
    """A dataset on disk.

    Attributes:
        format: "coco", "yolo", "voc", "labelme" or "cvat".
        root: its folder.
        parts: by name, among "train", "val" and "test"; a folder without a split has only "train".
    """

    format: str
    root: Path
    parts: dict[str, Part]

    @property
    def names(self) -> list[str]:
        """The names of the classes, in the order of their category ids; those that only later parts have come last."""
        categories = (c for part in self.parts.values() for c in sorted(part.content["categories"], key=category_id))
        return list(dict.fromkeys(category["name"] for category in categories))

    def summary(self) -> str:
        """What was found, in one line."""
        counts = (
            f"{name} {len(part.content['images'])} images with {len(part.content['annotations'])} objects"
            for name, part in self.parts.items()
        )
        return f"{self.root}: {self.format}, {len(self.names)} classes; {', '.join(counts)}"


def category_id(category: Mapping[str, Any]) -> int:
    """The id of a category."""
    return category["id"]


class Problem(NamedTuple):
    """What is wrong with a dataset: its kind, the file (with line or id), and what."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ProblemError(ValueError):
    """A problem that ends the reading."""


@dataclass
class Problems:
    """Where readers tell what is wrong.

    Attributes:
        strict: whether an error ends the reading; otherwise it is kept in `found`, and its object or image is left out.
        found: errors and notes so far.
    """

    strict: bool = True
    found: list[Problem] = field(default_factory=list)

    def error(self, kind: str, where: Any, what: str) -> None:
        """Something that cannot be used.

        Raises:
            ProblemError: where reading is strict.
        """
        problem = Problem(kind, str(where), what)
        if self.strict:
            raise ProblemError(str(problem))
        self.found.append(problem)

    @contextmanager
    def guard(self, kind: str, where: Any) -> Iterator[None]:
        """Make a ValueError inside of the block a problem of this kind; what comes after it in the block is left out.

        Raises:
            ProblemError: where reading is strict.
        """
        try:
            yield
        except ProblemError:  # told already, with a place inside of this one
            raise
        except ValueError as error:
            self.error(kind, where, re.sub(rf"^{re.escape(str(where))}:? ", "", str(error)))

    def note(self, kind: str, where: Any, what: str) -> None:
        """Something that is left out and hinders nobody."""
        self.found.append(Problem(kind, str(where), what))

    def log(self) -> None:
        """Warn of what was found, one line for each kind."""
        for kind, count in Counter(problem.kind for problem in self.found).items():
            first = [str(problem) for problem in self.found if problem.kind == kind][:5]
            logger.warning("%d x %s: %s%s", count, kind, "; ".join(first), "; ..." * (count > len(first)))


class ContentBuilder:
    """Collects images and objects of one part; classes are any keys until `finish` gives them ids."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, file_name: str, width: int, height: int, **more: Any) -> int:
        """Add an image and return its id.

        Raises:
            ValueError: it has no sensible size.
        """
        image = {"id": len(self.images) + 1, "file_name": file_name, "width": width, "height": height, **more}
        check_size(image, f"its image {file_name}")
        self.images.append(image)
        return image["id"]

    def add_object(
        self, image_id: int, key: Any, box: Sequence[float], segmentation: Any = None, **more: Any
    ) -> dict[str, Any]:
        """Add an object of class `key` with a box x1, y1, x2, y2 in pixels and, perhaps, a segmentation."""
        x1, y1, x2, y2 = box
        shape = {} if segmentation is None else {"segmentation": segmentation}
        annotation = {
            "id": len(self.annotations) + 1,
            "image_id": image_id,
            "category_id": key,
            "bbox": [tidy(x1), tidy(y1), tidy(x2 - x1), tidy(y2 - y1)],
            "area": tidy(object_area(box, segmentation)),
            "iscrowd": 0,
            **shape,
            **more,
        }
        self.annotations.append(annotation)
        return annotation

    def finish(self, names: Mapping[Any, str], image_folder: Path) -> Part:
        """The part; what all file names begin with becomes part of its image folder.

        Args:
            names: of the classes by key, in their order; ids count from 1.
            image_folder: where the file names begin so far.
        """
        ids = {key: number for number, key in enumerate(names, 1)}
        for annotation in self.annotations:
            annotation["category_id"] = ids[annotation["category_id"]]
        common = os.path.commonpath([os.path.dirname(image["file_name"]) for image in self.images] or [""])
        for image in self.images:
            image["file_name"] = image["file_name"][len(common) :].lstrip("/")
        categories = [{"id": ids[key], "name": name} for key, name in names.items()]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        return Part(content, image_folder / common)


def object_area(box: Sequence[float], segmentation: Any = None) -> float:
    """The area in pixels of a segmentation, polygons or run lengths; of a box x1, y1, x2, y2 where there is none."""
    if isinstance(segmentation, dict):
        return int(mask_areas([segmentation])[0])
    if segmentation:
        return sum(abs(polygon_area(polygon)) for polygon in segmentation)
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def tidy(value: float) -> float:
    """A length in pixels without the noise of its computation: rounded to a millionth."""
    return round(float(value), 6)


def polygon_box(points: Sequence[float]) -> tuple[float, float, float, float]:
    """The box x1, y1, x2, y2 around points x1, y1, x2, y2, ..."""
    xs, ys = points[::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def part_of_stem(stem: str) -> str | None:
    """The part that the name of a file tells, such as "instances_train2017"; None if it tells none."""
    words = (PART_WORDS.get(word) for word in re.findall("[a-z]+", stem.lower()))
    return next((part for part in words if part), None)


def part_of_folder(name: str) -> str | None:
    """The part that the name of a folder is, such as "valid" or "train2017"; None if it is another name."""
    return PART_WORDS.get(re.sub(r"[\d_-]+$", "", name.lower()))


def part_of_path(path: Path, root: Path) -> str:
    """The part that a folder between `root` and a file names; "train" if none does."""
    folders = path.relative_to(root).parent.parts
    return next((part for name in reversed(folders) if (part := part_of_folder(name))), "train")
