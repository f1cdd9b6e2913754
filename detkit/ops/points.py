"""Points x, y in pixels of an image, where (0, 0) is its top-left corner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LISTED = 10  # points that a message shows


def points_inside(points: Any, size: Sequence[int]) -> Any:
    """Which points lie in an image, `[n]` bool: 0 to the width and 0 to the height, both included.

    Args:
        points: [n, 2] x, y, a tensor or an array.
        size: (h, w) of the image.
    """
    x, y = points[:, 0], points[:, 1]
    return (x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0])


def check_inside(points: Any, size: Sequence[int], where: str, names: Sequence[Any] | None = None) -> None:
    """Check that all points lie in an image, see `points_inside`.

    Args:
        where: begins the message: the image.
        names: of the points; by default their numbers.

    Raises:
        ValueError: some lie outside; the message has their names and places.
    """
    if problem := describe_outside(points, size, names):
        raise ValueError(f"{where}: {problem}")


def describe_outside(points: Any, size: Sequence[int], names: Sequence[Any] | None = None) -> str | None:
    """What `check_inside` says after the name of the image; None if all points lie inside."""
    outside = [i for i, is_inside in enumerate(points_inside(points, size).tolist()) if not is_inside]
    if not outside:
        return None
    shown = [f"{i if names is None else names[i]} at ({points[i][0]:g}, {points[i][1]:g})" for i in outside[:LISTED]]
    more = ", ..." if len(outside) > LISTED else ""
    return f"{len(outside)} points lie outside its {size[1]} x {size[0]} pixels: {', '.join(shown)}{more}"
