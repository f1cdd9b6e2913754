"""Instance masks in COCO's file formats: polygons, run lengths and compressed run lengths (RLE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor


def encode_masks(masks: Tensor | np.ndarray) -> list[dict[str, Any]]:
    """Encode masks [n, h, w] (bool, or 0 and 1) as compressed RLE, ready for a JSON file.

    Returns:
        One `{"size": [h, w], "counts": str}` per mask.

    Raises:
        ValueError: `masks` is not three-dimensional.
        ImportError: pycocotools is not installed.
    """
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {tuple(masks.shape)}, expected [n, h, w]")
    if len(masks) == 0:
        return []
    array = masks.cpu().numpy() if isinstance(masks, Tensor) else masks
    encoded = _mask_api().encode(np.asfortranarray(array.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": [int(side) for side in e["size"]], "counts": e["counts"].decode("ascii")} for e in encoded]


def encode_region(pixels: Tensor | np.ndarray, top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """Encode the mask of a height x width image that is False outside one region, without building it whole.

    Args:
        pixels: [h, w] bool, the region.
        top, left: its first row and column in the image; it must lie inside.

    Returns:
        What `encode_masks` gives for the whole mask.
    """
    columns = np.zeros((pixels.shape[1], pixels.shape[0] + 2), dtype=bool)
    columns[:, 1:-1] = (pixels.cpu().numpy() if isinstance(pixels, Tensor) else pixels).T
    # Runs go down the columns of the image: where they begin, end, begin, end, ...
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    edges = (left + column) * height + top + row
    inner = edges[1:-1].reshape(-1, 2)
    inner = inner[inner[:, 0] != inner[:, 1]]  # equal where a run goes on at the head of the next column
    runs = np.diff(np.concatenate([edges[:1], inner.ravel(), edges[-1:]]), prepend=0, append=height * width)
    counts = runs[:-1] if runs[-1] == 0 else runs
    encoded = _mask_api().frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def decode_mask(segmentation: list | dict[str, Any], height: int, width: int) -> np.ndarray:
    """Decode the "segmentation" of a COCO annotation to a bool mask [height, width].

    Args:
        segmentation: a list of polygons, each `[x1, y1, x2, y2, ...]` in pixels (their union is the mask), or a
            dict with "size" and "counts", a list of run lengths or a compressed string.
        height, width: size of the image in pixels.

    Raises:
        ValueError: the segmentation is malformed or made for another image size.
        ImportError: pycocotools is not installed.
    """
    if isinstance(segmentation, dict):
        return _decode_run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"a segmentation must be polygons or run lengths, got {str(segmentation)[:60]}")
    for i, polygon in enumerate(segmentation):
        _check_polygon(polygon, f"polygon {i}")
    api = _mask_api()
    return api.decode(api.merge(api.frPyObjects(segmentation, height, width))).astype(bool)


def mask_areas(segmentations: Sequence[dict[str, Any]]) -> np.ndarray:
    """The number of pixels of masks given as compressed run lengths, int64 `[n]`, without decoding them."""
    api = _mask_api()  # given a list, its `area` counts in 8 bits how many there are
    return np.array([api.area(segmentation) for segmentation in segmentations], dtype=np.int64)


def _check_polygon(polygon: Any, name: str) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"{name} must be a list of at least 3 x, y pairs, got {str(polygon)[:60]}")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in polygon):
        raise ValueError(f"{name} has coordinates that are not finite numbers")


def _decode_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size is None or not isinstance(counts, (list, str, bytes)):
        raise ValueError('run lengths need "size" and "counts" (a list or a string)')
    if list(size) != [height, width]:
        raise ValueError(f"run lengths are for an image of height, width {list(size)}, the image has {[height, width]}")
    api = _mask_api()
    if isinstance(counts, list):
        if any(not isinstance(run, int) or run < 0 for run in counts) or sum(counts) != height * width:
            raise ValueError(f"run lengths must be non-negative and add up to {height} x {width} pixels")
        return api.decode(api.frPyObjects(segmentation, height, width)).astype(bool)
    # pycocotools leaves pixels uninitialised where the runs do not reach the end of the image.
    if _sum_of_runs(counts) != height * width:
        raise ValueError(f"compressed run lengths are damaged: they do not add up to {height} x {width} pixels")
    return api.decode(segmentation).astype(bool)


def _sum_of_runs(counts: str | bytes) -> int:
    """The number of pixels that a compressed run length string describes.

    Each run is a signed number in groups of 5 bits, lowest first, one character (48 + group, + 32 when more
    groups follow) per group; from the fourth on it is stored as the difference to the run two before it.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts if isinstance(counts, bytes) else counts.encode():
        group = code - 48
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return sum(runs)


def _mask_api() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("reading and writing COCO masks needs pycocotools: pip install pycocotools") from error
    return mask
