"""What datasets of image pairs with common key-points share: samples are `(ImagePair, PairAnnotations)`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from detkit.data.sampling import SampleKeys
from detkit.data.views import EvaluationView, TrainingView
from detkit.images import image_size, read_frame, read_image
from detkit.ops.orientation import Turn
from detkit.ops.points import describe_outside, points_inside
from detkit.registry.ranges import OneOf, OptionsOf, PositiveInt, Seed
from detkit.structures import ImagePair, LabelMap, PairAnnotations, PairBatch
from detkit.structures.protocols import Keys, SampleBatch, View

logger = logging.getLogger(__name__)

PairSample = tuple[ImagePair, PairAnnotations]
DIRECTIONS = ("source_to_target", "target_to_source")


@dataclass(frozen=True)
class Side:
    """One image of a pair, with what is known of it in pixels.

    Attributes:
        file: where it comes from.
        points: [n, 2], x y of the common points.
        box: [4], x1 y1 x2 y2 of the object, or None.
        size: its (h, w) as the annotations state it, or None.
        mirrored: the image is to be turned left to right; points and box are those of the turned image.
    """

    file: Path
    points: np.ndarray
    box: np.ndarray | None
    size: tuple[int, int] | None = None
    mirrored: bool = False

    def __post_init__(self):
        if self.points.ndim != 2 or self.points.shape[1] != 2:
            raise ValueError(f"{self.file}: points have shape {self.points.shape}, expected [n, 2]")
        if self.box is not None and self.box.shape != (4,):
            raise ValueError(f"{self.file}: a box has 4 numbers, got {self.box.tolist()}")


def upright_side(side: Side) -> tuple[Side, str | None]:
    """A side in pixels of its upright picture, and why that is in doubt, if it is.

    Its points and box are turned where the size in the annotations is that of the pixels as stored.
    """
    if not side.file.is_file():  # made by a program, or missing, which `read_side` reports
        return side, None
    frame = read_frame(side.file)
    if side.size is None:
        without = f"EXIF orientation {frame.orientation}: its annotations are taken for the upright picture"
        return side, f"{side.file} has {without}" if frame.orientation > 1 else None
    if not (turn := Turn.of(frame, side.size)):
        doubt = frame.doubt()
        return side, f"{side.file}: {doubt}" if doubt else None
    box = side.box if side.box is None else turn.boxes(side.box[None])[0]
    return replace(side, points=turn.corners(side.points), box=box, size=turn.size), None


def read_side(side: Side) -> Tensor:
    """The upright image of a side from its file, uint8 [3, h, w].

    Raises:
        ValueError: it cannot be read, or has another size than its annotations say.
    """
    image = read_image(side.file)
    if side.size is not None and tuple(image.shape[1:]) != tuple(side.size):
        raise ValueError(
            f"{side.file} has {image.shape[2]} x {image.shape[1]} pixels, its annotations are for {side.size[1]} x "
            f"{side.size[0]}"
        )
    return image.flip(2) if side.mirrored else image


class PairEvaluationView(EvaluationView):
    """Pairs by index with both images resized, and with annotations in pixels of the images in full size."""

    def resized(self, image: ImagePair, annotations: PairAnnotations) -> PairSample:
        """Both images resized; the annotations stay in pixels of the images in full size."""
        return ImagePair(self.resize(image.source), self.resize(image.target)), annotations


class PairSamples:
    """Base of datasets of pairs: the parts of `detkit.structures.protocols.Dataset` that all have alike.

    A subclass has `label_map`, `image_ids`, `__len__` and `__getitem__`, which gives `(ImagePair, PairAnnotations)`.
    """

    training_view: Callable[..., View] = TrainingView
    evaluation_view: Callable[..., View] = PairEvaluationView
    sample_keys: Callable[..., Keys] = SampleKeys
    collate: Callable[..., SampleBatch] = staticmethod(PairBatch.collate)

    @property
    def max_objects_per_image(self) -> int | None:
        """The largest number of objects in a sample, or of points in a pair; None where it is not known."""
        return None


class PairDataset(PairSamples, ABC):
    """Pairs of image files with common points; a subclass gives `sides(index)`.

    Points outside of their image do not count, and boxes whose corners are exchanged are put right, both with a
    warning when the pair is read.

    Args:
        label_map: the classes of the pairs.
        labels: class of each pair, contiguous from 0; None for a pair to leave out.
        direction: "source_to_target", the standard, or "target_to_source", which exchanges the images: so the CATs
            family is evaluated.
        limit: number of pairs to keep, drawn at random, in their order; None keeps all.
        seed: of the draw of `limit` pairs.
    """

    def __init__(
        self,
        label_map: LabelMap,
        labels: Sequence[int | None],
        *,
        direction: Annotated[str, OneOf(DIRECTIONS)] = "source_to_target",
        limit: PositiveInt | None = None,
        seed: Seed = 0,
    ):
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
        known = {number: label for number, label in enumerate(labels) if label is not None}
        if limit is not None and not 1 <= limit <= len(known):
            raise ValueError(f"limit must lie in 1..{len(known)}, the number of pairs, got {limit}")
        kept = np.random.default_rng(seed).permutation(len(known))[:limit]
        self.label_map, self.direction = label_map, direction
        self.image_ids: list[int] = np.array([*known])[np.sort(kept)].tolist()
        self.labels = [int(known[i]) for i in self.image_ids]
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.image_ids)

    @abstractmethod
    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target of a pair, by its number in the whole list; the points of both are in the same order."""

    def read(self, side: Side) -> Tensor:
        """The image of a side, uint8 [3, h, w]; see `read_side`."""
        return read_side(side)

    def __getitem__(self, index: int) -> PairSample:
        """The two images and what they have in common; a pair's id is its number in the whole list.

        Raises:
            ValueError: an image cannot be read, or the two have different numbers of points.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        pair = self.image_ids[index]
        sides, doubts = zip(*map(upright_side, self.sides(pair)), strict=True)
        if len(sides[0].points) != len(sides[1].points):
            counts = " and ".join(f"{len(side.points)} in {side.file}" for side in sides)
            raise ValueError(f"pair {pair} has different numbers of points, {counts}")
        images = [self.read(side) for side in sides]
        sizes = [image_size(image) for image in images]
        cleaned = [clean_side(side, size) for side, size in zip(sides, sizes, strict=True)]
        problems = [problem for _, _, of_side in cleaned for problem in of_side]
        problems += [doubt for doubt in doubts if doubt]
        if problems and pair not in self._reported:
            self._reported.add(pair)
            logger.warning("pair %d: %s", pair, "; ".join(problems))
        inside = cleaned[0][0] & cleaned[1][0]
        source_points, target_points = (torch.from_numpy(side.points[inside]).float() for side in sides)
        source_box, target_box = (box if box is None else torch.from_numpy(box).float() for _, box, _ in cleaned)
        annotations = PairAnnotations(
            source_points,
            target_points,
            source_box,
            target_box,
            label=self.labels[index],
            pair_id=pair,
            source_size=sizes[0],
            target_size=sizes[1],
            name=" -> ".join(side.file.name for side in sides),
        )
        if self.direction == "target_to_source":
            return ImagePair(images[1], images[0]), annotations.swap()
        return ImagePair(*images), annotations


# Arguments that a subclass passes on, `**options: PairOptions`; they are checked with its own.
PairOptions = Annotated[Any, OptionsOf(PairDataset)]


def clean_side(side: Side, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Check one image of a pair against its (h, w).

    Returns:
        Which points lie inside (on the border counts), the box with its corners in order or None where it is empty,
        and what was wrong.
    """
    inside = points_inside(side.points, size)
    problems = []
    if not inside.all():
        problems.append(f"{side.file}: {describe_outside(side.points, size)}; they do not count")
    if side.box is None:
        return inside, None, problems
    low, high = np.minimum(side.box[:2], side.box[2:]), np.maximum(side.box[:2], side.box[2:])
    if (side.box[2:] < side.box[:2]).any():
        problems.append(f"the box {side.box.tolist()} of {side.file} has its corners exchanged; they are put right")
    if not (high > low).all():  # NaN too
        problems.append(f"the box {side.box.tolist()} of {side.file} is empty and does not count")
        return inside, None, problems
    return inside, np.concatenate([low, high]), problems
