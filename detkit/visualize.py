"""Pictures of detections, of detections beside the truth, and of a training run."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detkit.images import load_image
from detkit.structures import Annotations, Detections, LabelMap

MASK_OPACITY = 0.45
LEGIBLE_SIDE = 360  # pixels that an image needs so that tags do not cover it
Color = tuple[int, int, int]


def class_color(number: int) -> Color:
    """The R, G, B of a class, the same in every picture; 36 different ones, the nearest numbers farthest apart."""
    hue = number * 5 % 12 / 12
    saturation, value = ((0.8, 0.95), (0.45, 1.0), (1.0, 0.6))[number // 12 % 3]
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def draw_detections(image: Any, detections: Detections) -> Image.Image:
    """Draw boxes, translucent masks and tags such as "cat 0.87", the best detections on top.

    Args:
        image: whatever `detkit.images.load_image` takes.
        detections: boxes and masks in pixels of this image.

    Raises:
        ValueError: the image cannot be read, or the masks have another size.
    """
    found = detections.cpu()
    texts = [f"{name} {score:.2f}" for name, score in zip(found.names(), found.scores.tolist(), strict=True)]
    order = found.scores.argsort().tolist()
    return _draw(_to_pil(image), found.boxes, found.masks, texts, _colors(found), order)


def draw_comparison(
    image: Any, detections: Detections, annotations: Annotations, label_map: LabelMap | None = None
) -> Image.Image:
    """Draw detections (left) beside the ground truth (right), each under its caption; small images are magnified.

    Args:
        image: whatever `detkit.images.load_image` takes.
        detections: in pixels of this image.
        annotations: in pixels of this image.
        label_map: what the labels of the annotations mean; by default that of the detections.

    Raises:
        ValueError: the image cannot be read, or the masks have another size.
    """
    picture = _to_pil(image)
    ones = torch.ones(len(annotations))
    label_map = label_map or detections.label_map
    truth = Detections(annotations.boxes, ones, annotations.labels, annotations.masks, label_map).cpu()
    order = list(range(len(truth)))
    factor = max(1, round(LEGIBLE_SIDE / max(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    detections, truth = _magnify(detections, factor), _magnify(truth, factor)
    right = _draw(picture.copy(), truth.boxes, truth.masks, truth.names(), _colors(truth), order)
    left = draw_detections(picture, detections)
    return _side_by_side(left, right, f"Prediction ({len(detections)})", f"Ground truth ({len(truth)})")


def _magnify(detections: Detections, factor: int) -> Detections:
    masks = detections.masks
    if masks is not None:
        masks = masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return replace(detections, boxes=detections.boxes * factor, masks=masks)


def plot_curves(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Plot the losses and the AP of a training run over its steps as one PNG.

    Args:
        rows: log rows with a "step"; every other key is optional. Keys with "loss" in them go to the left, the
            terms of auxiliary stages (`loss_bbox_0`, ...) added to those of the last (`loss_bbox`); keys such as
            "bbox/AP" and "bbox/AP50" go to the right (a negative AP, COCO's "undefined", is left out).
        path: the file to write.

    Raises:
        ValueError: no row has a loss or an AP.
    """
    from matplotlib.figure import Figure

    losses, figures = _loss_curves(rows), _average_precision_curves(rows)
    panels = [panel for panel in ((losses, "loss"), (figures, "AP")) if panel[0]]
    if not panels:
        raise ValueError("nothing to plot: no row has a loss or an AP")
    figure = Figure(figsize=(7 * len(panels), 4.5), layout="constrained")
    for axes, (curves, label) in zip(
        figure.subplots(1, len(panels), sharex=True, squeeze=False)[0], panels, strict=True
    ):
        for name, points in sorted(curves.items()):
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        if label == "AP":
            axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=120, format="png")


def plot_ladder(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Plot what each step of a component ladder gains, as one PNG.

    Args:
        rows: in order, each with a "name" and any of "bbox/AP", "segm/AP" (0..1) and "forward images/s".
        path: the file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = ((("bbox/AP", "segm/AP"), "AP"), (("forward images/s",), "images/s"))
    for axes, (keys, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for key in keys:
            points = [(i, row[key]) for i, row in enumerate(rows) if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=key)
        axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=30, ha="right")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def _loss_curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        totals: dict[str, float] = {}
        for key, value in row.items():
            if "loss" in key and value is not None:
                name = re.sub(r"_\d+$", "", key)
                totals[name] = totals.get(name, 0.0) + float(value)
        for name, total in totals.items():
            curves.setdefault(name, []).append((row["step"], total))
    return curves


def _average_precision_curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if re.search(r"(^|/)AP(50|75)?$", key) and value is not None and value >= 0:
                curves.setdefault(key, []).append((row["step"], float(value)))
    return curves


def _to_pil(image: Any) -> Image.Image:
    pixels = load_image(image).detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.round()
    return Image.fromarray(np.ascontiguousarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy()))


def _colors(found: Detections) -> list[Color]:
    """One per detection, by category id: a class looks the same whatever the label map."""
    return [class_color(category) for category in found.category_ids()]


def _draw(
    picture: Image.Image,
    boxes: Tensor,
    masks: Tensor | None,
    texts: list[str],
    colors: list[Color],
    order: list[int],
) -> Image.Image:
    if masks is not None:
        picture = _blend_masks(picture, masks, colors, order)
    draw = ImageDraw.Draw(picture)
    font, line = _font(picture.size), max(2, round(max(picture.size) / 400))
    corners = boxes.tolist()
    for i in order:
        x1, y1, x2, y2 = corners[i]
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colors[i], width=line)
    for i in order:
        _draw_tag(draw, corners[i], texts[i], colors[i], font, picture.size)
    return picture


def _font(size: tuple[int, int]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(min(48, max(11, round(sum(size) / 85))))


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return round(font.getbbox("Ag")[3] - min(0, font.getbbox("Ag")[1]))


def _blend_masks(picture: Image.Image, masks: Tensor, colors: list[Color], order: list[int]) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32).copy()
    if masks.shape[1:] != pixels.shape[:2]:
        raise ValueError(f"masks are {tuple(masks.shape[1:])} (h, w) but the image is {pixels.shape[:2]}")
    for i in order:
        inside = masks[i].numpy().astype(bool)
        pixels[inside] += MASK_OPACITY * (np.array(colors[i], dtype=np.float32) - pixels[inside])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _draw_tag(draw: ImageDraw.ImageDraw, box: list[float], text: str, color: Color, font, size) -> None:
    """A filled tag above the box, or inside it where there is no room, moved so that it stays in the image."""
    pad = 2
    left, _, right, _ = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * pad, _line_height(font) + 2 * pad
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else box[1]
    y = max(0, min(y, size[1] - height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    draw.text((x + pad - left, y + pad), text, fill="black" if dark else "white", font=font)


def _side_by_side(left: Image.Image, right: Image.Image, *captions: str) -> Image.Image:
    font = _font(left.size)
    gap, strip = max(4, left.width // 100), round(1.8 * _line_height(font))
    column = max(left.width, *(round(font.getlength(caption)) + 2 for caption in captions))
    canvas = Image.new("RGB", (2 * column + gap, left.height + strip), "white")
    draw = ImageDraw.Draw(canvas)
    for picture, caption, x in zip((left, right), captions, (0, column + gap), strict=True):
        canvas.paste(picture, (x + (column - picture.width) // 2, strip))
        draw.text((x + column / 2, strip / 2), caption, fill="black", font=font, anchor="mm")
    return canvas
