"""Pictures of detections, of detections beside the truth, and of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from detkit.visualize.canvas import (
    FINE,
    LEGIBLE_SIDE,
    Color,
    class_color,
    contact_sheet,
    enlarge,
    font_for,
    line_height,
    paint_dot,
    paint_smoothly,
    to_pil,
    whole_factor,
)
from detkit.visualize.fonts import font_with

MASK_OPACITY = 0.45


class DrawnObjects(Protocol):
    """What is drawn of `detkit.structures.Detections`; drawing stands below it and does not know the class."""

    boxes: Any
    scores: Any
    labels: Any
    masks: Any

    def __len__(self) -> int:
        """The number of objects."""

    def cpu(self) -> Self:
        """The same on the CPU."""

    def names(self) -> list[str]:
        """The class name of each object."""

    def category_ids(self) -> list[int]:
        """The category id of each object, which chooses its colour."""


def draw_detections(image: Any, detections: DrawnObjects) -> Image.Image:
    """Draw boxes, translucent masks and tags such as "cat 0.87", the best detections on top.

    A name that no font of the system can write is drawn as "id" and its category id.

    Args:
        image: whatever `detkit.images.load_image` takes.
        detections: boxes and masks in pixels of this image.

    Raises:
        ValueError: the image cannot be read, or the masks have another size.
    """
    found = detections.cpu()
    texts = [f"{name} {score:.2f}" for name, score in zip(_legible_names(found), found.scores.tolist(), strict=True)]
    order = found.scores.argsort().tolist()
    return draw_boxes(to_pil(image), found.boxes, found.masks, texts, _colors(found), order)


def draw_points(
    image: Any,
    points: Any,
    labels: Any = None,
    *,
    category_ids: Sequence[int] | None = None,
    masks: Tensor | None = None,
    answered: Any = None,
    side: int = 0,
) -> Image.Image:
    """Draw points, and masks below them.

    Args:
        image: whatever `detkit.images.load_image` takes.
        points: [n, 2], x y in pixels of this image.
        labels: [n], whose colours the points take; without them every point has another.
        category_ids: of each label; with them a class has the colour that it has in `draw_detections`.
        masks: [n, h, w] bool, translucent and outlined in the colours of the points; an empty one for a point without.
        answered: [n] bool; points for which it is False are crosses instead of dots.
        side: enlarge a smaller image by a whole factor, to about so many pixels of its longer side.

    Raises:
        ValueError: the image cannot be read, or something is of another length or size.
    """
    picture = to_pil(image)
    table = torch.as_tensor(points, dtype=torch.float32).detach().cpu().reshape(-1, 2)
    shown = [True] * len(table) if answered is None else torch.as_tensor(answered).bool().tolist()
    numbers = torch.arange(len(table)) if labels is None else torch.as_tensor(labels).cpu()
    for name, values in (("labels", numbers), ("masks", masks), ("answers", shown)):
        if values is not None and len(values) != len(table):
            raise ValueError(f"{len(table)} points but {len(values)} {name}")
    ids = numbers.tolist() if category_ids is None or labels is None else [category_ids[i] for i in numbers]
    colors = [class_color(number) for number in ids]
    factor = whole_factor(picture.size, side)
    picture = enlarge(picture, factor)
    if masks is not None:
        masks = _repeat(masks.cpu(), factor)
        picture = _blend_masks(picture, masks, colors, masks.flatten(1).sum(1).argsort(descending=True).tolist())
        picture = _outline_masks(picture, masks, colors)
    return _draw_colored_points(picture, table * factor, colors, shown)


def _draw_colored_points(
    picture: Image.Image, points: Tensor, colors: list[Color], shown: list[bool] | None = None
) -> Image.Image:
    shown = [True] * len(points) if shown is None else shown
    return paint_smoothly(picture, lambda draw: _paint_points(draw, points.tolist(), colors, shown, picture.size))


def _paint_points(
    draw: ImageDraw.ImageDraw,
    points: list[list[float]],
    colors: list[Color],
    answered: list[bool],
    size: tuple[int, int],
) -> None:
    radius = max(3.5, max(size) / 90)
    for at, color, is_answered in zip(points, colors, answered, strict=True):
        if is_answered:
            paint_dot(draw, at, radius, color)
            continue
        (x, y), arm = (FINE * value for value in at), FINE * (radius + 1)
        for width, fill in ((radius + 2.5, (255, 255, 255)), (radius, color)):
            for slope in (-1, 1):
                ends = (x - arm, y - slope * arm, x + arm, y + slope * arm)
                draw.line(ends, fill=fill, width=round(FINE * width * 0.6))


def draw_comparison(
    image: Any, detections: DrawnObjects, truth: DrawnObjects, points: Tensor | None = None
) -> Image.Image:
    """Draw detections (left) beside the ground truth (right), each under its caption; small images are magnified.

    Args:
        image: whatever `detkit.images.load_image` takes.
        detections: in pixels of this image.
        truth: the true objects in pixels of this image, see `detkit.structures.Detections.of_annotations`.
        points: [n, 2] x y of the true objects, which are then drawn too.

    Raises:
        ValueError: the image cannot be read, or the masks have another size.
    """
    picture = to_pil(image)
    order = list(range(len(truth)))
    factor = whole_factor(picture.size, LEGIBLE_SIDE)
    picture = enlarge(picture, factor)
    detections, truth = _magnify(detections.cpu(), factor), _magnify(truth.cpu(), factor)
    right = draw_boxes(picture.copy(), truth.boxes, truth.masks, _legible_names(truth), _colors(truth), order)
    if points is not None:
        right = _draw_colored_points(right, points * factor, _colors(truth))
    left = draw_detections(picture, detections)
    titles = f"Prediction ({len(detections)})", f"Ground truth ({len(truth)})"
    return contact_sheet([[left, right]], titles, height=None)


def _magnify(detections: Any, factor: int) -> Any:
    masks = None if detections.masks is None else _repeat(detections.masks, factor)
    return replace(detections, boxes=detections.boxes * factor, masks=masks)


def _repeat(masks: Tensor, factor: int) -> Tensor:
    return masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _legible_names(found: DrawnObjects) -> list[str]:
    names = zip(found.names(), found.category_ids(), strict=True)
    return [name if font_with(name, 12) else f"id {category}" for name, category in names]


def _colors(found: DrawnObjects) -> list[Color]:
    """One per detection, by category id: a class looks the same whatever the label map."""
    return [class_color(category) for category in found.category_ids()]


def draw_boxes(
    picture: Image.Image,
    boxes: Tensor,
    masks: Tensor | None,
    texts: Sequence[str],
    colors: Sequence[Color],
    order: Sequence[int],
) -> Image.Image:
    """Draw boxes, translucent masks and tags on a picture, which changes.

    Args:
        boxes: [n, 4], x1 y1 x2 y2 in pixels of the picture.
        masks: [n, h, w] bool, or None.
        texts: of each tag; there is none where it is empty.
        colors: of each object.
        order: the numbers of the objects, the topmost last.

    Raises:
        ValueError: the masks have another size than the picture.
    """
    if masks is not None:
        picture = _blend_masks(picture, masks, colors, order)
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 400))
    corners = boxes.tolist()
    for i in order:
        x1, y1, x2, y2 = corners[i]
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colors[i], width=line)
    for i in (i for i in order if texts[i]):
        _draw_tag(draw, corners[i], texts[i], colors[i], font_for(picture.size, texts[i]), picture.size)
    return picture


def _blend_masks(picture: Image.Image, masks: Tensor, colors: Sequence[Color], order: Sequence[int]) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32).copy()
    if masks.shape[1:] != pixels.shape[:2]:
        raise ValueError(f"masks are {tuple(masks.shape[1:])} (h, w) but the image is {pixels.shape[:2]}")
    for i in order:
        inside = masks[i].numpy().astype(bool)
        pixels[inside] += MASK_OPACITY * (np.array(colors[i], dtype=np.float32) - pixels[inside])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _outline_masks(picture: Image.Image, masks: Tensor, colors: list[Color]) -> Image.Image:
    """A line of two pixels along the inner side of the edge of each mask."""
    pixels = np.array(picture)
    for mask, color in zip(masks.numpy().astype(bool), colors, strict=True):
        core = np.pad(mask, 2)
        for axis in (0, 1):
            core = core & np.roll(core, 1, axis) & np.roll(core, -1, axis)
            core = core & np.roll(core, 1, axis) & np.roll(core, -1, axis)
        pixels[mask & ~core[2:-2, 2:-2]] = color
    return Image.fromarray(pixels)


def _draw_tag(draw: ImageDraw.ImageDraw, box: list[float], text: str, color: Color, font, size) -> None:
    """A filled tag above the box, or inside it where there is no room, moved so that it stays in the image."""
    pad = 2
    left, _, right, _ = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * pad, line_height(font) + 2 * pad
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else box[1]
    y = max(0, min(y, size[1] - height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    draw.text((x + pad - left, y + pad), text, fill="black" if dark else "white", font=font)
