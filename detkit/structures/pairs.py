"""The data types of image pairs: pairs, their points, and matches.

Shape letters: b pairs, n points, h/w pixels or cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from detkit.structures.images import ImageBatch
from detkit.structures.tensors import TensorStruct


@dataclass
class ImagePair:
    """Two images of one class, `source` and `target`: uint8 `[3, h, w]`, each of its own size."""

    source: Tensor
    target: Tensor


@dataclass
class PairAnnotations(TensorStruct):
    """What is known about an image pair: the points that both images show, in the same order.

    Attributes:
        source_points, target_points: [n, 2] float, x y in pixels of the (resized, unpadded) image.
        source_box, target_box: [4] float, x1 y1 x2 y2 of the object in the same pixels, or None.
        label: class of the object, contiguous from 0.
        weights: [n] float, how far each point is trusted, 0..1; None trusts all.
        pair_id: the id in the dataset's file, or None.
        source_size, target_size: (h, w) of the upright images, or None when they were never resized.
        name: which pair this is, for error messages.
    """

    source_points: Tensor
    target_points: Tensor
    source_box: Tensor | None = None
    target_box: Tensor | None = None
    label: int = 0
    weights: Tensor | None = None
    pair_id: int | None = None
    source_size: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    name: str | None = None

    def __post_init__(self):
        if self.source_points.ndim != 2 or self.source_points.shape[1] != 2:
            raise ValueError(f"source points have shape {tuple(self.source_points.shape)}, expected [n, 2]")
        if self.source_points.shape != self.target_points.shape:
            raise ValueError(f"{len(self.source_points)} source points but {len(self.target_points)} target points")
        if self.weights is not None and len(self.weights) != len(self):
            raise ValueError(f"{len(self)} points but {len(self.weights)} weights")

    def __len__(self) -> int:
        return len(self.source_points)

    @property
    def image_id(self) -> int | None:
        """The pair's id, under the name that annotations of single images have."""
        return self.pair_id

    def swap(self) -> PairAnnotations:
        """The same with source and target exchanged."""
        return PairAnnotations(
            self.target_points,
            self.source_points,
            self.target_box,
            self.source_box,
            self.label,
            self.weights,
            self.pair_id,
            self.target_size,
            self.source_size,
            self.name,
        )


@dataclass
class PairBatch(TensorStruct):
    """What a training or evaluation step of a matcher receives.

    Attributes:
        source, target: the padded, not yet normalised images.
        annotations: one per pair.
        num_objects: what the loss divides by, in all; see `Batch` and `Matcher.count_objects`.
    """

    source: ImageBatch
    target: ImageBatch
    annotations: list[PairAnnotations]
    num_objects: Tensor | None = None

    @classmethod
    def collate(cls, samples: Sequence[tuple[ImagePair, PairAnnotations]]) -> PairBatch:
        """Make a batch of samples."""
        pairs, annotations = zip(*samples, strict=True)
        source = ImageBatch.from_images([pair.source for pair in pairs])
        return cls(source, ImageBatch.from_images([pair.target for pair in pairs]), list(annotations))

    def __len__(self) -> int:
        return len(self.annotations)

    def count_objects(self) -> int:
        """The number of points."""
        return sum(len(a) for a in self.annotations)


@dataclass
class Flow(TensorStruct):
    """For each cell of a grid over one image, where the same thing is in the other image.

    Attributes:
        vectors: [b, 2, h, w] float, x y in cells: the place in the other image minus the own place.
        weights: [b, h, w] float in 0..1: the confidence of a prediction or the trust in a label; 0 where unknown.
    """

    vectors: Tensor
    weights: Tensor


@dataclass
class Matches(TensorStruct):
    """Where points of one image are in another: `points` [n, 2], x y in its pixels, `confidence` [n] in 0..1."""

    points: Tensor
    confidence: Tensor

    def __len__(self) -> int:
        return len(self.points)
