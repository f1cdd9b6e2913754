"""Flipping and resizing, and what other transforms need as well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.images import check_multiple, check_shape, image_size, resize_image, resized_size
from detkit.ops.boxes import mirror_boxes
from detkit.registry import register
from detkit.registry.ranges import Pixels, Share
from detkit.structures import Annotations

Sample = tuple[Tensor, Annotations]


@register
class RandomFlip:
    """Mirror the image left to right at random.

    Args:
        probability: 0 to 1.
    """

    def __init__(self, probability: Share = 0.5):
        self.probability = check_probability("probability", probability)

    def __call__(self, image: Tensor, annotations: Annotations, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return image, annotations
        masks, points, (height, width) = annotations.mask_crops, annotations.points, image_size(image)
        flipped = replace(
            annotations,
            boxes=mirror_boxes(annotations.boxes, width),
            masks=None if masks is None else masks.resampled(np.arange(height), np.arange(width)[::-1]),
            points=None if points is None else torch.stack([width - 1 - points[:, 0], points[:, 1]], dim=1),
        )
        return image.flip(2), flipped


@register
class Resize:
    """Resize as in evaluation, keeping the aspect ratio.

    Args:
        shortest: pixels of the shortest side, or fewer where the longest side would pass `longest`.
        longest: the most pixels of the longest side.
        multiple: both sides are rounded down to a multiple of it.

    Raises:
        ValueError: `multiple` is above `shortest` or `longest`.
    """

    def __init__(self, shortest: Pixels = 800, longest: Pixels = 1333, multiple: Pixels = 16):
        check_multiple(shortest, longest, multiple)
        self.shortest, self.longest, self.multiple = shortest, longest, multiple

    def __call__(self, image: Tensor, annotations: Annotations, rng: np.random.Generator) -> Sample:
        old = image_size(image)
        check_shape(old, self.longest, self.multiple)
        new = resized_size(old, self.shortest, self.longest, self.multiple)
        scale = annotations.boxes.new_tensor([new[1] / old[1], new[0] / old[0]])
        masks, points = annotations.mask_crops, annotations.points
        resized = replace(
            annotations,
            boxes=annotations.boxes * scale.repeat(2),
            masks=None if masks is None else masks.resampled(*map(nearest_pixels, old, new)),
            points=None if points is None else (points + 0.5) * scale - 0.5,
        )
        return resize_image(image, new), resized


def check_probability(name: str, value: float) -> float:
    """The value, if it is a probability; else a ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in 0..1, got {value}")
    return value


def nearest_pixels(old: int, new: int) -> np.ndarray:
    """For each of `new` pixels along an axis of `old` ones the nearest of these."""
    pixels = torch.arange(old, dtype=torch.float32)[None, None]
    return F.interpolate(pixels, size=new, mode="nearest-exact")[0, 0].long().numpy()


def select_objects(annotations: Annotations, keep: Tensor) -> Annotations:
    """The annotations of some objects only, chosen by a bool mask or indices."""
    known = {name: vars(annotations)[name] for name in ("boxes", "labels", "masks", "points")}
    return replace(annotations, **{name: value[keep] for name, value in known.items() if value is not None})


def drop_empty_masks(annotations: Annotations) -> Annotations:
    """Without the objects whose mask has no pixel; all have masks."""
    assert annotations.mask_crops is not None
    return select_objects(annotations, torch.tensor(annotations.mask_crops.areas) > 0)
