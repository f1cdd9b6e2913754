"""Stops a run whose loss or gradients are not finite, and keeps the batch for a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detkit.engine.distributed import rank, world_size
from detkit.engine.weights import write_atomically
from detkit.structures import Annotations, Batch, ImageBatch


class NonFiniteError(FloatingPointError):
    """A loss term or the gradient norm is NaN or infinite."""


class _Watched(NamedTuple):
    step: int
    micro_batches: list[Batch]
    names: list[str]
    values: Tensor
    copied: torch.cuda.Event | None


class FiniteGuard:
    """Checks every step without making the host wait for the GPU.

    On a GPU the values of a step travel to the host while the next step runs, and are looked at after it; on the
    CPU they are looked at once, before the optimizer uses the gradients.
    """

    def __init__(self, out: Path):
        self.out = out
        self._watched: _Watched | None = None

    def watch(self, step: int, micro_batches: list[Batch], losses: Mapping[str, Tensor], grad_norm: Tensor) -> None:
        """Look at the values of the step before, and note those of this one.

        Raises:
            NonFiniteError: see `check`.
        """
        self.check()
        values = torch.stack([*losses.values(), grad_norm]).detach()
        copied = torch.cuda.Event() if values.is_cuda else None
        values = values.to("cpu", non_blocking=True)
        if copied is not None:
            copied.record()
        self._watched = _Watched(step, micro_batches, [*losses, "gradient norm"], values, copied)
        if copied is None:
            self.check()

    def check(self) -> None:
        """Look at the values that `watch` noted; needed before the weights are saved or evaluated.

        Raises:
            NonFiniteError: with the step, the loss terms, the image ids and where the batch was saved.
        """
        watched, self._watched = self._watched, None
        if watched is None:
            return
        if watched.copied is not None:
            watched.copied.synchronize()
        if not watched.values.isfinite().all():
            self._stop(watched)

    def _stop(self, watched: _Watched) -> None:
        suffix = f"_rank_{rank()}" if world_size() > 1 else ""
        path = self.out / f"nonfinite_batch_step_{watched.step}{suffix}.pt"
        values = dict(zip(watched.names, watched.values.tolist(), strict=True))
        save_batches(path, watched.micro_batches, step=watched.step, values=values)
        images = [a.image_id for batch in watched.micro_batches for a in batch.annotations]
        terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise NonFiniteError(
            f"step {watched.step}: the loss or its gradient is not finite ({terms}). Images: {images}. "
            f"The batch is saved in {path}; the last checkpoint is from before it."
        )


def save_batches(path: str | Path, batches: list[Batch], **more: Any) -> None:
    """Write batches, and `more` of plain types, as a file for `load_batches` or `torch.load(weights_only=True)`."""
    state = {"batches": [asdict(batch.to("cpu")) for batch in batches], **more}
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_batches(path: str | Path) -> list[Batch]:
    """Read the batches that a non-finite loss stopped at, to run them again."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [
        Batch(ImageBatch(**batch["images"]), [Annotations(**a) for a in batch["annotations"]], batch["num_objects"])
        for batch in state["batches"]
    ]
