"""What MaskRefineNet sees of an object: a crop around its rough mask (PointWSSIS, arXiv 2303.15062, section 3.3).

Shape letters: b crops, c channels, h/w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detkit.modeling.base import IMAGENET_MEAN, IMAGENET_STD
from detkit.pointseg.geometry import centres_of_mass, extents

SIZE = 256
# Of the spot that marks the point in a centre plane; beyond REACH pixels there is nothing of it.
SIGMA = 6
REACH = 3 * SIGMA + 1


@dataclass(frozen=True)
class CropDraw:
    """The random numbers of one training crop: sides of the box times `box`, of the pixels times `pixels`, mirrored."""

    box: float
    pixels: float
    flip: bool

    @classmethod
    def random(
        cls, rng: np.random.Generator, *, max_box: float = 2.0, pixels: tuple[float, float] = (0.5, 1.5)
    ) -> CropDraw:
        """As in the paper: the box 1 to 2 times as large, the pixels 0.5 to 1.5 times, half of the crops mirrored."""
        return cls(rng.uniform(1.0, max_box), rng.uniform(*pixels), bool(rng.random() < 0.5))


@dataclass
class Crop:
    """One object as MaskRefineNet learns from it.

    Attributes:
        image: [3, h, w] uint8.
        rough: [h, w] bool, the mask to refine.
        true: [h, w] bool, the mask it should become.
        point: x, y of the pixel that stands for the object, or None where the crop does not show it.
        plane: the centre plane of its class; -1 for none.
    """

    image: Tensor
    rough: Tensor
    true: Tensor
    point: tuple[int, int] | None
    plane: int


def crop_box(
    extent: tuple[int, int, int, int], point: tuple[float, float], scale: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box around a mask, made longer where the point of the object lies outside.

    Args:
        extent: first and last pixel x1, y1, x2, y2 of the mask.
        point: x, y in pixels.
        scale: sides of the box over those of the mask.
        size: (h, w) of the image, which the box does not leave.

    Returns:
        x1, y1, x2, y2. The paper's training crops end before x2 and y2, its inference crops with them.
    """
    sides = [_crop_side(extent[axis], extent[axis + 2], point[axis], scale, size[1 - axis] - 1) for axis in (0, 1)]
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _crop_side(first: int, last: int, at: float, scale: float, end: int) -> tuple[int, int]:
    middle, half = (first + last) / 2, (last - first) / 2 * scale
    low, high = int(max(0, middle - half)), int(min(end, middle + half))
    if at > high:
        high = int(min(end, at + half))
    if at < low:
        low = int(max(0, at - half))
    return low, high


def training_crop(
    image: Tensor,
    rough: Tensor,
    true: Tensor,
    label: int,
    draw: CropDraw,
    *,
    size: int = SIZE,
    official: bool = False,
) -> Crop:
    """Cut an object out of its image, at a random size around the middle of a square of `size` pixels.

    Args:
        image: [3, h, w] uint8.
        rough: [h, w] bool, the mask to refine, with one pixel at least.
        true: [h, w] bool, its match, with one pixel at least.
        label: contiguous from 0.
        official: mark the class as the authors' training code does: in plane `label`, one below the plane that its
            inference uses; both masks of class 0 are emptied. For comparisons only.

    Raises:
        ValueError: a mask is empty.
    """
    centres, areas = centres_of_mass(torch.stack([rough, true]))
    if areas.min() == 0:
        raise ValueError(f"the {'rough' if areas[0] == 0 else 'true'} mask is empty: leave such pairs out")
    extent = tuple(extents(rough[None])[0].tolist())
    x1, y1, x2, y2 = crop_box(extent, tuple(centres[1].tolist()), draw.box, (rough.shape[0], rough.shape[1]))
    window = np.s_[..., y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    pixels = _square(image[window].permute(1, 2, 0).numpy(), draw, size, Image.Resampling.BILINEAR)
    masks = [_square(mask[window].byte().numpy(), draw, size, Image.Resampling.NEAREST) > 0 for mask in (rough, true)]
    if official and label == 0:
        masks = [np.zeros_like(mask) for mask in masks]
    rows, columns = np.nonzero(masks[1])
    point = (int(columns.mean()), int(rows.mean())) if len(rows) else None
    plane = label + (0 if official else 1)
    rough, true = (torch.from_numpy(np.ascontiguousarray(mask)) for mask in masks)
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return Crop(image, rough, true, point, plane if point else -1)


def _square(pixels: np.ndarray, draw: CropDraw, size: int, resampling: Image.Resampling) -> np.ndarray:
    """Resize so that the shorter side is `size * draw.pixels`, take the middle (0 where there is nothing), mirror."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    old = [size if side == shorter else int(side / shorter * size) for side in (width, height)]
    new = [max(1, int(side * draw.pixels)) for side in old]
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((new[0], new[1]), resampling))
    edges = [(max(0, size - side) // 2, (max(0, size - side) + 1) // 2) for side in resized.shape[:2]]
    padded = np.pad(resized, edges + [(0, 0)] * (pixels.ndim - 2))
    top, left = (round((side - size) / 2) for side in padded.shape[:2])
    middle = padded[top : top + size, left : left + size]
    return middle[:, ::-1] if draw.flip else middle


def normalize(images: Tensor) -> Tensor:
    """Images `[..., 3, h, w]` of 0..255 with the mean and deviation of ImageNet taken out, float32."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() / 255 - mean) / std


def network_input(images: Tensor, masks: Tensor, points: Tensor, planes: Tensor, num_classes: int) -> Tensor:
    """The channels that MaskRefineNet reads: image, centre planes, rough mask.

    Args:
        images: [b, 3, h, w], normalised.
        masks: [b, h, w].
        points: [b, 2] int64 x, y; one outside the crop is not shown.
        planes: [b] the plane to show it in: label + 1; -1 for none.

    Returns:
        `[b, 3 + (num_classes + 1) + 1, h, w]`.
    """
    b, _, height, width = images.shape
    x = images.new_zeros(b, 3 + num_classes + 2, height, width)
    x[:, :3] = images
    shown = (planes >= 0).nonzero()[:, 0]
    x[shown, 3 + planes[shown]] = centre_spots(points[shown], (height, width)).to(x.dtype)
    x[:, -1] = masks
    return x


def centre_spots(points: Tensor, size: tuple[int, int]) -> Tensor:
    """A spot around each pixel `[b, 2]` x, y int64: `[b, h, w]`, 1 at the pixel itself, all 0 where it lies outside."""
    along = []
    for axis in (1, 0):
        far = torch.arange(size[1 - axis], device=points.device) - points[:, axis, None]
        spot = torch.exp(far.double() ** 2 / (-2 * SIGMA**2)).where(far.abs() <= REACH, 0)
        along.append(spot * (far == 0).any(1, keepdim=True))
    return (along[0][:, :, None] * along[1][:, None]).float()
