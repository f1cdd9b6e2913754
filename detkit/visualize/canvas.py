"""What all pictures share: colours, fonts, reading images, smooth lines, and sheets of several pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detkit.images import load_image
from detkit.visualize.fonts import Font, font_with

LEGIBLE_SIDE = 360  # least side in pixels of an image for drawing; smaller images are enlarged
WIDEST = 3  # largest width of a picture on a sheet, relative to the height of its row
FINE = 3  # lines and dots are drawn this many times larger and then reduced, which smooths them
Color = tuple[int, int, int]


def class_color(number: int) -> Color:
    """The R, G, B of a class, the same in every picture; 36 different ones, the nearest numbers farthest apart."""
    hue = number * 5 % 12 / 12
    saturation, value = ((0.8, 0.95), (0.45, 1.0), (1.0, 0.6))[number // 12 % 3]
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def to_pil(image: Any) -> Image.Image:
    """Whatever `detkit.images.load_image` takes, as a new RGB picture."""
    pixels = load_image(image).detach().cpu()
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def whole_factor(size: tuple[int, int], side: int) -> int:
    """How many times to enlarge a picture so that its longer side has about `side` pixels; 1 where it has more."""
    return max(1, round(side / max(size)))


def enlarge(picture: Image.Image, factor: int) -> Image.Image:
    """Every pixel as a square of `factor` pixels."""
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def font_for(size: tuple[int, int], text: str = "") -> Font:
    """A font that is legible in a picture of this size, with the characters of `text` where there is one."""
    points = min(48, max(11, round(sum(size) / 85)))
    font = font_with(text, points) or font_with("", points)
    assert font is not None
    return font


def line_height(font: Font) -> int:
    """The height in pixels of a line of text in this font."""
    return round(font.getbbox("Ag")[3] - min(0, font.getbbox("Ag")[1]))


def paint_smoothly(picture: Image.Image, paint: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    """A picture with smooth lines and dots on it, which `paint` draws at `FINE` times its size."""
    layer = Image.new("RGBA", (picture.width * FINE, picture.height * FINE))
    paint(ImageDraw.Draw(layer))
    return Image.alpha_composite(picture.convert("RGBA"), layer.reduce(FINE)).convert("RGB")


def paint_dot(draw: ImageDraw.ImageDraw, at: Sequence[float], radius: float, color: tuple[int, ...]) -> None:
    """A dot with a white ring and a dark edge, which shows on every background; at `FINE` times its size."""
    x, y = (FINE * value for value in at)
    for size, fill in ((radius + 2, (0, 0, 0, 200)), (radius + 1.2, (255, 255, 255, 255)), (radius, color)):
        draw.ellipse((x - FINE * size, y - FINE * size, x + FINE * size, y + FINE * size), fill=fill)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]], titles: Sequence[str], *, height: int | None = LEGIBLE_SIDE
) -> Image.Image:
    """A grid of pictures under a row of titles.

    Args:
        rows: the pictures of each row; None leaves a place empty.
        titles: one for each column.
        height: pixels to which each picture is scaled, less where it is very wide; None leaves them as they are.

    Raises:
        ValueError: a row has not as many pictures as there are titles.
    """
    for number, row in enumerate(rows):
        if len(row) != len(titles):
            raise ValueError(f"row {number} has {len(row)} pictures for {len(titles)} titles: {', '.join(titles)}")
    scaled = [[None if picture is None else _fit(picture, height) for picture in row] for row in rows]
    sizes = np.array([[(0, 0) if p is None else p.size for p in row] for row in scaled]).reshape(-1, len(titles), 2)
    heights = sizes[..., 1].max(axis=1, initial=0)
    side = height or max(int(sizes[..., 0].max(initial=0)), int(heights.max(initial=0)))
    font = font_for((2 * side, 2 * side))
    wanted = [round(font.getlength(title)) + 2 for title in titles]
    widths, gap, strip = np.maximum(sizes[..., 0].max(axis=0, initial=0), wanted), 6, round(1.8 * line_height(font))
    left = np.concatenate([[0], np.cumsum(widths + gap)])
    top = strip + np.concatenate([[0], np.cumsum(heights + gap)])
    sheet = Image.new("RGB", (max(1, int(left[-1]) - gap), max(strip, int(top[-1]) - gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for title, x, width in zip(titles, left, widths, strict=False):
        draw.text((x + width / 2, strip / 2), title, fill="black", font=font, anchor="mm")
    for row, y, tall in zip(scaled, top, heights, strict=False):
        for picture, x, width in zip(row, left, widths, strict=False):
            if picture is not None:
                sheet.paste(picture, (int(x + (width - picture.width) // 2), int(y + (tall - picture.height) // 2)))
    return sheet


def _fit(picture: Image.Image, height: int | None) -> Image.Image:
    if height is None:
        return picture
    factor = min(height / picture.height, WIDEST * height / picture.width)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC)
