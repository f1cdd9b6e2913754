"""Checks of the "segmentation" of COCO annotations, before any C code sees it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

NUMBERS = frozenset((int, float))
# How far coordinates may lie outside of the image: as far as it is large, and at least so many pixels.
LEAST_MARGIN = 1000
# The longest outline of a polygon, in pixels: drawing takes some 90 bytes of memory for each.
LONGEST_OUTLINE = 2_000_000
# Run lengths count in 32 bits.
MOST_PIXELS = 2**31


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Check that a segmentation can be drawn in an image of that size: what it is made of, and each number in it.

    Raises:
        ValueError: it is malformed, made for another image size, has coordinates that are not finite or far from the
            image, or an outline of more than `LONGEST_OUTLINE` pixels.
    """
    if height * width > MOST_PIXELS:
        raise ValueError(f"an image of height, width {[height, width]} has more than {MOST_PIXELS} pixels")
    if isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width)
    elif isinstance(segmentation, list) and segmentation:
        for number, polygon in enumerate(segmentation):
            _check_polygon(polygon, f"polygon {number}", height, width)
    else:
        raise ValueError(f"a segmentation must be polygons or run lengths, got {str(segmentation)[:60]}")


def is_degenerate(polygon: Any) -> bool:
    """Whether this is a polygon of no, one or two finite points: it has no area."""
    return isinstance(polygon, list) and len(polygon) in (0, 2, 4) and all_finite(polygon)


def is_outside(polygon: list[float], height: int, width: int) -> bool:
    """Whether a polygon lies beside an image of that size, so that it has no pixel in it."""
    low, high = min(polygon), max(polygon)
    if low >= 0 and high <= min(height, width):  # nearly all: the rest need not be looked at
        return False
    xs, ys = polygon[::2], polygon[1::2]
    return min(xs) >= width or min(ys) >= height or max(xs) <= 0 or max(ys) <= 0


def all_finite(values: list) -> bool:
    """Whether all values are finite numbers (bools are none)."""
    if not NUMBERS.issuperset(map(type, values)):
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _check_polygon(polygon: Any, name: str, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"{name} must be a list of at least 3 x, y pairs, got {str(polygon)[:60]}")
    if not all_finite(polygon):
        raise ValueError(f"{name} has coordinates that are not finite numbers")
    low, high, side = min(polygon), max(polygon), max(height, width)
    margin = max(side, LEAST_MARGIN)
    if low < -margin or high > side + margin:
        far = low if low < -margin else high
        raise ValueError(f"{name} has the coordinate {far:g}, far outside of the {width} x {height} pixels")
    if len(polygon) * (high - low) > LONGEST_OUTLINE and outline_length(polygon) > LONGEST_OUTLINE:
        raise ValueError(f"{name} has an outline of more than {LONGEST_OUTLINE} pixels")


def outline_length(polygon: list[float]) -> float:
    """The number of pixels that the outline of a polygon crosses: of each side the longer of its two extents."""
    xs, ys = polygon[::2], polygon[1::2]
    sides = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return sum(max(abs(x2 - x1), abs(y2 - y1)) for x1, y1, x2, y2 in sides)


def _check_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size is None or not isinstance(counts, (list, str, bytes)):
        raise ValueError('run lengths need "size" and "counts" (a list or a string)')
    if not isinstance(size, (list, tuple)) or not all(type(side) is int for side in size):
        raise ValueError(f'the "size" of run lengths must be [height, width], got {str(size)[:60]}')
    if list(size) != [height, width]:
        raise ValueError(f"run lengths are for an image of height, width {list(size)}, the image has {[height, width]}")
    if isinstance(counts, list):
        if any(type(run) is not int or run < 0 for run in counts) or sum(counts) != height * width:
            raise ValueError(f"run lengths must be non-negative and add up to {height} x {width} pixels")
        return
    # pycocotools leaves pixels uninitialised where the runs do not reach the end of the image.
    runs = _decode_runs(counts if isinstance(counts, bytes) else counts.encode(errors="replace"))
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"compressed run lengths are damaged: they do not add up to {height} x {width} pixels")


def _decode_runs(counts: bytes) -> np.ndarray | None:
    """The runs that a compressed run length string describes, int64; None if it is none.

    Each run is a signed number in groups of 5 bits, lowest first, one character (48 + group, + 32 when more
    groups follow) per group; from the fourth on it is stored as the difference to the run two before it.
    """
    groups = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((groups & 32) == 0)
    if not ends.size or ends[-1] != len(groups) - 1 or groups.min() < 0 or groups.max() > 63:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        return None
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((groups & 31) << shifts, starts) - ((groups[ends] & 16 > 0).astype(np.int64) << 5 * lengths)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs
