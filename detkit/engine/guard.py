"""Stops a run whose loss or gradients are not finite, and keeps the batch for `detkit replay`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detkit.files import write_atomically
from detkit.official.unpickling import read_stored
from detkit.runtime.processes import rank, world_size

# Under this key a saved dataclass names its type.
TYPE = "type of the dataclass"


class NonFiniteError(FloatingPointError):
    """A loss term or the gradient norm is NaN or infinite."""


class _Watched(NamedTuple):
    step: int
    micro_batches: list[Any]
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

    def watch(self, step: int, micro_batches: list[Any], losses: Mapping[str, Tensor], grad_norm: Tensor) -> None:
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
            f"The batch is saved; to see where it goes wrong, with {_weights_of(self.out)}: "
            f"detkit replay {path} {self.out}"
        )


def _weights_of(out: Path) -> str:
    """Which weights `detkit replay` takes from the run in `out`."""
    if steps := sorted(path.stem.partition("_")[2] for path in out.glob("checkpoints/step_*.safetensors")):
        return f"the checkpoint of step {int(steps[-1])}"
    return "the initial weights, for there is no checkpoint yet"


def save_batches(path: str | Path, batches: list[Any], **more: Any) -> None:
    """Write batches, and `more` of plain types, as a file for `load_batches` or `torch.load(weights_only=True)`.

    Args:
        batches: dataclasses with a `to`, made of tensors, plain values, lists, tuples, dicts and other dataclasses.
    """
    state = {"batches": [_to_plain(batch.to("cpu")) for batch in batches], **more}
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_batches(path: str | Path) -> tuple[list[Any], dict[str, Any]]:
    """Read the batches that a non-finite loss stopped at, to run them again.

    Returns:
        The batches, and what was saved with them: "step" and "values", the loss terms and the gradient norm.

    Raises:
        ValueError: no file of saved batches, or one that names a type that is no dataclass of detkit or of a module
            that is imported already.
    """
    try:
        state = read_stored(Path(path))
        batches = [_from_plain(batch) for batch in state.pop("batches")]
    except (ValueError, OSError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no saved batches ({type(error).__name__}: {error})") from error
    return batches, state


def _to_plain(value: Any) -> Any:
    """Dataclasses as dicts that name their type."""
    if is_dataclass(value):
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        return {TYPE: name, **{field.name: _to_plain(vars(value)[field.name]) for field in fields(value)}}
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    return type(value)(map(_to_plain, value)) if isinstance(value, (list, tuple)) else value


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict):
        items = {key: _from_plain(item) for key, item in value.items() if key != TYPE}
        return _dataclass_of(value[TYPE])(**items) if TYPE in value else items
    return type(value)(map(_from_plain, value)) if isinstance(value, (list, tuple)) else value


def _dataclass_of(name: str) -> type:
    """The dataclass of a "module:name"; a file can import nothing but modules of detkit."""
    module, _, attribute = name.partition(":")
    if module.startswith("detkit."):
        importlib.import_module(module)
    found = getattr(sys.modules.get(module), attribute, None)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"cannot read a batch of type {name!r}: import the module that defines it first")
    return found
