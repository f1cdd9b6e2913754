"""The samples of a dataset as training and evaluation need them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch.utils.data
from torch import Tensor

from detkit.images import ThinImageError, image_size
from detkit.structures import Annotations
from detkit.structures.protocols import Samples

logger = logging.getLogger(__name__)

Sample = tuple[Tensor, Annotations]
Transform = Callable[..., Sample]  # (image, annotations, rng), or with the partners as a fourth argument

MAX_BROKEN_IN_A_ROW = 100


class TrainingView(torch.utils.data.Dataset):
    """Transformed samples of `dataset` by key: `epoch * len(dataset) + index`.

    A sample depends on the seed and the key only, so workers, ranks and resuming change nothing.

    A transform with the method `partners(rng)` wants that many other samples as a fourth argument. They are drawn at
    random from the dataset and passed through the transforms before it. A transform with the attribute `until`, a share
    in 0..1, is left out after the last whole epoch within that share of all `epochs`; the first epoch always has it.

    A sample that cannot be read (its `__getitem__` raises ValueError or OSError) is reported (once per
    worker) and replaced by the next one that can be, or raises with `skip_broken=False`; so is an image that is too
    thin for the transforms.
    """

    def __init__(
        self,
        dataset: Samples,
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
        skip_broken: bool = True,
        epochs: float = math.inf,
    ):
        self.dataset, self.transforms = dataset, tuple(transforms)
        self.seed, self.skip_broken, self.epochs = seed, skip_broken, epochs
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int) -> Any:
        epoch, index = divmod(key, len(self.dataset))
        transforms = [t for t in self.transforms if self._is_used(t, epoch)]
        return self._usable(index, (self.seed, epoch, index), transforms)

    def _is_used(self, transform: Transform, epoch: int) -> bool:
        return epoch == 0 or epoch + 1 <= getattr(transform, "until", 1.0) * self.epochs + 1e-6

    def _usable(self, index: int, seed: Any, transforms: Sequence[Transform]) -> Any:
        """The sample of `index` after the transforms; where it cannot be used, the next one that can."""
        tries = min(len(self.dataset), MAX_BROKEN_IN_A_ROW)
        for candidate in range(index, index + tries):
            candidate %= len(self.dataset)
            try:
                image, annotations = self.dataset[candidate]
            except (ValueError, OSError) as error:
                self._report(candidate, error)
                continue
            try:
                return self._transformed(image, annotations, np.random.default_rng(seed), transforms)
            except ThinImageError as error:
                self._report(candidate, error)
        raise ValueError(f"{tries} samples in a row, from index {index}, cannot be used; see the warnings above")

    def _transformed(
        self, image: Any, annotations: Any, rng: np.random.Generator, transforms: Sequence[Transform]
    ) -> Any:
        for number, transform in enumerate(transforms):
            if not hasattr(transform, "partners"):
                image, annotations = transform(image, annotations, rng)
            elif wanted := transform.partners(rng):
                others = [self._partner(rng, transforms[:number]) for _ in range(wanted)]
                image, annotations = transform(image, annotations, rng, others)
        return image, annotations

    def _partner(self, rng: np.random.Generator, transforms: Sequence[Transform]) -> Any:
        """Another sample, drawn at random, after the transforms."""
        index, seed = int(rng.integers(len(self.dataset))), int(rng.integers(1 << 62))
        return self._usable(index, seed, transforms)

    def _report(self, index: int, error: Exception) -> None:
        """Report a sample that cannot be used, or raise where that is wanted."""
        if not self.skip_broken:
            raise error
        _report_broken(self, index, error, "the next usable sample takes its place")


class EvaluationView(torch.utils.data.Dataset):
    """Samples of `dataset` by index, resized by `resize`, with annotations in pixels of the original image.

    Masks are left out: the evaluation compares with `dataset.coco()`. A sample that cannot be used is reported
    and None; it counts as an image in which nothing was found. With `skip_broken=False` it raises.
    """

    def __init__(self, dataset: Samples, resize: Callable[[Tensor], Tensor], *, skip_broken: bool = True):
        self.dataset, self.resize, self.skip_broken = dataset, resize, skip_broken
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample | None:
        try:
            image, annotations = self.dataset[index]
        except (ValueError, OSError) as error:
            self._report(index, error)
            return None
        try:
            return self.resized(image, annotations)
        except ThinImageError as error:
            self._report(index, error)
            return None

    def _report(self, index: int, error: Exception) -> None:
        """Report a sample that cannot be used, or raise where that is wanted."""
        if not self.skip_broken:
            raise error
        _report_broken(self, index, error, "it counts as an image without detections")

    def resized(self, image: Any, annotations: Any) -> Any:
        """The sample with its image resized."""
        size = image_size(image)
        return self.resize(image), replace(annotations, masks=None, original_size=annotations.original_size or size)


def _report_broken(view: TrainingView | EvaluationView, index: int, error: Exception, consequence: str) -> None:
    if index not in view._reported:
        view._reported.add(index)
        logger.warning("cannot read image id %d (%s): %s", view.dataset.image_ids[index], error, consequence)
