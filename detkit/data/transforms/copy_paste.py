"""Objects of other images pasted into an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detkit.data.transforms.basic import Sample, nearest_pixels
from detkit.data.transforms.jitter import check_scale, draw_factor
from detkit.data.transforms.joining import Joining
from detkit.data.transforms.placing import Size, scaled
from detkit.images import image_size, resize_image
from detkit.ops.masks import MaskCrops
from detkit.registry import register
from detkit.registry.ranges import Objects, PositiveShare, Scale, Share
from detkit.structures import Annotations

TRIES = 8  # to find a place for an object


@register
class CopyPaste(Joining):
    """Paste objects of another image (Simple Copy-Paste, arXiv 2012.07177).

    With masks only the pixels of an object are pasted, without masks those of its whole box. A pasted object lies at a
    random place at which every other object keeps enough of itself in view, and its point. Where no such place is found
    it is left out. Masks lose what is hidden; their boxes are those of the rest. Boxes without masks stay.

    Args:
        objects: the fewest and the most objects to paste.
        scale: smallest and largest factor of their size.
        min_visible: the share of an object that is never hidden.
        probability: of a sample to be changed.
        until: the share of the training in which it is used.

    Raises:
        ValueError: the numbers of objects or the factors do not ascend.
    """

    def __init__(
        self,
        objects: tuple[Objects, Objects] = (1, 5),
        *,
        scale: tuple[Scale, Scale] = (0.5, 1.5),
        min_visible: PositiveShare = 0.5,
        probability: Share = 0.5,
        until: PositiveShare = 0.8,
    ):
        super().__init__(probability=probability, until=until)
        if len(objects) != 2 or not 1 <= objects[0] <= objects[1]:
            raise ValueError(f"objects must be two ascending numbers above 0, got {objects}")
        self.objects, self.scale, self.min_visible = (objects[0], objects[1]), check_scale(scale), min_visible

    def __call__(
        self, image: Tensor, annotations: Annotations, rng: np.random.Generator, others: Sequence[Sample]
    ) -> Sample:
        ((other, known),) = others
        scene = _Scene(image, annotations, self.min_visible)
        wanted = int(rng.integers(self.objects[0], self.objects[1] + 1))
        regions = list(object_regions(known, image_size(other)).regions())
        for number in rng.permutation(len(known))[:wanted].tolist():
            scene.paste(_cut_out(other, known, number, regions[number], draw_factor(self.scale, rng)), rng)
        return scene.result()


@dataclass
class _Piece:
    """An object that was cut out: its pixels, and its box and point from their top left corner."""

    pixels: Tensor
    mask: np.ndarray
    box: Tensor
    label: Tensor
    point: Tensor | None


class _Scene:
    """An image into which objects are pasted."""

    def __init__(self, image: Tensor, annotations: Annotations, min_visible: float):
        self.image, self.before, self.min_visible = image.clone(), annotations, min_visible
        crops = object_regions(annotations, image_size(image))
        self.regions = [(top, left, pixels.numpy().copy()) for top, left, pixels in crops.regions()]
        self.boxes, self.labels = list(annotations.boxes), list(annotations.labels)
        self.points = None if annotations.points is None else list(annotations.points)
        self.full = [int(pixels.sum()) for *_, pixels in self.regions]
        self.hidden: set[int] = set()

    def paste(self, piece: _Piece, rng: np.random.Generator) -> None:
        """Put an object where it hides too much of none, if such a place is found."""
        (height, width), (full_height, full_width) = piece.mask.shape, image_size(self.image)
        if height > full_height or width > full_width or not piece.mask.any():
            return
        for _ in range(TRIES):
            y, x = int(rng.integers(full_height - height + 1)), int(rng.integers(full_width - width + 1))
            if not self._hides_too_much(y, x, piece.mask):
                return self._add(y, x, piece)

    def _hides_too_much(self, y: int, x: int, mask: np.ndarray) -> bool:
        for number in self._touched(y, x, mask.shape):
            own, other = _common(self.regions[number], (y, x, mask))
            left = self.regions[number][2].sum() - (own & other).sum()
            if left < self.min_visible * self.full[number]:
                return True
        return any(_holds(mask, round(float(p[1])) - y, round(float(p[0])) - x) for p in self.points or ())

    def _touched(self, y: int, x: int, size: Size) -> list[int]:
        """The objects whose rectangle meets that of something of `size` at (y, x)."""
        corners = np.array([(top, left, *pixels.shape) for top, left, pixels in self.regions]).reshape(-1, 4)
        meets = (corners[:, 0] < y + size[0]) & (corners[:, 0] + corners[:, 2] > y)
        meets &= (corners[:, 1] < x + size[1]) & (corners[:, 1] + corners[:, 3] > x)
        return np.flatnonzero(meets).tolist()

    def _add(self, y: int, x: int, piece: _Piece) -> None:
        for number in self._touched(y, x, piece.mask.shape):
            own, other = _common(self.regions[number], (y, x, piece.mask))
            if (own & other).any():
                self.hidden.add(number)
                own &= ~other
        window = self.image[:, y : y + piece.mask.shape[0], x : x + piece.mask.shape[1]]
        window.copy_(torch.where(torch.from_numpy(piece.mask), piece.pixels, window))
        self.regions.append((y, x, piece.mask.copy()))
        self.full.append(int(piece.mask.sum()))
        shift = piece.box.new_tensor([x, y])
        self.boxes.append(piece.box + shift.repeat(2))
        self.labels.append(piece.label)
        if self.points is not None and piece.point is not None:
            self.points.append(piece.point + shift)

    def result(self) -> Sample:
        """The image, with its own and the pasted objects."""
        masks = None
        if self.before.stored_masks is not None:
            masks = MaskCrops.of_regions(self.regions, image_size(self.image))
            rest = masks.boxes()
            for number in self.hidden:
                self.boxes[number] = rest[number]
        joined = replace(
            self.before,
            boxes=torch.stack(self.boxes) if self.boxes else self.before.boxes,
            labels=torch.stack(self.labels) if self.labels else self.before.labels,
            masks=masks,
            points=torch.stack(self.points) if self.points else self.before.points,
        )
        return self.image, joined


def object_regions(annotations: Annotations, size: Size) -> MaskCrops:
    """The masks; without masks the boxes as masks, to whole pixels."""
    if annotations.mask_crops is not None:
        return annotations.mask_crops
    low, high = annotations.boxes.split(2, dim=1)
    limit = low.new_tensor([size[1], size[0]])
    low, high = low.floor().clamp(min=0).minimum(limit).int(), high.ceil().clamp(min=0).minimum(limit).int()
    boxes = torch.cat([low, high], dim=1).tolist()
    filled = ((y1, x1, np.ones((max(0, y2 - y1), max(0, x2 - x1)), bool)) for x1, y1, x2, y2 in boxes)
    return MaskCrops.of_regions(filled, size)


def _cut_out(
    image: Tensor, annotations: Annotations, number: int, region: tuple[int, int, Tensor], factor: float
) -> _Piece:
    """An object of an image, resized by a factor."""
    top, left, mask = region
    old = mask.shape[0], mask.shape[1]
    new = scaled(old, factor) if mask.numel() else old
    corner = annotations.boxes.new_tensor([left, top])
    scale = corner.new_tensor([new[1] / max(1, old[1]), new[0] / max(1, old[0])])
    pixels = image[:, top : top + old[0], left : left + old[1]]
    seen = np.ix_(*map(nearest_pixels, old, new)) if mask.numel() else np.s_[:, :]
    point = None if annotations.points is None else (annotations.points[number] - corner + 0.5) * scale - 0.5
    box = (annotations.boxes[number] - corner.repeat(2)) * scale.repeat(2)
    whole = corner.new_tensor([new[1], new[0]])
    box = torch.cat([box[:2].clamp(min=0), box[2:].minimum(whole)])
    resized = resize_image(pixels, new) if mask.numel() else pixels
    return _Piece(resized, mask.numpy()[seen], box, annotations.labels[number], point)


def _common(first: tuple[int, int, np.ndarray], second: tuple[int, int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The parts of two regions that lie on each other, as views."""
    top, left = max(first[0], second[0]), max(first[1], second[1])
    bottom, right = (min(first[axis] + first[2].shape[axis], second[axis] + second[2].shape[axis]) for axis in (0, 1))
    own, other = (
        pixels[max(0, top - y) : max(0, bottom - y), max(0, left - x) : max(0, right - x)]
        for y, x, pixels in (first, second)
    )
    return own, other


def _holds(mask: np.ndarray, y: int, x: int) -> bool:
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])
