"""Corrupted image pairs, to measure the robustness of a matcher against noise, blur, weather and compression (SPair-C).

MatchMe (arXiv 2311.18540) evaluates on SPair-71k with corruptions of several severities. Its own images are not used
here; the corruptions are the 15 of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261), written from their
definitions, so figures are near to, but not the same as, those on images that were corrupted by other code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from detkit.data.corruptions import blur, weather
from detkit.data.pairs.dataset import PairDataset, PairSample, PairSamples
from detkit.registry import register, suggest
from detkit.registry.ranges import OneOf, Seed
from detkit.structures import ImagePair

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
CORRUPTIONS: dict[str, Corruption] = {
    function.__name__: function
    for function in (
        blur.gaussian_noise,
        blur.shot_noise,
        blur.impulse_noise,
        blur.defocus_blur,
        blur.glass_blur,
        blur.motion_blur,
        blur.zoom_blur,
        weather.snow,
        weather.frost,
        weather.fog,
        weather.brightness,
        weather.contrast,
        weather.elastic_transform,
        weather.pixelate,
        weather.jpeg_compression,
    )
}
SEVERITIES = (1, 2, 3, 4, 5)


def check_corruption(corruption: str, severity: int) -> None:
    """Raise a ValueError for an unknown corruption or severity."""
    if corruption not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {corruption!r}{suggest(corruption, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must lie in 1..5, got {severity!r}")


def corrupt(image: Tensor, corruption: str, severity: int, rng: np.random.Generator) -> Tensor:
    """Corrupt an image, uint8 [3, h, w].

    Args:
        corruption: one of `CORRUPTIONS`.
        severity: 1 (weak) to 5.
        rng: all randomness.

    Raises:
        ValueError: an unknown corruption or severity.
    """
    check_corruption(corruption, severity)
    values = np.ascontiguousarray(image.permute(1, 2, 0).numpy()) / 255
    worse = (CORRUPTIONS[corruption](values, severity, rng) * 255).round().clip(0, 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(worse.transpose(2, 0, 1)))


@register
class CorruptedPairs(PairSamples):
    """The pairs of another dataset with both images corrupted at their stored size.

    Points and boxes stay as they are, also under the elastic transform, which moves what they lie on. The corruption of
    an image depends on `seed`, the pair's id, the corruption and the severity only.

    Args:
        dataset: a dataset of pairs.
        corruption: one of the 15 of ImageNet-C, such as "gaussian_noise" (see `CORRUPTIONS`).
        severity: 1 (weak) to 5.
        seed: of the noise.

    Raises:
        ValueError: an unknown corruption or severity.
    """

    def __init__(
        self,
        dataset: PairDataset,
        corruption: Annotated[str, OneOf(CORRUPTIONS)],
        severity: Annotated[int, OneOf(SEVERITIES)],
        *,
        seed: Seed = 0,
    ):
        check_corruption(corruption, severity)
        self.dataset, self.corruption, self.severity, self.seed = dataset, corruption, severity, seed
        self.label_map, self.image_ids, self.labels = dataset.label_map, dataset.image_ids, dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> PairSample:
        pair, known = self.dataset[index]
        assert known.pair_id is not None
        kind = list(CORRUPTIONS).index(self.corruption)
        images = [
            corrupt(image, self.corruption, self.severity, np.random.default_rng((self.seed, known.pair_id, kind, i)))
            for i, image in enumerate((pair.source, pair.target))
        ]
        return ImagePair(*images), known
