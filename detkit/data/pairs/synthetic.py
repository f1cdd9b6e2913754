"""Pairs of rendered objects with parts: the correspondence dataset that needs no download."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from detkit.data.drawing import paint
from detkit.data.pairs.dataset import PairDataset, PairOptions, Side
from detkit.registry import register
from detkit.registry.ranges import PictureSide, PositiveInt, Seed
from detkit.structures import LabelMap


@dataclass(frozen=True)
class Part:
    """A rounded bar from `start` to `end`, in units of the object; x to the right, y down.

    `sway` is the largest angle in radians that it turns around its start. Its end is a key-point; with `both_ends` its
    start too.
    """

    name: str
    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    sway: float = 0.0
    both_ends: bool = False


KINDS: dict[str, tuple[Part, ...]] = {
    "beast": (
        Part("tail", (-0.5, -0.1), (-0.9, -0.5), 0.06, 0.5),
        Part("hind leg", (-0.4, 0.1), (-0.5, 0.8), 0.1, 0.35),
        Part("fore leg", (0.4, 0.1), (0.45, 0.8), 0.1, 0.35),
        Part("body", (-0.4, 0.0), (0.4, 0.0), 0.26, both_ends=True),
        Part("head", (0.5, -0.2), (0.75, -0.55), 0.17, 0.3),
    ),
    "wagon": (
        Part("bed", (-0.65, 0.25), (0.75, 0.25), 0.2, both_ends=True),
        Part("cabin", (-0.3, -0.05), (0.2, -0.1), 0.25),
        Part("mast", (-0.6, 0.1), (-0.65, -0.7), 0.05, 0.4),
        Part("rear wheel", (-0.45, 0.55), (-0.44, 0.55), 0.22),
        Part("front wheel", (0.5, 0.55), (0.51, 0.55), 0.22),
    ),
    "glider": (
        Part("left wing", (0.0, -0.05), (-0.35, 0.75), 0.11, 0.25),
        Part("right wing", (0.0, -0.05), (0.25, -0.8), 0.11, 0.25),
        Part("fin", (-0.75, 0.0), (-0.9, -0.35), 0.07, 0.3),
        Part("hull", (-0.75, 0.0), (0.7, 0.0), 0.15, both_ends=True),
        Part("nose", (0.7, 0.0), (1.0, 0.03), 0.1),
    ),
    "figure": (
        Part("left leg", (-0.1, 0.25), (-0.3, 0.85), 0.1, 0.4),
        Part("right leg", (0.1, 0.25), (0.3, 0.85), 0.1, 0.4),
        Part("left arm", (-0.2, -0.25), (-0.6, 0.15), 0.08, 0.7),
        Part("right arm", (0.2, -0.25), (0.6, 0.1), 0.08, 0.7),
        Part("trunk", (0.0, -0.25), (0.0, 0.2), 0.22, both_ends=True),
        Part("skull", (0.0, -0.6), (0.0, -0.68), 0.2, 0.2),
    ),
}
COLOR_SEED = 7


@lru_cache
def _part_colors(kind: str) -> np.ndarray:
    """The typical colour of each part of a kind, [parts, 3]."""
    rng = np.random.default_rng((COLOR_SEED, list(KINDS).index(kind)))
    return 40 + 175 * rng.random((len(KINDS[kind]), 3))


@dataclass(frozen=True)
class PosedPart:
    """A part in pixels of its image."""

    start: np.ndarray
    end: np.ndarray
    radius: float
    both_ends: bool


def pose_object(rng: np.random.Generator, kind: str, size: int, pose: float) -> list[PosedPart]:
    """The parts of an object in a random pose, in pixels of an image of `size` x `size`: rotated, scaled, stretched and
    moved as a whole, with each limb turned on its own."""
    scale = size * (0.36 - 0.1 * pose * rng.random())
    turn, stretch = pose * rng.uniform(-0.5, 0.5), 1 + pose * rng.uniform(-0.2, 0.2)
    mirror = -1 if rng.random() < 0.5 * min(1.0, pose) else 1
    centre = size / 2 + pose * size * rng.uniform(-0.12, 0.12, 2)
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([mirror * stretch, 1 / stretch])
    posed = []
    for part in KINDS[kind]:
        sway = pose * part.sway * rng.uniform(-1, 1)
        limb = np.subtract(part.end, part.start) * (1 + 0.15 * pose * rng.uniform(-1, 1))
        rotation = np.array([[math.cos(sway), -math.sin(sway)], [math.sin(sway), math.cos(sway)]])
        start = np.array(part.start)
        ends = [centre + matrix @ start, centre + matrix @ (start + rotation @ limb)]
        radius = scale * part.radius * (1 + 0.2 * pose * rng.uniform(-1, 1))
        posed.append(PosedPart(ends[0], ends[1], radius, part.both_ends))
    return posed


def draw_object(
    rng: np.random.Generator, kind: str, parts: list[PosedPart], size: int, appearance: float
) -> np.ndarray:
    """The object on a textured background, uint8 [3, size, size]."""
    canvas = paint(rng, size, size, 30 + 195 * rng.random(3, dtype=np.float32), contrast=60)
    tint = appearance * 90 * rng.uniform(-1, 1, 3)
    for part, typical in zip(parts, _part_colors(kind), strict=True):
        color = typical + tint + appearance * 50 * rng.uniform(-1, 1, 3)
        surface = paint(rng, size, size, color.astype(np.float32), contrast=80 * appearance)
        distance = bar_distance(part, size)
        surface = surface * (1 - 0.4 * np.clip(1.5 + distance / 2, 0, 1))
        canvas += (surface - canvas) * np.clip(0.5 - distance, 0, 1)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def bar_distance(part: PosedPart, size: int) -> np.ndarray:
    """The distance of each pixel's centre to the outline of a part, [size, size]; negative inside."""
    x = np.arange(size, dtype=np.float32) + 0.5
    along = part.end - part.start
    offset_x, offset_y = x - part.start[0], x[:, None] - part.start[1]
    share = np.clip((offset_x * along[0] + offset_y * along[1]) / max(float(along @ along), 1e-6), 0, 1)
    return np.hypot(offset_x - share * along[0], offset_y - share * along[1]) - part.radius


