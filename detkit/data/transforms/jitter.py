"""Random scales."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from detkit.data.transforms.basic import Sample
from detkit.data.transforms.placing import draw_corner, place, scaled
from detkit.images import image_size
from detkit.registry import register
from detkit.registry.ranges import PositiveShare, Scale, Share
from detkit.structures import Annotations


@register
class ScaleJitter:
    """Show the objects larger or smaller; the image keeps its size (large scale jitter, arXiv 2012.07177).

    A larger image is cropped at random, a smaller one is put at a random place on grey.

    Args:
        scale: smallest and largest factor.
        probability: of an image to be changed.
        until: the share of the training in which it is used.

    Raises:
        ValueError: the factors do not ascend.
    """

    def __init__(
        self, scale: tuple[Scale, Scale] = (0.5, 2.0), *, probability: Share = 1.0, until: PositiveShare = 0.8
    ):
        self.scale, self.probability, self.until = check_scale(scale), probability, until

    def __call__(self, image: Tensor, annotations: Annotations, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return image, annotations
        frame = image_size(image)
        size = scaled(frame, draw_factor(self.scale, rng))
        return place(image, annotations, size, draw_corner(size, frame, rng), frame)


def check_scale(scale: tuple[float, float]) -> tuple[float, float]:
    """The two factors, if they ascend; else a ValueError."""
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be two ascending factors above 0, got {scale}")
    return scale[0], scale[1]


def draw_factor(scale: tuple[float, float], rng: np.random.Generator) -> float:
    """A factor between the two; its logarithm is uniform, so that half as large is as frequent as twice as large."""
    return float(np.exp(rng.uniform(*np.log(scale))))
