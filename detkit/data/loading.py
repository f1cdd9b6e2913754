"""Loaders of training and evaluation batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detkit.data.views import Sample, Transform
from detkit.structures.protocols import Dataset, SampleBatch


class EvaluationLoader:
    """Batches of a loader without those of which no image could be read.

    Attributes:
        batches: the loader; its length counts all batches.
    """

    def __init__(self, batches: DataLoader):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[SampleBatch]:
        return (batch for batch in self.batches if batch is not None)


def train_loader(
    dataset: Dataset,
    transforms: Sequence[Transform] = (),
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    skip_broken: bool = True,
    epochs: float = math.inf,
) -> DataLoader:
    """A loader of training batches; its `batch_sampler` is the `SampleKeys` to set epoch and position on.

    Args:
        dataset: gives its view, the order of its samples and how they become a batch.
        transforms: applied in order to each sample.
        batch_size: images per batch of this process.
        workers: processes that load; 0 loads in this one.
        rank, world_size: which of how many training processes this is.
        skip_broken: replace unreadable samples, instead of raising.
        epochs: of the whole training, for transforms that are left out at its end.
    """
    keys = dataset.sample_keys(len(dataset), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    options: dict[str, Any] = {"seed": seed, "skip_broken": skip_broken}
    if any(getattr(transform, "until", 1.0) < 1 for transform in transforms):
        options["epochs"] = epochs
    view: Any = dataset.training_view(dataset, transforms, **options)
    return DataLoader(view, batch_sampler=keys, collate_fn=dataset.collate, **_worker_options(workers))


def eval_loader(
    dataset: Dataset,
    resize: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    skip_broken: bool = True,
) -> EvaluationLoader:
    """A loader of evaluation batches: over all ranks each image once, in order; ranks may differ in number.

    Args:
        dataset: gives its view, and how samples become a batch.
        resize: the model's `input_rule.resize`.
        batch_size: images per batch of this process.
        workers: processes that load; 0 loads in this one.
        rank, world_size: which of how many evaluating processes this is.
        skip_broken: pass over unreadable images, instead of raising.
    """
    view: Any = dataset.evaluation_view(dataset, resize, skip_broken=skip_broken)
    indices, collate = range(rank, len(view), world_size), partial(_collate_readable, dataset.collate)
    batches = DataLoader(view, batch_size, sampler=indices, collate_fn=collate, **_worker_options(workers))
    return EvaluationLoader(batches)


def _collate_readable(collate: Callable, samples: list[Sample | None]) -> SampleBatch | None:
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
