"""LabelMe datasets: a json file of shapes for each image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detkit.data.coco_file import load_json
from detkit.data.formats.files import ImageIndex, finite
from detkit.data.formats.found import (
    ContentBuilder,
    FoundDataset,
    Problems,
    object_area,
    part_of_path,
    polygon_box,
    tidy,
)
from detkit.images import read_frame
from detkit.ops.rle import encode_region

CORNERS = 32  # of the polygon that stands for a circle
NO_AREA = ("point", "points", "line", "linestrip")


def read_labelme(root: Path, files: Sequence[Path], problems: Problems) -> FoundDataset:
    """Read the json files of a dataset; the parts are folders named train, val, test.

    Rectangles are boxes; polygons, circles and masks have segmentations; polygons of one label and one group are one
    object. Classes are numbered in the order of their names.

    Raises:
        ValueError: see `Problems`.
    """
    index = ImageIndex(root)
    builders: dict[str, ContentBuilder] = {}
    for file in files:
        builder = builders.setdefault(part_of_path(file, root), ContentBuilder())
        with problems.guard("unreadable annotations", file):
            _add_file(builder, file, index, problems)
    keys = sorted({a["category_id"] for builder in builders.values() for a in builder.annotations})
    names = {key: key for key in keys}
    order = [part for part in ("train", "val", "test") if part in builders]
    return FoundDataset("labelme", root, {part: builders[part].finish(names, root) for part in order})


def _add_file(builder: ContentBuilder, file: Path, index: ImageIndex, problems: Problems) -> None:
    content = load_json(file)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise ValueError("has no list of shapes")
    name = content.get("imagePath")
    name = name if isinstance(name, str) and name else f"{file.stem}.jpg"
    found = index.find(name, file.parent) or index.find(f"{file.stem}.jpg", file.parent)
    if found is None:
        problems.error("missing images", file, f"its image {name[:100]} is not in {index.root}")
        return
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        height, width = read_frame(index.root / found).size
    image_id = builder.add_image(found, width, height)
    groups: dict[Any, dict[str, Any]] = {}
    for number, shape in enumerate(shapes, 1):
        where, kind = f"{file}: shape {number}", shape.get("shape_type") if isinstance(shape, dict) else None
        if kind in NO_AREA:
            problems.note("shapes without area", where, f"is a {kind} and left out")
            continue
        with problems.guard("unreadable annotations", where):
            _add_shape(builder, image_id, (height, width), shape, groups)


def _add_shape(
    builder: ContentBuilder, image_id: int, size: tuple[int, int], shape: Any, groups: dict[Any, dict[str, Any]]
) -> None:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        raise ValueError("has no label")
    label, kind = shape["label"], shape.get("shape_type") or "polygon"
    points = _points(shape)
    if kind == "rectangle":
        builder.add_object(image_id, label, polygon_box(points))
        return
    if kind == "mask":
        box, mask = _mask(shape, points, size)
        builder.add_object(image_id, label, box, mask)
        return
    polygon = _polygon(kind, points)
    key = (label, shape.get("group_id"))
    if shape.get("group_id") is not None and key in groups:
        _extend(groups[key], polygon)
        return
    groups[key] = builder.add_object(image_id, label, polygon_box(polygon), [polygon])


def _points(shape: dict[str, Any]) -> list[float]:
    given = shape.get("points")
    if not isinstance(given, list) or not all(isinstance(point, list) and len(point) == 2 for point in given):
        raise ValueError("its points are not pairs x, y")
    if len(given) < 2:
        raise ValueError(f"has {len(given)} points")
    return [tidy(finite(value, "a coordinate")) for point in given for value in point]


def _polygon(kind: str, points: list[float]) -> list[float]:
    if kind == "circle":
        x, y, *edge = points
        radius = math.hypot(edge[0] - x, edge[1] - y)
        turns = [2 * math.pi * i / CORNERS for i in range(CORNERS)]
        return [tidy(value) for t in turns for value in (x + radius * math.cos(t), y + radius * math.sin(t))]
    if kind not in ("polygon", "oriented_rectangle"):
        raise ValueError(f"has the shape_type {kind!r}, which is not known")
    if len(points) < 6:
        raise ValueError(f"is a polygon of {len(points) // 2} points")
    return points


def _extend(annotation: dict[str, Any], polygon: list[float]) -> None:
    """Add a polygon to an object of several."""
    annotation["segmentation"].append(polygon)
    x1, y1, x2, y2 = polygon_box([value for part in annotation["segmentation"] for value in part])
    annotation["bbox"] = [x1, y1, tidy(x2 - x1), tidy(y2 - y1)]
    annotation["area"] = tidy(object_area((x1, y1, x2, y2), annotation["segmentation"]))


def _mask(shape: dict[str, Any], points: list[float], size: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
    """The box and the run lengths of a mask, which is a PNG of its box in base64."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            if image.width > size[1] or image.height > size[0]:
                raise ValueError(f"it has {image.width} x {image.height} pixels, the image {size[1]} x {size[0]}")
            pixels = np.array(image.convert("L")) > 0
    except Exception as error:  # decoders raise all kinds of errors for damaged data
        raise ValueError(f"its mask cannot be read: {error}") from error
    left, top = round(min(points[::2])), round(min(points[1::2]))
    if left < 0 or top < 0 or top + pixels.shape[0] > size[0] or left + pixels.shape[1] > size[1]:
        raise ValueError(f"its mask does not lie inside of the {size[1]} x {size[0]} pixels")
    rows, columns = np.nonzero(pixels)
    if not len(rows):
        raise ValueError("its mask is empty")
    box = (left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1)
    return [int(value) for value in box], encode_region(pixels, top, left, *size)
