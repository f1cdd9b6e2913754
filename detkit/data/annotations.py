"""The one place where annotations of COCO files are read and judged: for training, evaluation, splitting and points.

What cannot be read is left out alone and reported: an annotation, or a part of it where the rest is not wrong without
it. Everything later can rely on what is here checked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from detkit.ops.segmentations import LEAST_MARGIN, all_finite, check_segmentation, is_degenerate, is_outside

logger = logging.getLogger(__name__)

CROWD_FLAGS = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True}
FARTHEST = 1e9  # of boxes where the size of the image is not known


class Problem(NamedTuple):
    """An annotation, or (annotation None) an image, that cannot be used, and why; an unknown id is None."""

    annotation: Any
    image: Any
    reason: str

    def __str__(self) -> str:
        own = self.annotation if isinstance(self.annotation, str) else short(self.annotation)
        return f"{'' if self.annotation is None else f'annotation {own} of '}image {short(self.image)}: {self.reason}"


class Judged(NamedTuple):
    """The usable annotations of a file, complete; the problems of those left out; what was mended in the usable."""

    annotations: list[dict[str, Any]]
    problems: list[Problem]
    mended: list[Problem]

    @property
    def crowds(self) -> int:
        """The number of usable annotations that are crowd regions."""
        return sum(a["iscrowd"] for a in self.annotations)

    def report(self, path: Any) -> None:
        """Warn of what was left out and mended.

        Raises:
            ValueError: there are annotations, but none that can be used.
        """
        if self.problems and not self.annotations:
            listed = list_problems(self.problems)
            raise ValueError(f"{path}: none of its {len(self.problems)} annotations can be used: {listed}")
        if self.problems:
            message = "%s: left out %d annotations that cannot be used: %s"
            logger.warning(message, path, len(self.problems), list_problems(self.problems))
        if self.mended:
            logger.warning("%s: mended %d annotations: %s", path, len(self.mended), list_problems(self.mended))


def refuse_only_crowds(path: Any, objects: int, crowds: int) -> None:
    """Raise a ValueError where crowd regions are all that there is."""
    if crowds and not objects:
        raise ValueError(
            f"{path}: no object remains, all {crowds} annotations are crowd regions (iscrowd is 1): "
            "if they are single objects, set iscrowd to 0"
        )


def list_problems(problems: list[Problem]) -> str:
    """The first ten problems in one line."""
    return "; ".join(map(str, problems[:10])) + (f"; ... ({len(problems)} in all)" if len(problems) > 10 else "")


def judge_annotations(
    annotations: list,
    images: Mapping[int, Mapping],
    categories: Any,
    *,
    masks: bool = False,
    boxes: bool = True,
    unique: bool = True,
) -> Judged:
    """Sort out the annotations that can be used: with a unique id, a known image and category, and sound values.

    Args:
        annotations: the list in the file.
        images: by id; with "height" and "width", or nothing is compared with the size of the image.
        categories: the known category ids.
        masks: whether each needs a segmentation that can be drawn.
        boxes: whether each needs a box with an area inside the image; without, those that have one must have it sound.
        unique: whether annotations need ids; of several with one id the first is kept.

    Returns:
        Copies of the usable annotations. "iscrowd" is 0 or 1; with `boxes` there is an "area", that of the box where
        none or a wrong one is given; with `masks` polygons without an area are not among the others any more.
    """
    judged, used_ids = Judged([], [], []), set()
    for position, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            judged.problems.append(Problem(f"number {position} in the list", None, "is not a dict"))
            continue
        own, image_id = annotation.get("id"), annotation.get("image_id")
        if unique and (reason := id_problem(own)):
            judged.problems.append(Problem(f"number {position} in the list", image_id, reason))
            continue
        try:
            _check_references(annotation, images, categories)
            if unique and own in used_ids:
                raise ValueError("an earlier annotation has the same id")
            sound, notes = _sound(annotation, images[annotation["image_id"]], masks=masks, boxes=boxes)
        except ValueError as error:
            judged.problems.append(Problem(own, image_id, str(error)))
            continue
        used_ids.add(own)
        judged.annotations.append(sound)
        if notes:
            judged.mended.append(Problem(own, image_id, ", ".join(notes)))
    return judged


def id_problem(value: Any) -> str | None:
    """Why a value cannot be an id; None if it can: whole numbers of 64 bits can."""
    if type(value) is not int:
        wanted = "number them, ids are whole numbers" if isinstance(value, str) else "ids are whole numbers"
        return f"has the id {short(value)}; {wanted}"
    if not -(2**63) <= value < 2**63:
        return f"has the id {short(value)}, which does not fit into 64 bits; number them anew"
    return None


def is_crowd(annotation: Mapping) -> bool:
    """Whether an annotation is a crowd region, which is no object: by its "iscrowd", which may be missing.

    Raises:
        ValueError: the flag is neither 0 nor 1, also not as bool or as text.
    """
    flag = annotation.get("iscrowd")
    if flag is None:
        return False
    key = flag.strip().lower() if isinstance(flag, str) else flag
    if not isinstance(key, (int, float, str)) or key not in CROWD_FLAGS:
        raise ValueError(f"its iscrowd is {short(flag)}, neither 0 nor 1")
    return CROWD_FLAGS[key]


def box_problem(annotation: Mapping, image: Mapping) -> str | None:
    """Why the box of an annotation cannot be used; None if it can."""
    given = annotation.get("bbox")
    if given is None or given == []:
        return "has no bbox"
    if not isinstance(given, list) or len(given) != 4 or not all_finite(given):
        return f"its bbox is {short(given)}, not four finite numbers x, y, width, height"
    x, y, width, height = given
    if "width" not in image or "height" not in image:
        inside, where = max(map(abs, given)) <= FARTHEST, ""
    else:
        inside = x < image["width"] and y < image["height"] and x + width > 0 and y + height > 0
        where = f" inside the {image['width']} x {image['height']} pixels"
    if width <= 0 or height <= 0 or not inside:
        return f"its bbox {short(given)} has no area{where}"
    return None


def _check_references(annotation: Mapping, images: Mapping, categories: Any) -> None:
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if type(image) is not int or image not in images:
        wanted = ", ids are whole numbers" if type(image) is not int else ""
        raise ValueError(f"there is no such image{wanted}")
    if type(category) is not int or category not in categories:
        raise ValueError(f"there is no category {short(category)}")


def _sound(annotation: dict, image: Mapping, *, masks: bool, boxes: bool) -> tuple[dict[str, Any], list[str]]:
    """A sound copy of an annotation, and what was mended in it.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    notes: list[str] = []
    sound = {**annotation, "iscrowd": int(is_crowd(annotation))}
    if annotation.get("bbox") is None:
        sound.pop("bbox", None)
    if boxes or "bbox" in sound:
        if reason := box_problem(annotation, image):
            raise ValueError(reason)
        sound["bbox"] = _clip_far(annotation["bbox"], image, notes)
        sound["area"] = _area(annotation.get("area"), sound["bbox"], notes)
    if masks:
        sound["segmentation"] = sound_segmentation(annotation, image, notes)
    return sound, notes


