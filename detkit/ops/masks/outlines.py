"""Masks as polygons along the edges of their pixels, and several polygons as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mask_outlines(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a mask `[h, w]` as polygons x1, y1, x2, y2, ... in pixels, those of its holes among them.

    They run along the edges of the pixels, so that the polygons drawn with even-odd filling give the mask again.
    """
    import cv2

    # Pixels of 2 x 2: an even number is a left or upper edge of the original, an odd one a right or lower edge.
    double = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlines = (_without_straight(((contour[:, 0] + 1) // 2).astype(np.int64)) for contour in contours)
    return [corners.ravel().astype(float).tolist() for corners in outlines if len(corners) > 2]


def _without_straight(points: np.ndarray) -> np.ndarray:
    """A closed line `[n, 2]` without repeated points and points on straight stretches."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    if len(points) < 3:
        return points
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def polygon_area(polygon: Sequence[float]) -> float:
    """The area of a polygon x1, y1, x2, y2, ...; negative where its corners run the other way round, as in holes."""
    xs, ys = np.array(polygon[::2], dtype=np.float64), np.array(polygon[1::2], dtype=np.float64)
    return float((xs * np.roll(ys, -1) - np.roll(xs, -1) * ys).sum() / 2)


def join_polygons(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Several polygons x1, y1, x2, y2, ... as one that covers the same: bridges without width join them."""
    first, *others = polygons
    joined = list(first)
    if not others:
        return joined
    start = joined[:2]
    joined += start
    for polygon in others:
        joined += [*polygon, *polygon[:2], *start]
    return joined
