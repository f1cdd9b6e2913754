"""What is in a dataset, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from detkit.data.annotations import judge_annotations
from detkit.data.doctor.examine import count_classes
from detkit.data.formats.found import FoundDataset, Part

SIZES = {"small": 32.0, "medium": 96.0, "large": float("inf")}  # COCO's, sides of a square in pixels


def statistics(found: FoundDataset) -> str:
    """Images, objects, sizes and classes of each part, as a table."""
    columns = {name: _figures(part) for name, part in found.parts.items()}
    counts = count_classes(found)
    rows: list[Sequence[str]] = [("", *columns)]
    rows += [(key, *(column[key] for column in columns.values())) for key in next(iter(columns.values()))]
    for name in found.names:
        rows.append((f"class {name}", *(f"{counts[part][name]:,}" for part in columns)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([found.summary(), *lines])


def _figures(part: Part) -> dict[str, str]:
    content = part.content
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    judged = judge_annotations(content["annotations"], images, categories)
    objects = [a for a in judged.annotations if not a["iscrowd"]]
    counts = Counter(a["image_id"] for a in objects)
    numbers = np.array([counts[image_id] for image_id in images] or [0])
    sides = np.array([(image["width"], image["height"]) for image in images.values()] or [(0, 0)])
    return {
        "images": f"{len(images):,}",
        "images without objects": f"{int((numbers == 0).sum()):,}",
        "width (least, median, most)": _spread(sides[:, 0]),
        "height (least, median, most)": _spread(sides[:, 1]),
        "objects": f"{len(objects):,}",
        "crowd regions": f"{judged.crowds:,}",
        "annotations that cannot be used": f"{len(judged.problems):,}",
        "objects with a segmentation": f"{sum(bool(a.get('segmentation')) for a in objects):,}",
        "objects of an image (least, median, most)": _spread(numbers),
        **_by_size(objects),
    }


def _spread(values: np.ndarray) -> str:
    return f"{values.min():g} {np.median(values):g} {values.max():g}"


def _by_size(objects: Sequence[dict]) -> dict[str, str]:
    """The number of objects by the square root of their box's area."""
    sides = [(a["bbox"][2] * a["bbox"][3]) ** 0.5 for a in objects]
    rows, low = {}, 0.0
    for name, high in SIZES.items():
        limit = f"under {high:g} pixels" if high < float("inf") else f"from {low:g} pixels"
        rows[f"{name} objects ({limit})"] = f"{sum(low <= side < high for side in sides):,}"
        low = high
    return rows
