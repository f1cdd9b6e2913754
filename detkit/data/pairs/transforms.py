"""Training transforms of image pairs: callables `transform(pair, annotations, rng) -> (pair, annotations)`.

Images are uint8 [3, h, w]. All randomness comes from `rng`. Points and boxes move exactly with the pixels. A point that
leaves one image is dropped from both, with its weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Len, MinLen
from torch import Tensor

from detkit.data.pairs.dataset import PairSample
from detkit.data.transforms import check_probability
from detkit.images import resize_image
from detkit.ops.points import points_inside
from detkit.registry import register
from detkit.registry.ranges import OneOf, Pixels, PositiveShare, Share
from detkit.structures import ImagePair, PairAnnotations

IMAGES = ("source", "target")
WhichImages = Annotated[Sequence[Annotated[str, OneOf(IMAGES)]], MinLen(1)]


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a pair, uint8 [3, h, w].

    Its points [n, 2] are x y, the box [4] of its object is x1 y1 x2 y2 or None, both in pixels.
    """

    image: Tensor
    points: Tensor
    box: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """The (h, w) of the image."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def object_box(self) -> Tensor | None:
        """The object's box [4], x1 y1 x2 y2 clipped to the image: `box`, else the box around the points, else None."""
        box = self.box
        if box is None and len(self.points):
            box = torch.cat([self.points.amin(0), self.points.amax(0)])
        return None if box is None else clip_box(box, self.size)


