"""CVAT's format "for images": one XML file with the shapes of all images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from detkit.data.formats.files import ImageIndex, finite, read_xml
from detkit.data.formats.found import ContentBuilder, FoundDataset, Problems, part_of_stem, polygon_box, tidy
from detkit.images import read_frame
from detkit.ops.rle import encode_region

NO_AREA = ("points", "polyline", "skeleton", "cuboid", "tag")
CORNERS = 32  # of the polygon that stands for an ellipse


def read_cvat(root: Path, files: Sequence[Path], problems: Problems) -> FoundDataset:
    """Read the XML files of a dataset; the parts are CVAT's subsets, or told by the names of the files.

    Boxes stay boxes, turned ones, polygons, ellipses and masks have segmentations. Classes are in the order of the
    labels in the file.

    Raises:
        ValueError: an export for video, or see `Problems`.
    """
    index = ImageIndex(root)
    builders: dict[str, ContentBuilder] = {}
    names: dict[str, str] = {}
    for file in files:
        element = read_xml(file)
        if element.tag != "annotations":
            raise ValueError(f"{file} has the root <{element.tag[:40]}>, not <annotations>")
        if element.find("track") is not None:
            raise ValueError(f"{file} is an export of CVAT for video: export the task as 'CVAT for images'")
        for label in element.iterfind(".//labels/label/name"):
            names.setdefault(label.text or "", label.text or "")
        for image in element.iterfind("image"):
            part = part_of_stem(image.get("subset") or "") or part_of_stem(file.stem) or "train"
            with problems.guard("unreadable annotations", f"{file}: image id {image.get('id')}"):
                _add_image(builders.setdefault(part, ContentBuilder()), image, file, index, problems)
    for key in sorted({a["category_id"] for builder in builders.values() for a in builder.annotations}):
        names.setdefault(key, key)
    order = [part for part in ("train", "val", "test") if part in builders]
    return FoundDataset("cvat", root, {part: builders[part].finish(names, root) for part in order})


def _add_image(builder: ContentBuilder, image: Element, file: Path, index: ImageIndex, problems: Problems) -> None:
    where, name = f"{file}: image id {image.get('id')}", image.get("name") or ""
    found = index.find(name, file.parent) if name else None
    if found is None:
        problems.error("missing images", where, f"its image {name[:100]!r} is not in {index.root}")
        return
    if image.get("width") and image.get("height"):
        width, height = (int(finite(image.get(key), f"its {key}")) for key in ("width", "height"))
    else:
        height, width = read_frame(index.root / found).size
    image_id = builder.add_image(found, width, height)
    for number, shape in enumerate(image, 1):
        if shape.tag in NO_AREA:
            problems.note("shapes without area", f"{where}, shape {number}", f"is a {shape.tag} and left out")
            continue
        with problems.guard("unreadable annotations", f"{where}, shape {number}"):
            key = shape.get("label") or ""
            if not key.strip():
                raise ValueError("has no label")
            builder.add_object(image_id, key, *_read_shape(shape, (height, width)))


def _read_shape(shape: Element, size: tuple[int, int]) -> tuple[Any, Any]:
    """The box x1, y1, x2, y2 and the segmentation of a shape."""
    if shape.tag == "box":
        return _box(shape)
    if shape.tag == "mask":
        return _mask(shape, size)
    if shape.tag == "ellipse":
        x, y, rx, ry = _values(shape, "cx", "cy", "rx", "ry")
        turns = [2 * math.pi * i / CORNERS for i in range(CORNERS)]
        corners = [value for t in turns for value in (x + rx * math.cos(t), y + ry * math.sin(t))]
        polygon = _turned(corners, (x, y), shape)
    elif shape.tag == "polygon":
        pairs = [point.split(",") for point in (shape.get("points") or "").split(";")]
        polygon = [tidy(finite(value, "a coordinate")) for pair in pairs for value in pair]
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"is a polygon of {len(pairs)} points")
    else:
        raise ValueError(f"is a <{shape.tag[:40]}>, which is not known")
    return polygon_box(polygon), [polygon]


def _values(shape: Element, *keys: str) -> list[float]:
    return [finite(shape.get(key), key) for key in keys]


def _box(shape: Element) -> tuple[Any, Any]:
    x1, y1, x2, y2 = _values(shape, "xtl", "ytl", "xbr", "ybr")
    if not finite(shape.get("rotation") or 0, "rotation"):
        return (x1, y1, x2, y2), None
    polygon = _turned([x1, y1, x2, y1, x2, y2, x1, y2], ((x1 + x2) / 2, (y1 + y2) / 2), shape)
    return polygon_box(polygon), [polygon]


def _turned(points: Sequence[float], centre: tuple[float, float], shape: Element) -> list[float]:
    """Points turned clockwise around `centre` by the rotation of a shape in degrees."""
    angle = math.radians(finite(shape.get("rotation") or 0, "rotation"))
    x = np.array(points[::2]) - centre[0]
    y = np.array(points[1::2]) - centre[1]
    turned = np.stack(
        [
            centre[0] + x * math.cos(angle) - y * math.sin(angle),
            centre[1] + x * math.sin(angle) + y * math.cos(angle),
        ],
        axis=1,
    )
    return [tidy(value) for value in turned.ravel()]


def _mask(shape: Element, size: tuple[int, int]) -> tuple[Any, Any]:
    """A mask: run lengths along the rows of its box, beginning with the background."""
    left, top, width, height = (int(value) for value in _values(shape, "left", "top", "width", "height"))
    inside = left >= 0 and top >= 0 and width > 0 and height > 0 and left + width <= size[1] and top + height <= size[0]
    if not inside:
        raise ValueError(f"its mask does not lie inside of the {size[1]} x {size[0]} pixels")
    runs = [int(finite(text, "a run length")) for text in (shape.get("rle") or "").split(",")]
    if min(runs) < 0 or sum(runs) > width * height:
        raise ValueError(f"its run lengths do not fit into {width} x {height} pixels")
    pixels = np.zeros(width * height, dtype=bool)
    ends = np.cumsum(runs)
    for start, end in zip(ends[::2], ends[1::2], strict=False):
        pixels[start:end] = True
    if not pixels.any():
        raise ValueError("its mask is empty")
    return (left, top, left + width, top + height), encode_region(pixels.reshape(height, width), top, left, *size)
