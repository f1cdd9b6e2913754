"""Pictures of matched points of two images."""

from __future__ import annotations

import math
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from detkit.visualize.canvas import FINE, class_color, paint_dot, paint_smoothly, to_pil

RIGHT, WRONG = (40, 200, 80), (235, 50, 50)
CORRECT_WITHIN = 0.1  # of the longer side of the target
FAINTEST = 0.3
HEIGHTS = (320, 640)  # of the drawn images, in pixels
WIDEST = 1.8  # width of a drawn image over the height


def draw_matches(
    source: Any,
    target: Any,
    source_points: Any,
    target_points: Any,
    *,
    confidence: Any = None,
    truth: Any = None,
    threshold: float | None = None,
) -> Image.Image:
    """Draw two images side by side with lines between their matching points.

    Without `truth` each match has its colour. With it right ones are green and wrong ones red, and a thin line leads
    from where a wrong one ended to a ring where it belongs.

    Args:
        source, target: whatever `detkit.images.load_image` takes, of any size.
        source_points: [n, 2], x y in pixels of the source.
        target_points: [n, 2], x y in pixels of the target: what was found.
        confidence: [n] in 0..1; the lower relative to the highest, the fainter the line.
        truth: [n, 2], where the points are in the target.
        threshold: distance to the truth in pixels of the target up to which a match is right; by default a tenth of
            the target's longer side.

    Raises:
        ValueError: an image cannot be read, or the points, confidences or true places differ in number.
    """
    pictures = [to_pil(image) for image in (source, target)]
    found = dict(source=_table(source_points), target=_table(target_points))
    if truth is not None:
        found["true"] = _table(truth)
    strength = _strength(confidence, len(found["source"]))
    for name, values in [*found.items(), ("confidence", strength)]:
        if len(values) != len(found["source"]):
            raise ValueError(f"{len(found['source'])} source points but {len(values)} of {name}")
    right = None
    if truth is not None:
        limit = CORRECT_WITHIN * max(pictures[1].size) if threshold is None else threshold
        right = ((found["target"] - found["true"]).norm(dim=1) <= limit).tolist()
    canvas, frames = _side_by_side(pictures)
    places = [_place(found[name], frames[name != "source"]) for name in found]
    return paint_smoothly(canvas, lambda draw: _paint(draw, places, strength.tolist(), right, canvas.height))


def _table(points: Any) -> Tensor:
    return torch.as_tensor(points, dtype=torch.float32).detach().cpu().reshape(-1, 2)


def _strength(confidence: Any, count: int) -> Tensor:
    """How strongly each line is drawn, `FAINTEST` to 1."""
    if confidence is None:
        return torch.ones(count)
    values = torch.as_tensor(confidence, dtype=torch.float32).detach().cpu().reshape(-1)
    relative = values / values.max().clamp(min=1e-9) if len(values) else values
    return FAINTEST + (1 - FAINTEST) * relative.clamp(0, 1)


Frame = tuple[float, float, float]  # the scale of an image on the canvas, and the x and y of its corner there


def _side_by_side(pictures: list[Image.Image]) -> tuple[Image.Image, list[Frame]]:
    """Both pictures on one canvas, equally high where their shapes allow it."""
    height = min(HEIGHTS[1], max(HEIGHTS[0], *(picture.height for picture in pictures)))
    scales = [min(height / picture.height, WIDEST * height / picture.width) for picture in pictures]
    sizes = [
        (max(1, round(p.width * scale)), max(1, round(p.height * scale)))
        for p, scale in zip(pictures, scales, strict=True)
    ]
    height, gap = max(size[1] for size in sizes), 8
    canvas = Image.new("RGB", (sizes[0][0] + gap + sizes[1][0], height), "white")
    frames, left = [], 0
    for picture, size, scale in zip(pictures, sizes, scales, strict=True):
        top = (height - size[1]) // 2
        canvas.paste(picture.resize(size, Image.Resampling.BICUBIC), (left, top))
        frames.append((scale, float(left), float(top)))
        left += size[0] + gap
    return canvas, frames


def _place(points: Tensor, frame: Frame) -> list[list[float]]:
    return (points * frame[0] + torch.tensor(frame[1:])).tolist()


def _paint(
    draw: ImageDraw.ImageDraw,
    places: list[list[list[float]]],
    strength: list[float],
    right: list[bool] | None,
    height: int,
) -> None:
    """Lines below, dots above; `places` are those in the source, in the target and, where known, the true ones."""
    radius, width = max(4.0, height / 110), max(2.0, height / 240)
    colors = [class_color(i) if right is None else (RIGHT if right[i] else WRONG) for i in range(len(strength))]
    shades = [(*color, round(255 * value)) for color, value in zip(colors, strength, strict=True)]
    order = sorted(range(len(strength)), key=strength.__getitem__)
    for i in order:
        _paint_line(draw, places[0][i], places[1][i], width, shades[i])
    for i in order:
        if right is not None and not right[i]:
            _paint_line(draw, places[1][i], places[2][i], 0.6 * width, (255, 255, 255, 230))
            _paint_ring(draw, places[2][i], radius)
    for i in order:
        paint_dot(draw, places[0][i], radius, colors[i])
        paint_dot(draw, places[1][i], radius, colors[i])


def _paint_line(
    draw: ImageDraw.ImageDraw, start: list[float], end: list[float], width: float, color: tuple[int, ...]
) -> None:
    ends = [FINE * value for value in (*start, *end)]
    if math.dist(start, end) > 0:
        draw.line(ends, fill=(0, 0, 0, color[-1] // 2), width=round(FINE * (width + 1.2)))
        draw.line(ends, fill=color, width=round(FINE * width))


def _paint_ring(draw: ImageDraw.ImageDraw, at: list[float], radius: float) -> None:
    x, y = (FINE * value for value in at)
    for size, color, width in ((radius + 1, (0, 0, 0), 3.0), (radius, RIGHT, 2.0)):
        box = (x - FINE * size, y - FINE * size, x + FINE * size, y + FINE * size)
        draw.ellipse(box, outline=color, width=round(FINE * width))
