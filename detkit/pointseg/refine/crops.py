"""The input of MaskRefineNet: a crop around the rough mask of an object (PointWSSIS, arXiv 2303.15062, section 3.3).

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
# Standard deviation, in pixels, of the Gaussian spot that marks the point; it is cut off beyond REACH pixels.
SIGMA = 6
REACH = 3 * SIGMA + 1


@dataclass(frozen=True)
class CropDraw:
    """The random numbers of one training crop.

    Attributes:
        box: factor of the sides of the box around the rough mask.
        pixels: factor of the scale of the pixels.
        flip: whether the crop is mirrored left to right.
    """

    box: float
    pixels: float
    flip: bool

    @classmethod
    def random(
        cls, rng: np.random.Generator, *, max_box: float = 2.0, pixels: tuple[float, float] = (0.5, 1.5)
    ) -> CropDraw:
        """Draw them as in the paper: box 1 to `max_box` times, pixels 0.5 to 1.5 times as large, half mirrored."""
        return cls(rng.uniform(1.0, max_box), rng.uniform(*pixels), bool(rng.random() < 0.5))


@dataclass
class Crop:
    """A training crop of one object.

    Attributes:
        image: [3, h, w] uint8.
        rough: [h, w] bool, the mask to refine.
        true: [h, w] bool, the target.
        point: x, y of the centre pixel of the object, or None where it lies outside of the crop.
        plane: the input plane of the object's class, in which the point is marked; -1 for none.
    """

    image: Tensor
    rough: Tensor
    true: Tensor
    point: tuple[int, int] | None
    plane: int


def crop_box(
    extent: tuple[int, int, int, int], point: tuple[float, float], scale: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box around a mask, extended where the point of the object lies outside of it.

    Args:
        extent: first and last pixel x1, y1, x2, y2 of the mask.
        point: x, y in pixels.
        scale: sides of the box, relative to those of the mask.
        size: (h, w) of the image, to which the box is clipped.

    Returns:
        x1, y1, x2, y2. As in the authors' code, x2 and y2 are exclusive in training and inclusive at inference.
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
    """Cut an object out of its image, resize it at random, and place it in the middle of a square of `size` pixels.

    Args:
        image: [3, h, w] uint8.
        rough: [h, w] bool, the mask to refine, with one pixel at least.
        true: [h, w] bool, its target, with one pixel at least.
        label: contiguous from 0.
        draw: the random numbers.
        size: side of the crop in pixels.
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
    """Resize so that the shorter side has `size * draw.pixels` pixels, take the middle, padded with 0, and mirror."""
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
    """Normalise images `[..., 3, h, w]` in 0..255 with mean and standard deviation of ImageNet, float32."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() / 255 - mean) / std


def network_input(images: Tensor, masks: Tensor, points: Tensor, planes: Tensor, num_classes: int) -> Tensor:
    """The input channels of MaskRefineNet: image, one centre plane for each class and one for none, rough mask.

    Args:
        images: [b, 3, h, w], normalised.
        masks: [b, h, w] rough masks.
        points: [b, 2] int64 x, y; a point outside of the crop is not marked.
        planes: [b] the centre plane in which the point is marked: label + 1; -1 for none.
        num_classes: classes of the data.

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
    """A Gaussian spot around each point `[b, 2]` x, y int64: `[b, h, w]`, 1 at the point; all 0 if it lies outside."""
    along = []
    for axis in (1, 0):
        far = torch.arange(size[1 - axis], device=points.device) - points[:, axis, None]
        spot = torch.exp(far.double() ** 2 / (-2 * SIGMA**2)).where(far.abs() <= REACH, 0)
        along.append(spot * (far == 0).any(1, keepdim=True))
    return (along[0][:, :, None] * along[1][:, None]).float()
