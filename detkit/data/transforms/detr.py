"""The training augmentation of DETR and ViDT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Annotated

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from detkit.data.transforms.basic import Sample, check_probability, drop_empty_masks
from detkit.data.transforms.library import import_albumentations
from detkit.images import check_multiple, check_shape, image_size, resized_size
from detkit.registry import register
from detkit.registry.ranges import Pixels, Share
from detkit.structures import Annotations

UNLIMITED = 1 << 30


@register
class DetrAugment:
    """The training augmentation of DETR and ViDT: random flip, random crop, random size. Needs albumentations.

    Half of the images are resized to a random size. The others are first resized so that the shortest side is one of
    `crop_resize` and cropped at random: each side of the crop is drawn uniformly from `crop_size`, at most the side of
    the image. Every resize rounds both sides down to a multiple of `multiple`.

    Args:
        shortest: the sizes to draw the shortest side from, in pixels.
        longest: the longest side is never above this.
        multiple: sides of the result are multiples of it.
        crop_probability, flip_probability: how often to crop and to flip.
        crop_resize: the shortest sides to draw from before a crop.
        crop_size: smallest and largest side of a crop.

    Raises:
        ValueError: an option is out of range.
        ImportError: albumentations is not installed.
    """

    def __init__(
        self,
        shortest: Annotated[Sequence[Pixels], MinLen(1)] = tuple(range(480, 801, 16)),
        longest: Pixels = 1333,
        multiple: Pixels = 16,
        crop_probability: Share = 0.5,
        flip_probability: Share = 0.5,
        crop_resize: Annotated[Sequence[Pixels], MinLen(1)] = (400, 500, 600),
        crop_size: tuple[Pixels, Pixels] = (384, 600),
    ):
        if not shortest or not crop_resize or min(*shortest, *crop_resize) < multiple:
            raise ValueError(f"shortest and crop_resize must hold sizes of at least multiple={multiple} pixels")
        check_multiple(min(shortest), longest, multiple)
        if len(crop_size) != 2 or not 1 <= crop_size[0] <= crop_size[1]:
            raise ValueError(f"crop_size must be two ascending numbers of pixels, got {crop_size}")
        self.crop_probability = check_probability("crop_probability", crop_probability)
        self.flip_probability = check_probability("flip_probability", flip_probability)
        self.shortest, self.longest, self.multiple = tuple(shortest), longest, multiple
        self.crop_resize, self.crop_size = tuple(crop_resize), tuple(crop_size)
        _albumentations()

    def __call__(self, image: Tensor, annotations: Annotations, rng: np.random.Generator) -> Sample:
        check_shape(image_size(image), self.longest, self.multiple)
        plan = self._draw_plan(image_size(image), rng)
        targets = {"bboxes": annotations.boxes.numpy(), "index": np.arange(len(annotations))}
        result = plan.compose()(image=np.ascontiguousarray(image.permute(1, 2, 0).numpy()), **targets)
        image = torch.from_numpy(np.ascontiguousarray(result["image"].transpose(2, 0, 1)))
        keep = torch.as_tensor(np.asarray(result["index"], dtype=np.int64))
        masks, points = annotations.mask_crops, annotations.points
        moved = replace(
            annotations,
            boxes=torch.as_tensor(np.asarray(result["bboxes"], dtype=np.float32)).reshape(-1, 4),
            labels=annotations.labels[keep],
            masks=None if masks is None else masks[keep].resampled(plan.rows, plan.columns),
            points=None if points is None else plan.move_points(points[keep]),
        )
        return image, moved if masks is None else drop_empty_masks(moved)

    def _draw_plan(self, size: tuple[int, int], rng: np.random.Generator) -> _Plan:
        plan = _Plan(size)
        if rng.random() < self.flip_probability:
            plan.flip()
        if rng.random() < self.crop_probability:
            plan.resize(resized_size(plan.size, int(rng.choice(self.crop_resize)), UNLIMITED, self.multiple))
            self._draw_crop(plan, rng)
        plan.resize(resized_size(plan.size, int(rng.choice(self.shortest)), self.longest, self.multiple))
        return plan

    def _draw_crop(self, plan: _Plan, rng: np.random.Generator) -> None:
        (full_height, full_width), (smallest, largest) = plan.size, self.crop_size
        width = int(rng.integers(min(smallest, full_width), min(largest, full_width) + 1))
        height = int(rng.integers(min(smallest, full_height), min(largest, full_height) + 1))
        x, y = int(rng.integers(full_width - width + 1)), int(rng.integers(full_height - height + 1))
        plan.crop(x, y, width, height)


class _Plan:
    """The albumentations steps for one image of `size` (h, w), and their effect on points: `points * scale + offset`.

    Points are moved here because albumentations drops those outside of a crop. So are masks, which show the pixels
    `rows` and `columns` of the old ones: albumentations would make all of them full.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.steps: list = []
        self.scale, self.offset = np.ones(2), np.zeros(2)
        self.rows, self.columns = map(np.arange, size)

    def _add(self, step: object, scale: tuple[float, float], offset: tuple[float, float]) -> None:
        self.steps.append(step)
        self.scale, self.offset = self.scale * scale, self.offset * scale + offset

    def flip(self) -> None:
        self._add(_albumentations().HorizontalFlip(p=1), (-1, 1), (self.size[1], 0))
        self.columns = self.columns[::-1]

    def resize(self, size: tuple[int, int]) -> None:
        step = _albumentations().Resize(*size, area_for_downscale="image")
        self._add(step, (size[1] / self.size[1], size[0] / self.size[0]), (0, 0))
        self.rows = self.rows[_nearest_of_opencv(self.size[0], size[0])]
        self.columns = self.columns[_nearest_of_opencv(self.size[1], size[1])]
        self.size = size

    def crop(self, x: int, y: int, width: int, height: int) -> None:
        self._add(_albumentations().Crop(x, y, x + width, y + height), (1, 1), (-x, -y))
        self.rows, self.columns = self.rows[y : y + height], self.columns[x : x + width]
        self.size = height, width

    def compose(self) -> Callable:
        box_rule = _albumentations().BboxParams("pascal_voc", label_fields=["index"], clip=True)
        return _albumentations().Compose(self.steps, bbox_params=box_rule)

    def move_points(self, points: Tensor) -> Tensor:
        return (points + 0.5) * points.new_tensor(self.scale) + points.new_tensor(self.offset) - 0.5


def _albumentations() -> ModuleType:
    return import_albumentations("DetrAugment", ", or use the transforms Resize and RandomFlip")


def _nearest_of_opencv(old: int, new: int) -> np.ndarray:
    """The same by OpenCV, which takes the other one of two that are equally near."""
    from cv2 import INTER_NEAREST_EXACT, resize

    pixels = np.arange(old, dtype=np.float32)[:, None]
    return resize(pixels, (1, new), interpolation=INTER_NEAREST_EXACT)[:, 0].astype(np.int64)
