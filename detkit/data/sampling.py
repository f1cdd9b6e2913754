"""The order of training samples, which a resumed run continues where it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


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
