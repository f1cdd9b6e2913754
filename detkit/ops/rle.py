"""Instance masks in COCO's file formats: polygons, run lengths and compressed run lengths (RLE)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from detkit.ops.segmentations import check_segmentation


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
        ValueError: see `check_segmentation`.
        ImportError: pycocotools is not installed.
    """
    check_segmentation(segmentation, height, width)
    api = _mask_api()
    if isinstance(segmentation, list):
        return api.decode(api.merge(api.frPyObjects(segmentation, height, width))).astype(bool)
    if isinstance(segmentation["counts"], list):
        return api.decode(api.frPyObjects(segmentation, height, width)).astype(bool)
    return api.decode(segmentation).astype(bool)


def mask_areas(segmentations: Sequence[dict[str, Any]]) -> np.ndarray:
    """The number of pixels of masks given as compressed run lengths, int64 `[n]`, without decoding them."""
    api = _mask_api()  # given a list, its `area` counts in 8 bits how many there are
    return np.array([api.area(segmentation) for segmentation in segmentations], dtype=np.int64)


def _mask_api() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("reading and writing COCO masks needs pycocotools: pip install pycocotools") from error
    return mask
