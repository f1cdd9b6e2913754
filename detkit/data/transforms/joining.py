"""Transforms that join a sample with others of the dataset.

Such a transform has a method `partners(rng)`, which draws how many other samples it wants this time, and takes them
as a fourth argument, a list of `(image, annotations)`. `detkit.data.views.TrainingView` draws them at random from the
dataset and passes them through the transforms that stand before this one. Where it wants none it is not called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from detkit.data.transforms.basic import Sample
from detkit.data.transforms.jitter import check_scale, draw_factor
from detkit.data.transforms.placing import (
    GREY,
    Size,
    draw_corner,
    hide_points,
    join_annotations,
    place,
    place_annotations,
    scaled,
)
from detkit.images import image_size
from detkit.registry import register
from detkit.registry.ranges import PictureSide, PositiveShare, Scale, Share
from detkit.structures import Annotations


class Joining:
    """Base of the transforms that join a sample with others.

    Args:
        probability: of a sample to be joined.
        until: the share of the training in which it is used.
    """

    number = 1  # of the other samples

    def __init__(self, *, probability: Share, until: PositiveShare):
        self.probability, self.until = probability, until

    def partners(self, rng: np.random.Generator) -> int:
        """How many other samples it wants this time."""
        return self.number if rng.random() < self.probability else 0


@register
class Mosaic(Joining):
    """Four images as the quarters of one (YOLOv4, arXiv 2004.10934).

    The quarters meet at a random point. Each shows a random part of its image; what an image leaves free is grey.

    Args:
        side: of the square result, in pixels.
        scale: smallest and largest length of the longer side of each of the four images, as a share of `side`.
        centre: where the quarters meet, smallest and largest share of `side`.
        probability: of a sample to be joined.
        until: the share of the training in which it is used.

    Raises:
        ValueError: the shares do not ascend.
    """

    number = 3

    def __init__(
        self,
        side: PictureSide,
        *,
        scale: tuple[Scale, Scale] = (0.5, 1.5),
        centre: tuple[Annotated[float, Ge(0.1), Le(0.9)], Annotated[float, Ge(0.1), Le(0.9)]] = (0.3, 0.7),
        probability: Share = 0.5,
        until: PositiveShare = 0.8,
    ):
        super().__init__(probability=probability, until=until)
        if len(centre) != 2 or not 0.1 <= centre[0] <= centre[1] <= 0.9:
            raise ValueError(f"centre must be two ascending shares in 0.1..0.9, got {centre}")
        self.side, self.scale, self.centre = side, check_scale(scale), (centre[0], centre[1])

    def __call__(
        self, image: Tensor, annotations: Annotations, rng: np.random.Generator, others: Sequence[Sample]
    ) -> Sample:
        frame, parts = (self.side, self.side), []
        canvas = image.new_full((3, *frame), GREY)
        y, x = (round(self.side * rng.uniform(*self.centre)) for _ in range(2))
        cells = [(0, 0, y, x), (0, x, y, self.side), (y, 0, self.side, x), (y, x, self.side, self.side)]
        for number, (part, known) in zip(rng.permutation(4), [(image, annotations), *others], strict=True):
            top, left, bottom, right = cells[number]
            cell = bottom - top, right - left
            size = self._draw_size(image_size(part), rng)
            canvas[:, top:bottom, left:right], seen = place(part, known, size, draw_corner(size, cell, rng), cell)
            parts.append(hide_points(place_annotations(seen, cell, cell, (top, left), frame), cell, (top, left)))
        return canvas, join_annotations(annotations, parts, frame)

    def _draw_size(self, size: Size, rng: np.random.Generator) -> Size:
        return scaled(size, draw_factor(self.scale, rng) * self.side / max(size))


@register
class MixUp(Joining):
    """The mean of two images, with the objects of both (arXiv 1710.09412, for detection arXiv 1902.04103).

    The other image is resized to fit into the first one, and lies at a random place.

    Args:
        alpha: of the Beta(alpha, alpha) from which the weight of the first image is drawn: the larger, the nearer to a
            half.
        probability: of a sample to be joined.
        until: the share of the training in which it is used.
    """

    def __init__(
        self,
        alpha: Annotated[float, Ge(0.01), Le(1000)] = 32.0,
        *,
        probability: Share = 0.15,
        until: PositiveShare = 0.8,
    ):
        super().__init__(probability=probability, until=until)
        self.alpha = alpha

    def __call__(
        self, image: Tensor, annotations: Annotations, rng: np.random.Generator, others: Sequence[Sample]
    ) -> Sample:
        ((other, known),) = others
        frame, size = image_size(image), image_size(other)
        size = scaled(size, min(f / s for f, s in zip(frame, size, strict=True)))
        size = min(size[0], frame[0]), min(size[1], frame[1])
        corner = draw_corner(size, frame, rng)
        placed, known = place(other, known, size, corner, frame)
        window = np.s_[:, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
        mixed = image.clone()
        weight = float(rng.beta(self.alpha, self.alpha))
        mixed[window] = torch.lerp(placed[window].float(), image[window].float(), weight).round_().to(image.dtype)
        return mixed, join_annotations(annotations, [annotations, hide_points(known, size, corner)], frame)
