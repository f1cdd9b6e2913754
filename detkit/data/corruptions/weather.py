"""Weather and digital corruptions of ImageNet-C (arXiv 1903.12261); see `detkit.data.corruptions.blur`.

Frost differs from the original, which lays photographs of frost over the image: here it is generated.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage

from detkit.data.corruptions.blur import Image, smooth, streak, zoomed


def snow(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Falling snowflakes over a paler image."""
    mean, spread, size, least, radius, sigma, share = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    flakes = zoomed(rng.normal(mean, spread, image.shape[:2]), size)
    flakes = streak(np.where(flakes < least, 0, flakes).clip(0, 1), radius, sigma, rng.uniform(-135, -45))[..., None]
    grey = image @ np.array([0.299, 0.587, 0.114])
    pale = np.maximum(image, grey[..., None] * 1.5 + 0.5)
    return share * image + (1 - share) * pale + flakes + np.rot90(flakes, 2)


def frost(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Ice on the glass in front of the scene; the ice is generated (see `ice`), the weights are the published ones."""
    of_image, of_ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    return of_image * image + of_ice * ice(image.shape[0], image.shape[1], rng)


def ice(height: int, width: int, rng: np.random.Generator) -> Image:
    """A bluish texture of needles that grow in several directions where the glass is frozen, [h, w, 3] in 0..1."""
    frozen = plasma(height, width, 1.7, rng)
    needles = np.zeros((height, width))
    for direction in rng.uniform(0, 360, 6):
        seeds = (rng.random((height, width)) < 0.004).astype(np.float64)
        lines = streak(seeds, 12, 9, direction)
        needles += lines / max(lines.max(), 1e-6)
    thickness = (0.55 * frozen + 0.6 * smooth(needles, 0.6) * (0.3 + frozen)).clip(0, 1)
    return thickness[..., None] * np.array([0.86, 0.93, 1.0])


def fog(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Clouds over the image."""
    amount, roughness = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    brightest = image.max()
    clouds = plasma(image.shape[0], image.shape[1], roughness, rng)[..., None]
    return (image + amount * clouds) * brightest / (brightest + amount)


def plasma(height: int, width: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A cloudy map [h, w] in 0..1 by the diamond-square method; the noise of each finer step is divided by `decay`."""
    side = 1 << (max(height, width, 2) - 1).bit_length()
    clouds, step, noise = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half = step // 2

        def mean_of(total: np.ndarray, noise: float = noise) -> np.ndarray:
            return total / 4 + noise * rng.uniform(-1, 1, total.shape)

        corners = clouds[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        clouds[half::step, half::step] = mean_of(rows + np.roll(rows, -1, 1))
        centres = clouds[half::step, half::step]
        clouds[::step, half::step] = mean_of(centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1))
        clouds[half::step, ::step] = mean_of(centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0))
        step, noise = half, noise / decay
    clouds -= clouds.min()
    return (clouds / clouds.max())[:height, :width]


def brightness(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A higher value in the colour space HSV."""
    import cv2

    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = (hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clip(0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def contrast(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Closer to the mean colour."""
    mean = image.mean((0, 1))
    return (image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] + mean


def elastic_transform(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """An affine map of up to a few dozen pixels, then a smooth random displacement."""
    import cv2
    from scipy.ndimage import gaussian_filter

    amount, sigma, affine = (
        244 * np.array(((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)))
    )[severity - 1]
    height, width = image.shape[:2]
    centre, third = np.array([width, height]) // 2, min(height, width) // 3
    corners = np.stack([centre + third, centre + np.array([third, -third]), centre - third]).astype(np.float32)
    moved = corners + rng.uniform(-affine, affine, corners.shape).astype(np.float32)
    matrix = cv2.getAffineTransform(corners, moved)
    image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    x, y = (
        gaussian_filter(rng.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3) * amount
        for _ in range(2)
    )
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    places = (columns + x).astype(np.float32), (rows + y).astype(np.float32)
    return cv2.remap(image, *places, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def pixelate(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Reduce the resolution and enlarge the pixels to the old size."""
    factor = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    height, width = image.shape[:2]
    smaller = max(1, int(width * factor)), max(1, int(height * factor))
    small = to_pillow(image).resize(smaller, PillowImage.Resampling.BOX)
    return np.asarray(small.resize((width, height), PillowImage.Resampling.BOX)) / 255


def jpeg_compression(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Written as a JPEG of low quality and read again."""
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
    return np.asarray(PillowImage.open(file).convert("RGB")) / 255


def to_pillow(image: Image) -> PillowImage.Image:
    """An image in 0..1 as a PIL image."""
    return PillowImage.fromarray((image * 255).round().clip(0, 255).astype(np.uint8))
