"""Images resized and put into a frame of another size, with all that is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from detkit.data.transforms.basic import Sample, nearest_pixels, select_objects
from detkit.images import image_size, resize_image
from detkit.ops.masks import MaskCrops
from detkit.structures import Annotations

Size = tuple[int, int]
GREY = 114


def place(image: Tensor, annotations: Annotations, size: Size, corner: Size, frame: Size) -> Sample:
    """Resize an image and put it into a frame; what it leaves free is grey, what protrudes is cut off.

    Args:
        image: uint8 [3, h, w].
        annotations: of the image. Objects of which nothing is left are dropped; points may leave the frame. The box of
            an object that is cut off becomes that of its mask, if it has one.
        size: (h, w) to resize to.
        corner: the (y, x) of its top left pixel in the frame; it may be negative.
        frame: (h, w) of the result.
    """
    top, left, bottom, right = overlap(size, corner, frame)
    canvas = image.new_full((3, *frame), GREY)
    resized = resize_image(image, size)
    y, x = corner
    canvas[:, top:bottom, left:right] = resized[:, top - y : bottom - y, left - x : right - x]
    return canvas, place_annotations(annotations, image_size(image), size, corner, frame)


def place_annotations(annotations: Annotations, old: Size, size: Size, corner: Size, frame: Size) -> Annotations:
    """The annotations of an image of `old` (h, w) that `place` puts into a frame."""
    masks, points, known = annotations.mask_crops, annotations.points, annotations.boxes
    scale = known.new_tensor([size[1] / old[1], size[0] / old[0]])
    shift = known.new_tensor([corner[1], corner[0]])
    whole = known * scale.repeat(2) + shift.repeat(2)
    boxes = whole.clamp(min=0).minimum(known.new_tensor([frame[1], frame[0]] * 2))
    seen = [_seen_pixels(*axis) for axis in zip(old, size, corner, frame, strict=True)]
    placed = replace(
        annotations,
        boxes=boxes,
        masks=None if masks is None else masks.resampled(*seen),
        points=None if points is None else (points + 0.5) * scale - 0.5 + shift,
    )
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if (left := placed.mask_crops) is not None:
        keep &= torch.tensor(left.areas, dtype=torch.int64) > 0
        cut = (boxes != whole).any(1)
        boxes[cut] = left.boxes()[cut]
    return select_objects(placed, keep)


def hide_points(annotations: Annotations, size: Size, corner: Size) -> Annotations:
    """Points outside of the image of `size` at `corner` become (-1, -1), so that they lie on no other one beside it."""
    if annotations.points is None:
        return annotations
    low = annotations.points.new_tensor([corner[1], corner[0]]) - 0.5
    high = low + low.new_tensor([size[1], size[0]])
    outside = ((annotations.points < low) | (annotations.points > high)).any(1)
    return replace(annotations, points=annotations.points.masked_fill(outside[:, None], -1.0))


def join_annotations(first: Annotations, parts: Sequence[Annotations], frame: Size) -> Annotations:
    """The objects of all parts, which lie in one frame; the rest is that of `first`."""
    masks = [part.mask_crops for part in parts if part.mask_crops is not None]
    points = [part.points for part in parts if part.points is not None]
    return replace(
        first,
        boxes=torch.cat([part.boxes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        masks=MaskCrops.joined(masks, frame) if len(masks) == len(parts) else None,
        points=torch.cat(points) if len(points) == len(parts) else None,
    )


def overlap(size: Size, corner: Size, frame: Size) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the part of a frame that something of `size` at `corner` covers."""
    (top, bottom), (left, right) = (
        (min(max(at, 0), limit), min(max(at + length, 0), limit))
        for at, length, limit in zip(corner, size, frame, strict=True)
    )
    return top, left, bottom, right


def draw_corner(size: Size, frame: Size, rng: np.random.Generator) -> Size:
    """A random corner at which something of `size` lies inside of a frame, or fills it where it is larger."""
    y, x = (int(rng.integers(min(0, f - s), max(0, f - s) + 1)) for s, f in zip(size, frame, strict=True))
    return y, x


def scaled(size: Size, factor: float) -> Size:
    """(h, w) times a factor, at least one pixel each."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _seen_pixels(old: int, size: int, corner: int, frame: int) -> np.ndarray:
    """For each pixel along an axis of the frame the pixel of the old image that it shows, -1 for none."""
    seen = np.full(frame, -1)
    start, end = min(max(corner, 0), frame), min(max(corner + size, 0), frame)
    seen[start:end] = nearest_pixels(old, size)[start - corner : end - corner]
    return seen