def object_points(parts: list[PosedPart]) -> np.ndarray:
    """The key-points, [n, 2] x y in pixels; some may be hidden behind other parts."""
    return np.array([end for part in parts for end in ([part.start] if part.both_ends else []) + [part.end]])


def object_box(parts: list[PosedPart], size: int) -> np.ndarray:
    """x1 y1 x2 y2 in pixels around all parts, within the image."""
    low = np.min([np.minimum(part.start, part.end) - part.radius for part in parts], axis=0)
    high = np.max([np.maximum(part.start, part.end) + part.radius for part in parts], axis=0)
    return np.concatenate([low, high]).clip(0, size)


@register
class SyntheticPairs(PairDataset):
    """Pairs of pictures of jointed objects of four kinds (beast, wagon, glider, figure), rendered on the fly.

    Two objects of a kind have the same parts in other poses and colours; key-points are the ends of the parts. Image
    `i` depends on `seed`, `i` and the options only; its kind is `i` modulo 4. Pairs are drawn at random, each from two
    different images of a kind. Use another seed for validation.

    Args:
        length: number of pairs.
        seed: which images and pairs.
        images: how many different pictures the pairs are made of, at least 8; fewer labelled pictures make learning
            harder.
        size: side of the square image in pixels, at least 32.
        pose: how much poses differ, 0 (not at all) or more.
        appearance: how much colours and textures differ, 0 (not at all) or more.
        direction, limit: see `PairDataset`.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        length: PositiveInt,
        *,
        seed: Seed = 0,
        images: PositiveInt = 1000,
        size: PictureSide = 128,
        pose: Annotated[float, Ge(0), Le(10)] = 1.0,
        appearance: Annotated[float, Ge(0), Le(10)] = 0.5,
        **options: PairOptions,
    ):
        if length < 1 or images < 2 * len(KINDS) or size < 32:
            raise ValueError(
                f"length must be at least 1, images at least {2 * len(KINDS)} and size at least 32, got length "
                f"{length}, images {images} and size {size}"
            )
        if pose < 0 or appearance < 0:
            raise ValueError(f"pose and appearance must be at least 0, got {pose} and {appearance}")
        self.seed, self.images, self.size, self.pose, self.appearance = seed, images, size, pose, appearance
        self._pairs = [self._draw_pair(i) for i in range(length)]
        label_map = LabelMap(tuple(KINDS), tuple(range(1, len(KINDS) + 1)))
        super().__init__(label_map, [source % len(KINDS) for source, _ in self._pairs], seed=seed, **options)

    def _draw_pair(self, pair: int) -> tuple[int, int]:
        """The numbers of two different images of one kind."""
        rng = np.random.default_rng((self.seed, 1, pair))
        kind = int(rng.integers(len(KINDS)))
        of_kind = range(kind, self.images, len(KINDS))
        source, target = rng.choice(len(of_kind), 2, replace=False)
        return of_kind[source], of_kind[target]

    def _posed(self, image: int) -> tuple[np.random.Generator, str, list[PosedPart]]:
        rng = np.random.default_rng((self.seed, 0, image))
        kind = tuple(KINDS)[image % len(KINDS)]
        return rng, kind, pose_object(rng, kind, self.size, self.pose)

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target of a pair, with the key-points that lie inside of both images."""
        posed = [self._posed(image)[2] for image in self._pairs[pair]]
        points = [object_points(parts) for parts in posed]
        in_both = np.all([((p >= 0) & (p <= self.size)).all(axis=1) for p in points], axis=0)
        boxes = [object_box(parts, self.size) for parts in posed]
        parts = zip(self._pairs[pair], points, boxes, strict=True)
        source, target = (Side(Path(f"synthetic-{self.seed}", str(image)), p[in_both], box) for image, p, box in parts)
        return source, target

    def read(self, side: Side) -> Tensor:
        """Render the image whose number is the name of `side.file`, uint8 [3, size, size]."""
        rng, kind, parts = self._posed(int(side.file.name))
        return torch.from_numpy(draw_object(rng, kind, parts, self.size, self.appearance))
