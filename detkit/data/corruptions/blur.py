"""Noise and blur of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261), written from their definitions.

Each takes an image, float [h, w, 3] in 0..1, a severity 1..5 and a generator. The values of the result may leave 0..1.
The parameters are the published ones, in pixels, whatever the size of the image.
"""

from __future__ import annotations

import math

import numpy as np

Image = np.ndarray


def gaussian_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Normal noise."""
    return image + rng.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1], size=image.shape)


def shot_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Poisson noise of photon counts; a white pixel has `photons` on average."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A share of all values becomes 0 or 1."""
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = rng.random(image.shape) < amount
    return np.where(hit, rng.random(image.shape) < 0.5, image)


def defocus_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A blur with a disk whose edge is soft."""
    import cv2

    radius, edge = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    reach = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (reach**2 + reach[:, None] ** 2 <= radius**2).astype(np.float64)
    width = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(disk / disk.sum(), (width, width), edge)
    return cv2.filter2D(image, -1, kernel)


def glass_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A blur, random swaps of neighbouring pixels, and the blur again."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    height, width = image.shape[:2]
    order = list(range(height * width))
    for _ in range(rounds):
        moves = rng.integers(-reach, reach, (height, width, 2))
        rows, columns = np.arange(height)[:, None] + moves[..., 1], np.arange(width) + moves[..., 0]
        partners = (rows * width + columns)[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
        own = np.arange(height * width).reshape(height, width)[reach + 1 :, reach + 1 :]
        own = own[: partners.shape[0], : partners.shape[1]]
        inside = (rows < height) & (columns < width) & (rows >= 0) & (columns >= 0)
        inside = inside[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
        for i, j in zip(own[inside][::-1].tolist(), partners[inside][::-1].tolist(), strict=True):
            order[i], order[j] = order[j], order[i]
    shuffled = smooth(image, sigma).reshape(-1, 3)[order].reshape(image.shape)
    return smooth(shuffled, sigma)


def motion_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A blur in one direction, up to 45 degrees from the horizontal."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return streak(image, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """The mean of the image at several zoom factors."""
    largest, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1, largest, step)
    return (image + sum(zoomed(image, factor) for factor in factors)) / (len(factors) + 1)


def smooth(image: Image, sigma: float) -> Image:
    """A Gaussian blur; nothing mixes the channels of an image [h, w, c]."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (sigma, sigma, 0) if image.ndim == 3 else sigma, mode="nearest")


def streak(image: Image, radius: int, sigma: float, degrees: float) -> Image:
    """A blur to one side along a line: half a Gaussian over `2 * radius + 1` pixels."""
    import cv2

    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle, reach = math.radians(degrees), 2 * radius
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    columns, rows = (np.rint(steps * part).astype(int) + reach for part in (math.cos(angle), math.sin(angle)))
    np.add.at(kernel, (rows, columns), weights / weights.sum())
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def zoomed(image: Image, factor: float) -> Image:
    """The middle of an image enlarged to the whole."""
    import cv2

    height, width = image.shape[:2]
    kept = [math.ceil(side / factor) for side in (height, width)]
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    middle = np.ascontiguousarray(image[top : top + kept[0], left : left + kept[1]])
    return cv2.resize(middle, (width, height), interpolation=cv2.INTER_LINEAR)