def clip_box(box: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of a box [4] (x1 y1 x2 y2 in pixels) that lies in an image of `size` (h, w)."""
    return box.clamp(min=0).minimum(box.new_tensor([size[1], size[0]] * 2))


def split_pair(pair: ImagePair, known: PairAnnotations) -> tuple[AnnotatedImage, AnnotatedImage]:
    """Source and target of a pair."""
    source = AnnotatedImage(pair.source, known.source_points, known.source_box)
    return source, AnnotatedImage(pair.target, known.target_points, known.target_box)


def join_pair(source: AnnotatedImage, target: AnnotatedImage, known: PairAnnotations) -> PairSample:
    """The pair of two changed images, with the points that lie inside of both (border included)."""
    keep = points_inside(source.points, source.size) & points_inside(target.points, target.size)
    moved = replace(
        known,
        source_points=source.points[keep],
        target_points=target.points[keep],
        source_box=source.box,
        target_box=target.box,
        weights=None if known.weights is None else known.weights[keep],
        source_size=source.size,
        target_size=target.size,
    )
    return ImagePair(source.image, target.image), moved


class PerImageTransform:
    """A transform that changes each image of a pair on its own; a subclass defines `change(annotated, rng)`.

    Args:
        images: which images to change, of "source" and "target".
    """

    def __init__(self, images: Sequence[str] = IMAGES):
        if isinstance(images, str) or not images or set(images) - set(IMAGES):
            raise ValueError(f'images must be a list of "source" and "target", got {images!r}')
        self.images = tuple(images)

    def change(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        """The changed image, with its points and its box moved along."""
        raise TypeError(f"{type(self).__name__} defines no change")

    def __call__(self, pair: ImagePair, annotations: PairAnnotations, rng: np.random.Generator) -> PairSample:
        both = zip(IMAGES, split_pair(pair, annotations), strict=True)
        source, target = (self.change(annotated, rng) if name in self.images else annotated for name, annotated in both)
        return join_pair(source, target, annotations)


@register
class RandomObjectCrop(PerImageTransform):
    """Crop an image at random such that the object stays whole (CATs, arXiv 2106.02520).

    Each edge of the crop is drawn between the edge of the object's box and that of the image. Without a box, the box
    around the points counts; without points either, nothing is cropped. Points outside of the crop are dropped (the
    authors' code moves them to its edge).

    Args:
        probability: for each image.
        images: see `PerImageTransform`.
    """

    def __init__(
        self,
        probability: Share = 0.5,
        *,
        images: WhichImages = IMAGES,
    ):
        super().__init__(images)
        self.probability = check_probability("probability", probability)

    def change(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        """The image, with `probability` cropped; without box and points it stays as it is."""
        box = annotated.object_box()
        if rng.random() >= self.probability or box is None:
            return annotated
        height, width = annotated.size
        x1, x2 = _draw_edges(float(box[0]), float(box[2]), width, rng)
        y1, y2 = _draw_edges(float(box[1]), float(box[3]), height, rng)
        offset = box.new_tensor([x1, y1])
        moved = None if annotated.box is None else clip_box(annotated.box - offset.repeat(2), (y2 - y1, x2 - x1))
        return AnnotatedImage(annotated.image[:, y1:y2, x1:x2].contiguous(), annotated.points - offset, moved)


def _draw_edges(low: float, high: float, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """First pixel and end (one past the last) of a crop along an axis of `side` pixels that holds `low` to `high`; at
    least one pixel."""
    first = min(int(low), side - 1)
    return int(rng.integers(first + 1)), int(rng.integers(max(math.ceil(high), first + 1), side + 1))


@register
class KeyOut(PerImageTransform):
    """Hide key-points under black squares (SemiMatch, arXiv 2203.16038).

    Args:
        probability: for each key-point.
        size: smallest and largest side of a square, relative to the longer side of the object's box (or of the box
            around the points).
        images: see `PerImageTransform`; SemiMatch covers points of the target.
    """

    def __init__(
        self,
        probability: Share = 0.2,
        *,
        size: Annotated[Sequence[PositiveShare], Len(2, 2)] = (0.03, 0.1),
        images: WhichImages = ("target",),
    ):
        super().__init__(images)
        if len(size) != 2 or not 0 < size[0] <= size[1]:
            raise ValueError(f"size must be two numbers above 0 in order, got {size!r}")
        self.probability, self.size = check_probability("probability", probability), (size[0], size[1])

    def change(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        """The image with black squares over its key-points, each with `probability`; points and box stay."""
        box = annotated.object_box()
        if box is None:
            return annotated
        longer, image = float((box[2:] - box[:2]).max()), annotated.image.clone()
        for point in annotated.points:
            if rng.random() >= self.probability:
                continue
            half = longer * rng.uniform(self.size[0], self.size[1]) / 2
            (x1, y1), (x2, y2) = (bound.round().int().clamp(min=0).tolist() for bound in (point - half, point + half))
            image[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 0
        return replace(annotated, image=image)


@register
class RandomPairFlip:
    """Mirror both images of a pair left and right; x becomes width - x.

    Both are mirrored, so the points correspond as before and left and right key-points need not be exchanged.

    Args:
        probability: 0 to 1.
    """

    def __init__(self, probability: Share = 0.5):
        self.probability = check_probability("probability", probability)

    def __call__(self, pair: ImagePair, annotations: PairAnnotations, rng: np.random.Generator) -> PairSample:
        if rng.random() >= self.probability:
            return pair, annotations
        source, target = (mirror(annotated) for annotated in split_pair(pair, annotations))
        return join_pair(source, target, annotations)


def mirror(annotated: AnnotatedImage) -> AnnotatedImage:
    """The image mirrored left to right with its points and its box; x becomes width - x."""
    width = annotated.size[1]
    points = torch.stack([width - annotated.points[:, 0], annotated.points[:, 1]], dim=1)
    box = annotated.box
    if box is not None:
        box = torch.stack([width - box[2], box[1], width - box[0], box[3]])
    return AnnotatedImage(annotated.image.flip(2), points, box)


@register
class PairSwap:
    """Exchange source and target at random.

    Args:
        probability: 0 to 1.
    """

    def __init__(self, probability: Share = 0.5):
        self.probability = check_probability("probability", probability)

    def __call__(self, pair: ImagePair, annotations: PairAnnotations, rng: np.random.Generator) -> PairSample:
        if rng.random() >= self.probability:
            return pair, annotations
        return ImagePair(pair.target, pair.source), annotations.swap()


@register
class PairResize(PerImageTransform):
    """Stretch both images to a square, as matchers do; done in the data workers, which then pass on smaller images.

    Args:
        side: of the square in pixels.
    """

    def __init__(self, side: Pixels):
        super().__init__()
        if side < 1:
            raise ValueError(f"side must be a number of pixels, got {side!r}")
        self.side = side

    def change(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        """The image stretched to `side` x `side` pixels, with its points and its box."""
        scale = annotated.points.new_tensor([self.side / annotated.size[1], self.side / annotated.size[0]])
        box = None if annotated.box is None else annotated.box * scale.repeat(2)
        return AnnotatedImage(resize_image(annotated.image, (self.side, self.side)), annotated.points * scale, box)