def sound_segmentation(annotation: Mapping, image: Mapping, notes: list[str]) -> list | dict:
    """The segmentation of an annotation without polygons that have no area, which are added to `notes`.

    Raises:
        ValueError: there is none, or it cannot be drawn in the image; the message says why.
    """
    given = annotation.get("segmentation")
    if not given:
        raise ValueError("has no segmentation")
    if isinstance(given, list) and any(map(is_degenerate, given)):
        left = [polygon for polygon in given if not is_degenerate(polygon)]
        if not left:
            raise ValueError("its segmentation has no polygon with an area")
        notes.append(f"{len(given) - len(left)} of its {len(given)} polygons have no area and are left out")
        given = left
    height, width = int(image["height"]), int(image["width"])
    try:
        check_segmentation(given, height, width)
    except ValueError as error:
        raise ValueError(f"its mask cannot be read: {error}") from error
    if _has_no_pixel(given, height, width):
        raise ValueError(f"its mask is empty: nothing of it lies inside the {width} x {height} pixels")
    return given


def _has_no_pixel(segmentation: list | dict, height: int, width: int) -> bool:
    """Whether a segmentation, which is otherwise in order, is seen to cover nothing."""
    if isinstance(segmentation, list):
        return all(is_outside(polygon, height, width) for polygon in segmentation)
    counts = segmentation["counts"]
    return not sum(counts[1::2]) if isinstance(counts, list) else False


def _clip_far(box: list[float], image: Mapping, notes: list[str]) -> list[float]:
    """The box; clipped to the image where it reaches further over the border than an object may."""
    if "width" not in image or "height" not in image:
        return box
    x, y, width, height = box
    right, bottom = image["width"], image["height"]
    margin = max(right, bottom, LEAST_MARGIN)
    if x >= -margin and y >= -margin and x + width <= right + margin and y + height <= bottom + margin:
        return box
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, right), min(y + height, bottom)
    notes.append(f"its bbox {short(box)} is clipped to the {right} x {bottom} pixels")
    return [x1, y1, x2 - x1, y2 - y1]


def _area(given: Any, box: list[float], notes: list[str]) -> float:
    if given is None:
        return float(box[2] * box[3])
    if type(given) in (int, float) and 0 <= given <= FARTHEST**2 and math.isfinite(given):
        return given
    notes.append(f"its area is {short(given)}: that of its box is taken")
    return float(box[2] * box[3])


def short(value: Any) -> str:
    """For messages: the text of a value, at most 60 characters; whole numbers may have thousands of digits."""
    if type(value) is int and abs(value) >= 10**30:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, list):
        return "[" + ", ".join(short(item)[:20] for item in value[:6]) + (", ...]" if len(value) > 6 else "]")
    text = repr(value[:60]) if isinstance(value, str) else str(value) if not isinstance(value, dict) else "a dict"
    return text[:60]
