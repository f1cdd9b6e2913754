"""Shapes and textures that synthetic scenes are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

# Each shape is a function of a unit-circle grid (u, v) that is negative inside and positive outside, and near
# its outline equals the distance to it.


def _disk(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - 1


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(u * u + v * v) - 0.76) - 0.24


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - math.sqrt(0.5)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(math.sqrt(0.75) * np.abs(u) - 0.5 * v, v) - 0.5


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v, half_width = np.abs(u), np.abs(v), 0.28
    length = math.sqrt(1 - half_width**2)
    return np.maximum(np.minimum(u, v) - half_width, np.maximum(u, v) - length)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Folded to one half of one tip, a five-pointed star is the side of a straight edge from tip to notch.
    sector = math.pi / 5
    angle, radius = np.arctan2(v, u), np.sqrt(u * u + v * v)
    angle = np.abs((angle + sector) % (2 * sector) - sector)
    notch_u, notch_v = 0.45 * math.cos(sector), 0.45 * math.sin(sector)
    edge = math.hypot(1 - notch_u, notch_v)
    return radius * (np.cos(angle) * (notch_v / edge) + np.sin(angle) * ((1 - notch_u) / edge)) - notch_v / edge


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disk": _disk,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def _ramp(height: int, width: int, angle: float) -> np.ndarray:
    """Pixels along the direction `angle`, [height, width]."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    return x * math.cos(angle) + y * math.sin(angle)


def _plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    ramp = _ramp(height, width, rng.uniform(0, 2 * math.pi))
    low, high = ramp.min(), ramp.max()
    return (ramp - low) / (high - low)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    frequency = 2 * math.pi / rng.uniform(5, 14)
    return np.clip(np.sin(_ramp(height, width, rng.uniform(0, math.pi)) * frequency) * 2 + 0.5, 0, 1)


def _checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    frequency, angle = 2 * math.pi / rng.uniform(8, 18), rng.uniform(0, math.pi)
    across = np.sin(_ramp(height, width, angle) * frequency)
    along = np.sin(_ramp(height, width, angle + math.pi / 2) * frequency)
    return np.clip(across * along * 4 + 0.5, 0, 1)


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.random((height, width), dtype=np.float32)


@cache
def _interpolation(length: int, knots: int) -> np.ndarray:
    """The matrix [length, knots] that interpolates linearly between evenly spaced knots."""
    position = np.linspace(0, knots - 1, length, dtype=np.float32)[:, None]
    return np.maximum(0, 1 - np.abs(position - np.arange(knots, dtype=np.float32)))


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    knots = rng.random((6, 6), dtype=np.float32)
    return _interpolation(height, 6) @ knots @ _interpolation(width, 6).T


_PATTERNS = (_plain, _gradient, _stripes, _checks, _noise, _clouds)


def paint(rng: np.random.Generator, height: int, width: int, color: np.ndarray, contrast: float) -> np.ndarray:
    """A random pattern between `color` and another at most `contrast` away in each channel, [3, height, width]."""
    pattern = _PATTERNS[int(rng.random() * len(_PATTERNS))](rng, height, width)
    difference = (rng.random(3, dtype=np.float32) * 2 - 1) * contrast
    return color[:, None, None] + difference[:, None, None] * pattern
