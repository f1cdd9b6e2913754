"""What is in a dataset, counted."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from detkit.reports.parts.html import Cell, note, percent, table

SIDES = (0, 8, 16, 32, 64, 96, 192, 384, np.inf)  # of an object: the square root of its area, in pixels


def size_names() -> list[str]:
    """The name of each range of `SIDES`."""
    return [f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}+" for low, high in pairwise(SIDES)]


def size_ranges(areas: np.ndarray) -> np.ndarray:
    """The number of the range of `SIDES` for each area in square pixels."""
    return np.searchsorted(SIDES, np.sqrt(areas), side="right") - 1


def describe(content: dict[str, Any]) -> str:
    """The facts of a COCO dict as HTML: images, objects by class and size."""
    annotations = [a for a in content["annotations"] if not a.get("iscrowd")]
    images, crowds = len(content["images"]), len(content["annotations"]) - len(annotations)
    per_image = np.unique([a["image_id"] for a in annotations], return_counts=True)[1]
    counts: list[tuple[str, Cell]] = [("images", images), ("images without objects", images - len(per_image))]
    counts += [("objects", len(annotations)), ("crowd regions, which do not count", crowds)]
    if len(per_image):
        counts.append(("objects in an image: mean, most", f"{len(annotations) / images:.1f}, {per_image.max()}"))
    counts.append(("image sizes (width x height): smallest, median, largest", _sizes(content["images"])))
    return table(["", "number"], counts) + _classes(annotations, content["categories"])


def _sizes(images: list[dict[str, Any]]) -> str:
    sizes = sorted((i["width"] * i["height"], i["width"], i["height"]) for i in images if i.get("width"))
    if not sizes:
        return "-"
    return ", ".join(f"{w} x {h}" for _, w, h in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))


def _classes(annotations: list[dict[str, Any]], categories: list[dict[str, Any]]) -> str:
    number = {category["id"]: k for k, category in enumerate(categories)}
    counts = np.zeros((len(categories), len(SIDES) - 1), dtype=np.int64)
    labels = np.array([number[a["category_id"]] for a in annotations], dtype=np.int64)
    areas = np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations], dtype=float)
    np.add.at(counts, (labels, size_ranges(areas)), 1)
    total = max(1, int(counts.sum()))
    rows: list[list[Cell]] = [
        [str(category.get("name", category["id"])), int(row.sum()), percent(row.sum() / total), *map(int, row)]
        for category, row in zip(categories, counts, strict=True)
    ]
    rows.append(["all", int(counts.sum()), percent(1.0), *map(int, counts.sum(0))])
    columns = ["class", "objects", "%", *(f"{name} px" for name in size_names())]
    return table(columns, rows) + note("The last columns: objects by side, the square root of their area in pixels.")
