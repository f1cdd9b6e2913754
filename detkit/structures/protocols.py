"""What datasets, their views, batches and evaluators must have, so that the loaders, the runner and the evaluation loop
can use them. Nothing has to derive from these classes; `detkit.data.base.ImageDataset` is a base with the defaults.

A *sample* is what a dataset gives for an index: a pair of the input, for detectors an image uint8 `[3, h, w]`, and what
is known about it, for detectors `detkit.structures.Annotations`. Other tasks have other types for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from detkit.structures.labels import LabelMap

Sample = tuple[Any, Any]


class SampleBatch(Protocol):
    """Some samples together: `detkit.structures.Batch` for images, `PairBatch` for pairs of images.

    Attributes:
        annotations: what is known of each sample; each has `image_id` and `file_name`, by which messages name it.
        num_objects: what the losses divide by, a float scalar tensor, or None for the batch's own number. The runner
            sets it.
    """

    annotations: list[Any]
    num_objects: Tensor | None

    def __len__(self) -> int:
        """The number of samples."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy whose tensors are on `device`."""

    def pin_memory(self) -> Self:
        """A copy in page-locked memory."""


class View(Protocol):
    """The samples of a dataset as training or evaluation needs them: transformed, or resized.

    A training view takes keys, `epoch * len(dataset) + index`, and gives the same sample for the same key and seed in
    every process. An evaluation view takes indices, and gives None for a sample that cannot be read.
    """

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, key: int) -> Sample | None:
        """The sample of a key or an index."""


class Keys(Protocol):
    """The order of training: batches of keys for one process, see `detkit.data.sampling.SampleKeys`."""

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""

    def __iter__(self) -> Iterator[list[int]]:
        """The remaining batches of the epoch, each a list of keys."""

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` (from 0) at its first batch."""

    def set_position(self, batches_done: int) -> None:
        """Begin after so many batches of the current epoch."""


class Samples(Protocol):
    """Samples by index, with an id for each."""

    @property
    def image_ids(self) -> list[int]:
        """The id of each sample, in the dataset's file."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """The sample of an index; raises ValueError or OSError where it cannot be read, with the file and the id."""


@runtime_checkable
class Dataset(Samples, Protocol):
    """What a config names as `data.train` and `data.val`."""

    @property
    def label_map(self) -> LabelMap:
        """Names and category ids of the classes."""

    @property
    def max_objects_per_image(self) -> int | None:
        """The largest number of objects in a sample; None where it is not known."""

    @property
    def training_view(self) -> Callable[..., View]:
        """Makes a `View` for training: `training_view(dataset, transforms, seed=0, skip_broken=True)`.

        Where a transform ends before the training does, also with `epochs`, those of the whole training.
        """

    @property
    def evaluation_view(self) -> Callable[..., View]:
        """Makes a `View` for evaluation: `evaluation_view(dataset, resize, skip_broken=True)`."""

    @property
    def sample_keys(self) -> Callable[..., Keys]:
        """Makes the `Keys`: `sample_keys(length, batch_size=..., seed=0, rank=0, world_size=1)`."""

    @property
    def collate(self) -> Callable[..., SampleBatch]:
        """Makes a `SampleBatch` of a list of samples."""


@runtime_checkable
class Evaluator(Protocol):
    """Collects predictions and computes figures; built with `dataset=`, the validation dataset.

    With several processes each sees a part of the samples; `compute` brings the parts together.
    """

    def reset(self) -> None:
        """Forget all predictions and figures."""

    def update(self, predictions: Sequence[Any], annotations: Sequence[Any]) -> None:
        """Add what a model found in some samples, on the CPU, and what is known of them."""

    def compute(self) -> dict[str, float]:
        """The figures over all processes, the same in each. The first is the one that chooses the best weights.

        Their names do not depend on the samples: before the first step of a run a single one is evaluated.
        """

    def results(self) -> list[dict[str, Any]]:
        """What was found, of JSON types, on the main process: written to results.json."""

    def table(self, *, per_class: bool = False) -> str:
        """The last figures as text."""
