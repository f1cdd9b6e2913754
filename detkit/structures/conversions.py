"""Detections in the forms that other programs take.

Shape letters: n objects, h/w pixels.
"""

from __future__ import annotations

import importlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from detkit.images import load_image
from detkit.ops.masks import RegionMasks

if TYPE_CHECKING:
    from PIL.Image import Image

    from detkit.structures.detections import Detections

SHOWN_CLASSES, SHOWN_SCORES = 5, 3


def to_dicts(found: Detections) -> list[dict[str, Any]]:
    """One dict of plain Python values for each object: class name, label, score, box and, if there are, mask."""
    found = found.cpu()
    columns = (found.names(), found.labels.tolist(), found.scores.tolist(), found.boxes.tolist())
    dicts = [
        {"name": name, "label": label, "score": score, "box": box}
        for name, label, score, box in zip(*columns, strict=True)
    ]
    if found.stored_masks is not None:
        for entry, mask in zip(dicts, found.encode_masks(), strict=True):
            entry["mask"] = mask
    return dicts


def to_yolo(found: Detections, size: tuple[int, int] | None, *, scores: bool) -> str:
    """Lines `label x y width height [score]`; see `Detections.to_yolo`."""
    height, width = known_size(found, size)
    boxes = found.cpu().clipped(height, width).boxes.double().numpy()
    scale = np.array([width, height], dtype=float)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / scale, (boxes[:, 2:] - boxes[:, :2]) / scale
    columns = [centres, sides, *([found.scores.double().cpu().numpy()[:, None]] if scores else [])]
    rows = zip(found.labels.tolist(), np.concatenate(columns, axis=1).tolist(), strict=True)
    return "".join(f"{label} {' '.join(f'{value:.6f}' for value in row)}\n" for label, row in rows)


def known_size(found: Detections, size: tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) of the image.

    Raises:
        ValueError: it is neither given nor known.
    """
    size = size or found.size or found.mask_size
    if size is None:
        raise ValueError("the size of the image is not known: give it as size=(height, width)")
    return size


def to_supervision(found: Detections) -> Any:
    """As `supervision.Detections`, with the class names in `data["class_name"]`.

    Raises:
        ImportError: supervision is not installed.
    """
    supervision = _needed("supervision")
    found = found.cpu()
    return supervision.Detections(
        xyxy=found.boxes.float().numpy(),
        mask=None if found.masks is None else found.masks.numpy(),
        confidence=found.scores.float().numpy(),
        class_id=found.labels.numpy().astype(int),
        data={"class_name": np.array(found.names(), dtype=str)},
    )


def to_pandas(found: Detections) -> Any:
    """As a `pandas.DataFrame`; see `Detections.to_pandas`.

    Raises:
        ImportError: pandas is not installed.
    """
    pandas = _needed("pandas")
    found = found.cpu()
    x1, y1, x2, y2 = found.boxes.double().numpy().T
    columns = dict(name=found.names(), label=found.labels.numpy(), score=found.scores.double().numpy())
    return pandas.DataFrame(dict(source=found.source, **columns, x1=x1, y1=y1, x2=x2, y2=y2))


def _needed(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ImportError(f"to_{library} needs {library}: pip install {library}") from error


def crops(found: Detections, image: Any) -> list[Image]:
    """The part of the image in each box; see `Detections.crops`."""
    from PIL import Image

    pixels = load_image(image).permute(1, 2, 0).cpu().numpy()
    height, width = pixels.shape[:2]
    parts = []
    for x1, y1, x2, y2 in found.cpu().clipped(height, width).boxes.round().long().tolist():
        left, top = min(x1, width - 1), min(y1, height - 1)
        parts.append(Image.fromarray(np.ascontiguousarray(pixels[top : max(y2, top + 1), left : max(x2, left + 1)])))
    return parts


def describe(found: Detections) -> str:
    """In one line what was found: `3 objects: 2 cat (0.93, 0.41), 1 dog (0.88)`."""
    names, scores = found.names(), found.scores.tolist()
    parts = []
    for name, count in Counter(names).most_common(SHOWN_CLASSES):
        own = [f"{score:.2f}" for other, score in zip(names, scores, strict=True) if other == name]
        parts.append(f"{count} {name} ({', '.join(own[:SHOWN_SCORES])}{', ...' if count > SHOWN_SCORES else ''})")
    more = len(set(names)) - len(parts)
    text = f"{len(names)} object{'s' * (len(names) != 1)}{': ' * bool(parts)}{', '.join(parts)}"
    return text + (f" and {more} more class{'es' * (more > 1)}" if more > 0 else "")


def regions_of(masks: Any) -> Any:
    """For each mask a part of the image that holds it: top row, left column, pixels `[h, w]` bool."""
    if isinstance(masks, RegionMasks):
        return masks.regions()
    assert isinstance(masks, Tensor)
    return ((0, 0, mask) for mask in masks)
