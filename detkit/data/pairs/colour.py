"""Random colour and sharpness changes, drawn for each image of a pair on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch

from detkit.data.pairs.transforms import IMAGES, AnnotatedImage, PerImageTransform, WhichImages
from detkit.data.transforms import check_probability, import_albumentations
from detkit.registry import register, suggest
from detkit.registry.ranges import OneOf, Share

# Arguments for albumentations: the defaults of the version that the authors' code of CATs was written for.
CHANGES: dict[str, dict[str, Any]] = {
    "ToGray": {},
    "Posterize": dict(num_bits=4),
    "Equalize": {},
    "Sharpen": dict(alpha=(0.2, 0.5), lightness=(0.5, 1.0)),
    "RandomBrightnessContrast": dict(brightness_limit=0.2, contrast_limit=0.2),
    "Solarize": dict(threshold_range=(0.5, 0.5)),
    "ColorJitter": dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.2),
    "Blur": dict(blur_limit=(3, 7)),
}
CATS = ("ToGray", "Posterize", "Equalize", "Sharpen", "RandomBrightnessContrast", "Solarize", "ColorJitter")


@register
class PairColour(PerImageTransform):
    """The colour augmentation of CATs (arXiv 2106.02520): each change with its own probability, in a fixed order.

    Args:
        probability: of each change, for each image.
        changes: names from `CHANGES`; SemiMatch (arXiv 2203.16038) has "Blur" in the place of "Sharpen".
        images: see `PerImageTransform`.

    Raises:
        ValueError: an unknown change.
        ImportError: albumentations is not installed.
    """

    def __init__(
        self,
        probability: Share = 0.2,
        *,
        changes: Sequence[Annotated[str, OneOf(CHANGES)]] = CATS,
        images: WhichImages = IMAGES,
    ):
        super().__init__(images)
        self.probability = check_probability("probability", probability)
        for name in changes:
            if name not in CHANGES:
                raise ValueError(f"unknown change {name!r}{suggest(name, CHANGES)}")
        module = import_albumentations("PairColour")
        self.changes = [getattr(module, name)(p=1, **CHANGES[name]) for name in changes]

    def change(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        """The image with each change applied with its probability; points and box stay as they are."""
        image = np.ascontiguousarray(annotated.image.permute(1, 2, 0).numpy())
        for change in self.changes:
            if rng.random() < self.probability:
                change.set_random_seed(int(rng.integers(1 << 31)))
                image = change(image=image)["image"]
        return replace(annotated, image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
