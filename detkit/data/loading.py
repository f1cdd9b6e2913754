"""From datasets to batches: views for training and evaluation, resumable sampling, loaders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detkit.images import image_size
from detkit.structures import Annotations, Batch

logger = logging.getLogger(__name__)

Sample = tuple[Tensor, Annotations]
Transform = Callable[[Tensor, Annotations, np.random.Generator], Sample]

MAX_BROKEN_IN_A_ROW = 100


class TrainingView(Dataset):
    """Transformed samples of `dataset` by key: `epoch * len(dataset) + index`.

    A sample depends on the seed and the key only, so workers, ranks and resuming change nothing.

    A sample that cannot be read (its `__getitem__` raises ValueError or OSError) is reported (once per
    worker) and replaced by the next one that can be, or raises with `skip_broken=False`.
    """

    def __init__(self, dataset: Any, transforms: Sequence[Transform] = (), *, seed: int = 0, skip_broken: bool = True):
        self.dataset, self.transforms = dataset, tuple(transforms)
        self.seed, self.skip_broken = seed, skip_broken
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int) -> Sample:
        epoch, index = divmod(key, len(self.dataset))
        image, annotations = self._read(index)
        rng = np.random.default_rng((self.seed, epoch, index))
        for transform in self.transforms:
            image, annotations = transform(image, annotations, rng)
        return image, annotations

    def _read(self, index: int) -> Sample:
        tries = min(len(self.dataset), MAX_BROKEN_IN_A_ROW)
        for candidate in range(index, index + tries):
            candidate %= len(self.dataset)
            try:
                return self.dataset[candidate]
            except (ValueError, OSError) as error:
                if not self.skip_broken:
                    raise
                _report_broken(self, candidate, error, "the next readable sample takes its place")
        raise ValueError(f"{tries} samples in a row, from index {index}, cannot be read; see the warnings above")


class EvaluationView(Dataset):
    """Samples of `dataset` by index, resized by `resize`, with annotations in pixels of the original image.

    Masks are left out: the evaluation compares with `dataset.coco()`. A sample that cannot be read is reported
    and None; it counts as an image in which nothing was found. With `skip_broken=False` it raises.
    """

    def __init__(self, dataset: Any, resize: Callable[[Tensor], Tensor], *, skip_broken: bool = True):
        self.dataset, self.resize, self.skip_broken = dataset, resize, skip_broken
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample | None:
        try:
            image, annotations = self.dataset[index]
        except (ValueError, OSError) as error:
            if not self.skip_broken:
                raise
            _report_broken(self, index, error, "it counts as an image without detections")
            return None
        return self.resized(image, annotations)

    def resized(self, image: Any, annotations: Any) -> Any:
        """The sample with its image resized."""
        size = image_size(image)
        return self.resize(image), replace(annotations, masks=None, original_size=annotations.original_size or size)


def _report_broken(view: TrainingView | EvaluationView, index: int, error: Exception, consequence: str) -> None:
    if index not in view._reported:
        view._reported.add(index)
        logger.warning("cannot read image id %d (%s): %s", view.dataset.image_ids[index], error, consequence)


class SampleKeys(Sampler[list[int]]):
    """The batches of sample keys of one rank, for training.

    Each epoch is a permutation of all samples that depends on the seed and the epoch (their own order without
    `shuffle`). Consecutive runs of `batch_size * world_size` samples are one step of all ranks; what does not
    fill the last step is left out, so every rank has the same number of batches.

    A resumed run calls `set_epoch` and then `set_position` and gets the batches that the interrupted one had left.

    Args:
        length: number of samples in the dataset.
        batch_size: samples per batch of one rank.
        seed: of the permutations.
        rank, world_size: which of how many processes this is.

    Raises:
        ValueError: the samples do not fill one batch on every rank.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ):
        if length < batch_size * world_size:
            raise ValueError(
                f"{length} training samples do not fill one batch of {batch_size} on each of {world_size} processes: "
                f"use a smaller batch_size"
            )
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` (from 0) at its first batch."""
        self.epoch, self.position = epoch, 0

    def set_position(self, batches_done: int) -> None:
        """Begin after `batches_done` batches of the current epoch, until the next `set_epoch`."""
        if not 0 <= batches_done <= len(self):
            raise ValueError(f"cannot continue after batch {batches_done} of an epoch of {len(self)} batches")
        self.position = batches_done

    def order(self) -> np.ndarray:
        """The samples of the current epoch in their order."""
        if not self.shuffle:
            return np.arange(self.length)
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.length)

    def __iter__(self) -> Iterator[list[int]]:
        keys = self.epoch * self.length + self.order()[: len(self) * self.batch_size * self.world_size]
        yield from keys.reshape(len(self), self.world_size, self.batch_size)[self.position :, self.rank].tolist()


class _EvaluationLoader(DataLoader):
    """A loader that passes over batches of which no image could be read."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return (batch for batch in super().__iter__() if batch is not None)


def train_loader(
    dataset: Any,
    transforms: Sequence[Transform] = (),
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    skip_broken: bool = True,
) -> DataLoader:
    """A loader of training batches; its `batch_sampler` is the `SampleKeys` to set epoch and position on.

    Args:
        dataset: by the dataset protocol (see `TrainingView`); one that needs another view or order of its samples has
            them as `training_view` and `sample_keys`.
        transforms: applied in order to each sample.
        batch_size: images per batch of this process.
        workers: processes that load; 0 loads in this one.
        rank, world_size: which of how many training processes this is.
        skip_broken: replace unreadable samples, instead of raising.
    """
    keys_type, view_type = getattr(dataset, "sample_keys", SampleKeys), getattr(dataset, "training_view", TrainingView)
    keys = keys_type(len(dataset), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    view = view_type(dataset, transforms, seed=seed, skip_broken=skip_broken)
    return DataLoader(view, batch_sampler=keys, collate_fn=_collate_of(dataset), **_worker_options(workers))


def eval_loader(
    dataset: Any,
    resize: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    skip_broken: bool = True,
) -> DataLoader:
    """A loader of evaluation batches: over all ranks each image once, in order; ranks may differ in number.

    Args:
        dataset: by the dataset protocol (see `EvaluationView`).
        resize: the model's `input_rule.resize`.
        batch_size: images per batch of this process.
        workers: processes that load; 0 loads in this one.
        rank, world_size: which of how many evaluating processes this is.
        skip_broken: pass over unreadable images, instead of raising.
    """
    view = getattr(dataset, "evaluation_view", EvaluationView)(dataset, resize, skip_broken=skip_broken)
    indices, collate = range(rank, len(view), world_size), partial(_collate_readable, _collate_of(dataset))
    return _EvaluationLoader(view, batch_size, sampler=indices, collate_fn=collate, **_worker_options(workers))


def _collate_of(dataset: Any) -> Callable:
    """How samples become a batch; a dataset of other things than single images has its own `collate`."""
    return getattr(dataset, "collate", Batch.collate)


def _collate_readable(collate: Callable, samples: list[Sample | None]) -> Batch | None:
    readable = [sample for sample in samples if sample is not None]
    return collate(readable) if readable else None


def _worker_options(workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _init_worker,
        # Starting an epoch draws a number; from here, so that the global random state stays as it is.
        "generator": torch.Generator(),
    }


def _init_worker(worker: int) -> None:
    torch.set_num_threads(1)
