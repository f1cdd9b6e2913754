"""What can be used of files of pairs. A pair, a box or a key-point that cannot is left out alone, and reported."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from detkit.data.annotations import short
from detkit.ops.segmentations import all_finite

logger = logging.getLogger(__name__)

T = TypeVar("T")
LISTED = 10  # problems that a message shows
VISIBLE = {0: False, 1: True, 2: True}  # COCO's flags of key-points; 1 is hidden behind something, but annotated


def usable(path: Path, what: str, items: Sequence[Any], read: Callable[[int, Any], T]) -> list[T | None]:
    """`read(number, item)` of each item; None, with a warning, where it raises a ValueError.

    Args:
        path: the file, for messages.
        what: the items are, such as "pairs".

    Raises:
        ValueError: none can be used; the message has the file and the first reasons.
    """
    found: list[T | None] = []
    problems = []
    for number, item in enumerate(items):
        try:
            found.append(read(number, item))
        except ValueError as error:
            found.append(None)
            problems.append(str(error))
    if len(problems) == len(items):
        raise ValueError(f"{path}: none of its {len(items)} {what} can be used: {listed(problems)}")
    report(path, f"left out {len(problems)} of {len(items)} {what} that cannot be used", problems)
    return found


def report(path: Path, message: str, problems: Sequence[str]) -> None:
    """Warn of problems of a file, if there are some."""
    if problems:
        logger.warning("%s: %s: %s", path, message, listed(problems))


def listed(problems: Sequence[str]) -> str:
    """The first ten problems in one line."""
    more = f"; ... ({len(problems)} in all)" if len(problems) > LISTED else ""
    return "; ".join(problems[:LISTED]) + more


def point_array(points: Any) -> np.ndarray:
    """A list of points x, y as `[n, 2]`; NaN, which lies in no image, where one is no pair of finite numbers.

    Raises:
        ValueError: not a list.
    """
    if not isinstance(points, list):
        raise ValueError(f"key-points are {short(points)}, not a list of x, y")
    rows = [p if isinstance(p, list) and len(p) == 2 and all_finite(p) else (math.nan, math.nan) for p in points]
    return np.array(rows, np.float64).reshape(-1, 2)


def keypoint_problem(value: Any) -> str | None:
    """Why a key-point `[x, y, visible]` cannot be used; None if it can. Places of invisible ones may be anything."""
    if not isinstance(value, list) or len(value) != 3:
        return f"is {short(value)}, not [x, y, visible]"
    if isinstance(value[2], (list, dict)) or value[2] not in VISIBLE:
        return f"has the flag {short(value[2])}, none of 0 (unknown), 1 (hidden), 2 (visible)"
    if VISIBLE[value[2]] and not all_finite(value[:2]):
        return f"is at {short(value[:2])}, not two finite numbers"
    return None


def box_corners(box: Any) -> np.ndarray | None:
    """A box x, y, width, height as x1 y1 x2 y2; None where there is none.

    Raises:
        ValueError: not four finite numbers.
    """
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all_finite(box):
        raise ValueError(f"has bbox {short(box)}, not four finite numbers x, y, width, height")
    x, y, width, height = map(float, box)
    return np.array([x, y, x + width, y + height])


def repeated(values: Iterable[T]) -> list[T]:
    """The values that came before, in their order."""
    seen: set[T] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]
