"""Scenes of simple shapes, drawn on the fly: the dataset that needs no download."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from detkit.data.base import ImageDataset
from detkit.data.drawing import SHAPES, paint
from detkit.ops.masks import MaskCrops
from detkit.registry import register
from detkit.registry.ranges import PictureSide, PositiveInt, PositiveShare, Seed
from detkit.structures import Annotations, LabelMap


def _draw_color(rng: np.random.Generator, avoid: np.ndarray, min_distance: float = 130) -> np.ndarray:
    """A random color [3] whose channels differ from those of `avoid` by at least `min_distance` in sum."""
    while True:
        color = rng.random(3, dtype=np.float32) * 255
        if float(np.abs(color - avoid).sum()) >= min_distance:
            return color


def _outline(rng: np.random.Generator, label: int, diameter: float) -> np.ndarray:
    """Distance in pixels to the outline of a randomly turned shape (negative inside), on a patch [n, n] around it."""
    radius, n = diameter / 2, math.ceil(diameter) + 2
    offset_x, offset_y, turn = rng.random(3).tolist()
    steps = np.arange(n, dtype=np.float32) - (n - 1) / 2
    x, y = (steps + (offset_x - 0.5)) / radius, (steps[:, None] + (offset_y - 0.5)) / radius
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    shape = tuple(SHAPES.values())[label]
    return shape(cos * x + sin * y, cos * y - sin * x) * radius


def _blend(canvas: np.ndarray, color: np.ndarray, coverage: np.ndarray) -> None:
    """Draw `color` over `canvas` [3, h, w] in place, as far as `coverage` [h, w] in 0..1 says."""
    canvas += (color - canvas) * coverage


class _Scene:
    """A picture under construction; `owner` [h, w] holds the 1-based number of the object seen at each pixel."""

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        self.rng, self.height, self.width = rng, height, width
        self.background = 30 + rng.random(3, dtype=np.float32) * 195
        self.canvas = paint(rng, height, width, self.background, contrast=60)
        self.owner = np.zeros((height, width), np.uint8)
        self.labels: list[int] = []
        self.full_areas: list[int] = []
        self.visible_areas: list[int] = []

    def add(self, label: int, diameter: float, min_visible: float, tries: int = 8) -> bool:
        """Draw one object where every earlier one stays visible enough; False where no such place was found."""
        distance = _outline(self.rng, label, diameter)
        inside = distance <= 0
        n = len(distance)
        for _ in range(tries):
            x, y = int(self.rng.random() * (self.width - n + 1)), int(self.rng.random() * (self.height - n + 1))
            window = np.s_[y : y + n, x : x + n]
            covered = np.bincount(self.owner[window][inside], minlength=len(self.labels) + 1).tolist()
            left = [visible - lost for visible, lost in zip(self.visible_areas, covered[1:], strict=True)]
            if all(visible >= min_visible * full for visible, full in zip(left, self.full_areas, strict=True)):
                break
        else:
            return False
        self.labels.append(label)
        self.owner[window][inside] = len(self.labels)
        area = int(sum(covered))
        self.visible_areas = [*left, area]
        self.full_areas.append(area)
        self._draw(window, distance)
        return True

    def _draw(self, window: tuple[slice, slice], distance: np.ndarray) -> None:
        rng, canvas, n = self.rng, self.canvas[:, window[0], window[1]], len(distance)
        coverage = np.clip(0.5 - distance, 0, 1)
        if rng.random() < 0.5:
            shift = 1 + int(rng.random() * 3)
            canvas[:, shift:, shift:] *= 1 - 0.5 * coverage[: n - shift, : n - shift]
        color = paint(rng, n, n, _draw_color(rng, self.background), contrast=110)
        if rng.random() < 0.5:
            color *= 1 - 0.5 * np.clip(2 + distance, 0, 1)
        _blend(canvas, color, coverage)

    def image(self) -> np.ndarray:
        return np.clip(self.canvas, 0, 255).astype(np.uint8)

    def masks(self) -> MaskCrops:
        """The pixels that are seen of each object."""
        return MaskCrops.of_masks((self.owner == i + 1 for i in range(len(self.labels))), self.owner.shape)


@register
class SyntheticScenes(ImageDataset):
    """Pictures of overlapping shapes (disk, square, triangle, star, ring, cross), rendered on the fly.

    Size, rotation, color and texture vary, the background is textured, later objects hide parts of earlier ones.
    Scene `i` depends on `seed`, `i` and the options only. Use another seed for validation.

    Masks are the visible pixels, boxes are tight around them. Objects are placed so that each keeps at least
    `min_visible` of its area in view; every object in a picture is annotated.

    Args:
        length: number of scenes.
        seed: which scenes.
        size: side of the square image in pixels, or (height, width); at least 32.
        min_objects, max_objects: bounds of the number of objects, 1..255; a scene has fewer where no room is left.
        object_size: smallest and largest diameter as parts of the image's shorter side; at least 3 pixels.
        min_visible: part of every object that is never hidden, 0..1.
        masks: whether annotations carry instance masks.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        length: PositiveInt,
        *,
        seed: Seed = 0,
        size: PictureSide | tuple[PictureSide, PictureSide] = 128,
        min_objects: Annotated[int, Ge(1), Le(255)] = 1,
        max_objects: Annotated[int, Ge(1), Le(255)] = 5,
        object_size: tuple[Annotated[float, Ge(0.01), Le(0.9)], Annotated[float, Ge(0.01), Le(0.9)]] = (0.15, 0.55),
        min_visible: PositiveShare = 0.3,
        masks: bool = True,
    ):
        height, width = (size, size) if isinstance(size, int) else size
        if length < 1 or min(height, width) < 32:
            raise ValueError(f"length must be at least 1 and size at least 32, got length {length} and size {size}")
        if not 1 <= min_objects <= max_objects <= 255:
            raise ValueError(f"need 1 <= min_objects <= max_objects <= 255, got {min_objects} and {max_objects}")
        if not 0.01 <= object_size[0] <= object_size[1] <= 0.9 or object_size[0] * min(height, width) < 3:
            limits = f"two ascending numbers in 0.01..0.9, the first at least 3 pixels of {min(height, width)}"
            raise ValueError(f"object_size must be {limits}, got {object_size}")
        if not 0 < min_visible <= 1:
            raise ValueError(f"min_visible must lie in 0..1 and not be 0, got {min_visible}")
        self.length, self.seed, self.height, self.width = length, seed, height, width
        self.min_objects, self.max_objects = min_objects, max_objects
        self.object_size, self.min_visible, self.with_masks = tuple(object_size), min_visible, masks
        self.label_map = LabelMap(tuple(SHAPES), tuple(range(1, len(SHAPES) + 1)))
        self.image_ids = list(range(1, length + 1))
        self.sizes = np.tile(np.array([height, width]), (length, 1))

    @property
    def max_objects_per_image(self) -> int:
        """The most objects that a scene may have."""
        return self.max_objects

    def __len__(self) -> int:
        return self.length

    def _render(self, index: int) -> _Scene:
        rng = np.random.default_rng((self.seed, index))
        scene = _Scene(rng, self.height, self.width)
        wanted = int(rng.integers(self.min_objects, self.max_objects + 1))
        smallest, largest = (part * min(self.height, self.width) for part in self.object_size)
        for _ in range(3 * wanted):
            if len(scene.labels) == wanted:
                break
            diameter = smallest + (largest - smallest) * rng.random()
            scene.add(int(rng.random() * len(SHAPES)), diameter, self.min_visible)
        return scene

    def __getitem__(self, index: int) -> tuple[Tensor, Annotations]:
        """The image uint8 [3, h, w] and its annotations."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        scene = self._render(index)
        masks = scene.masks()
        annotations = Annotations(
            boxes=masks.boxes(),
            labels=torch.tensor(scene.labels),
            masks=masks if self.with_masks else None,
            image_id=self.image_ids[index],
            original_size=(self.height, self.width),
            file_name=f"synthetic scene {index} of seed {self.seed}",
        )
        return torch.from_numpy(scene.image()), annotations

    def coco(self) -> dict:
        """The ground truth of all scenes as a COCO dictionary, with compressed RLE where masks are on."""
        images: list[dict] = []
        annotations: list[dict] = []
        for index, image_id in enumerate(self.image_ids):
            images.append({"id": image_id, "height": self.height, "width": self.width})
            for annotation in self._coco_annotations(index):
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
        categories = [
            {"id": i, "name": name} for i, name in zip(self.label_map.category_ids, self.label_map.names, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _coco_annotations(self, index: int) -> list[dict]:
        scene = self._render(index)
        masks = scene.masks()
        boxes = masks.boxes()
        boxes[:, 2:] -= boxes[:, :2]
        annotations = [
            {"category_id": self.label_map.category_ids[label], "bbox": box, "area": area, "iscrowd": 0}
            for label, box, area in zip(scene.labels, boxes.tolist(), scene.visible_areas, strict=True)
        ]
        if self.with_masks:
            for annotation, rle in zip(annotations, masks.encode(), strict=True):
                annotation["segmentation"] = rle
        return annotations
