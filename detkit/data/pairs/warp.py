"""Random smooth warps of the images of a pair, with exact points.

Places are x y over an image whose outer edges lie at -1 and 1.

Shape letters: n places, k control points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from detkit.data.pairs.transforms import IMAGES, AnnotatedImage, PerImageTransform, WhichImages, clip_box
from detkit.data.transforms import check_probability
from detkit.ops.splines import control_points, spline_basis, spline_weights
from detkit.registry import register
from detkit.registry.ranges import Share

CONTROL = 3  # control points along each side
STEP = 1e-4  # of the finite differences
LEAST_AREA = 0.1  # least local change of area, relative to that of the affine map, before a warp counts as folded
SOLVED = 1e-6  # largest error of an inverted place


@dataclass(frozen=True)
class Warp:
    """A smooth map from places in the warped image to places in the original: a thin-plate spline, then an affine map.

    Attributes:
        matrix: [2, 2], linear part of the affine map.
        shift: [2], its translation.
        moved: [k, 2], where the spline moves a square grid of control points to.
    """

    matrix: Tensor
    shift: Tensor
    moved: Tensor

    def float(self) -> Warp:
        """The same in single precision."""
        return Warp(self.matrix.float(), self.shift.float(), self.moved.float())

    @cached_property
    def _spline(self) -> tuple[Tensor, Tensor]:
        """The control points of the spline and its weights."""
        fixed = control_points(CONTROL, self.moved)
        return fixed, spline_weights(fixed, self.moved[None])[0]

    def fetched_from(self, places_n2: Tensor) -> Tensor:
        """Places in the original image that places in the warped image are fetched from, `[n, 2]`."""
        fixed, weights = self._spline
        return spline_basis(places_n2, fixed) @ weights @ self.matrix.T + self.shift

    def derivative(self, places_n2: Tensor) -> Tensor:
        """The Jacobian of `fetched_from`, `[n, 2, 2]`; the last axis is x, y of the warped image."""
        steps = torch.eye(2, dtype=places_n2.dtype) * STEP
        change = [self.fetched_from(places_n2 + step) - self.fetched_from(places_n2 - step) for step in steps]
        return torch.stack(change, dim=2) / (2 * STEP)

    def folds(self) -> bool:
        """Whether the warp turns some part of the image over, or nearly so (see `LEAST_AREA`)."""
        area = torch.linalg.det(self.derivative(control_points(17, self.moved)))
        return bool((area < LEAST_AREA * torch.linalg.det(self.matrix)).any())

    def appears_at(self, places_n2: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `fetched_from`, by Newton's method.

        Returns:
            Places in the warped image of places in the original, `[n, 2]`, and for which of them one was found, `[n]`
            bool.
        """
        start = 1.5 * control_points(49, self.moved)
        found = start[torch.cdist(places_n2, self.fetched_from(start)).argmin(1)]
        for _ in range(20):
            error = self.fetched_from(found) - places_n2
            if (error.abs() < SOLVED).all():
                break
            step = torch.linalg.solve_ex(self.derivative(found), error[..., None]).result[..., 0]
            found = found - step.clamp(-0.25, 0.25)
        error = (self.fetched_from(found) - places_n2).abs().amax(1)
        return found, error < SOLVED


@register
class RandomPairWarp(PerImageTransform):
    """Warp an image at random: turned, sheared, scaled, shifted and bent (as in SemiMatch, arXiv 2203.16038).

    What comes from outside of the image is black. Points move with their pixels; points that leave the image are
    dropped. A box becomes the box around its warped inside. A bend that would fold the image is weakened, so that each
    pixel appears at most once.

    Args:
        probability: for each image.
        rotation, shear: largest angles in degrees.
        scale: factors of x and y are drawn from 1 - scale .. 1 + scale.
        shift: largest translation of the whole image, relative to half of the image.
        bend: largest further translation of each of nine control points, relative to half of the image.
        images: see `PerImageTransform`; SemiMatch warps the target.
    """

    def __init__(
        self,
        probability: Share = 0.5,
        *,
        rotation: Annotated[float, Ge(0), Le(180)] = 15,
        shear: Annotated[float, Ge(0), Le(80)] = 30,
        scale: Annotated[float, Ge(0), Le(0.9)] = 0.25,
        shift: Share = 0.25,
        bend: Share = 0.4,
        images: WhichImages = IMAGES,
    ):
        super().__init__(images)
        limits = dict(rotation=180, shear=80, scale=0.9, shift=1, bend=1)
        given = dict(rotation=rotation, shear=shear, scale=scale, shift=shift, bend=bend)
        for name, value in given.items():
            if not 0 <= value <= limits[name]:
                raise ValueError(f"{name} must lie in 0..{limits[name]}, got {value}")
        self.probability = check_probability("probability", probability)
        self.rotation, self.shear = math.radians(rotation), math.radians(shear)
        self.scale, self.shift, self.bend = scale, shift, bend

    def change(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        """The image, with `probability` warped; see `warp_image`."""
        return annotated if rng.random() >= self.probability else warp_image(annotated, self.draw(rng))

    def draw(self, rng: np.random.Generator) -> Warp:
        """A random warp that does not fold the image."""
        angle, shear = rng.uniform(-1, 1) * self.rotation, rng.uniform(-1, 1) * self.shear
        cos, sin = math.cos(angle), math.sin(angle)
        turn, slant = np.array([[cos, -sin], [sin, cos]]), np.array([[1, math.tan(shear)], [0, 1]])
        matrix = torch.from_numpy(turn @ slant @ np.diag(1 + self.scale * rng.uniform(-1, 1, 2)))
        shift = torch.from_numpy(self.shift * rng.uniform(-1, 1, 2))
        bend = torch.from_numpy(self.bend * rng.uniform(-1, 1, (CONTROL**2, 2)))
        fixed = control_points(CONTROL, bend)
        while (warp := Warp(matrix, shift, fixed + bend)).folds():
            bend = bend * 0.8
        return warp


def warp_image(annotated: AnnotatedImage, warp: Warp) -> AnnotatedImage:
    """Warp an image with its points and its box; the size of the image stays.

    Points that the warped image does not show become (-1, -1); a box of which nothing is left becomes None.
    """
    height, width = annotated.size
    y, x = (2 * (torch.arange(side) + 0.5) / side - 1 for side in annotated.size)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    grid = warp.float().fetched_from(places.view(-1, 2)).view(1, height, width, 2)
    image = F.grid_sample(annotated.image[None].float(), grid, align_corners=False)[0].round_().to(torch.uint8)
    points, found = move(annotated.points, warp, annotated.size)
    points = torch.where(found[:, None], points, -1)
    return AnnotatedImage(
        image, points, None if annotated.box is None else move_box(annotated.box, warp, annotated.size)
    )


def move(points_n2: Tensor, warp: Warp, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Points after the warp, `[n, 2]` in pixels of an image of `size` (h, w), and which were found, `[n]` bool."""
    half = torch.tensor([size[1], size[0]], dtype=torch.float64) / 2
    moved, found = warp.appears_at(points_n2.double() / half - 1)
    return ((moved + 1) * half).to(points_n2), found


def move_box(box: Tensor, warp: Warp, size: tuple[int, int]) -> Tensor | None:
    """The box [4] in pixels around the warped inside of a box, clipped to the image; None where nothing is left."""
    share = (control_points(9, box) + 1) / 2
    moved, found = move(box[:2] + share * (box[2:] - box[:2]), warp, size)
    if not found.any():
        return None
    around = clip_box(torch.cat([moved[found].amin(0), moved[found].amax(0)]), size)
    return around if (around[2:] > around[:2]).all() else None
