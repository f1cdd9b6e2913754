"""Checkpoints of a run: pairs of a weight file and the trainer's state. After the first save one is always complete.

A pair is `step_00000120.safetensors` (see `detkit.checkpoints.weights`) and `step_00000120.trainer.pt`. Both hold the
same random `pair` id, so that files of different saves are never mixed. The weight file is written last: a process that
is killed before leaves no pair. `step_00000120.evaluation.json` holds what became known after the pair was written: the
figures of its weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detkit.checkpoints.weights import CheckpointError, read_header, read_weights, save_weights
from detkit.files import write_atomically, write_json
from detkit.official.unpickling import read_stored

logger = logging.getLogger(__name__)

TRAINER_SUFFIX = ".trainer.pt"
EVALUATION_SUFFIX = ".evaluation.json"


class Checkpoint(NamedTuple):
    """A pair that was read completely."""

    path: Path
    weights: dict[str, Tensor]
    header: dict[str, Any]
    trainer: dict[str, Any]


def save_checkpoint(
    folder: str | Path, step: int, weights: dict[str, Tensor], header: dict[str, Any], trainer: dict[str, Any]
) -> Path:
    """Write the pair of `step`, then delete all but it and the newest one before it.

    The weights are written last, with a checksum of the trainer's state: they exist only beside their complete state.
    If the process is killed meanwhile, the pairs that were complete before can still be read.

    Args:
        trainer: tensors, numbers, strings, lists and dicts only (it is read with `weights_only=True`).

    Returns:
        The path of the weight file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.safetensors"
    mark = {"step": step, "pair": uuid.uuid4().hex}
    trainer_path = _beside(path, TRAINER_SUFFIX)
    write_atomically(trainer_path, lambda temporary: torch.save({**trainer, **mark}, temporary))
    save_weights(path, weights, {**header, **mark, "trainer_sha256": _digest(trainer_path)})
    _delete_others(folder, path)
    return path


def save_evaluation(folder: str | Path, step: int, known: dict[str, Any]) -> None:
    """Add to the checkpoint of `step` what its evaluation has changed in the trainer's state; no pair, no change.

    Args:
        known: values of JSON types, which replace those of the trainer's state when it is read.
    """
    path = Path(folder) / f"step_{step:08d}.safetensors"
    if path.is_file():
        pair = read_header(path).get("pair")
        write_json(_beside(path, EVALUATION_SUFFIX), {"pair": pair, "known": known})


def latest_checkpoint(folder: str | Path, check: Callable[[Checkpoint], None] | None = None) -> Checkpoint | None:
    """Read the newest complete pair; None where there is none. Broken pairs are reported.

    A weight file without a trainer's state was left by a process that died while it was writing its first checkpoint.

    Args:
        check: raises a `CheckpointError` for a pair that cannot be used; the one before is read then.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged.
    """
    paths = sorted(Path(folder).glob("step_*.safetensors"), reverse=True)
    for path in paths:
        try:
            checkpoint = read_checkpoint(path)
            if check is not None:
                check(checkpoint)
            return checkpoint
        except CheckpointError as error:
            logger.warning("checkpoint passed over: %s", error)
    if damaged := [path for path in paths if _is_pair(path)]:
        raise CheckpointError(
            f"none of the {len(damaged)} checkpoints in {folder} is complete and readable; to train from the beginning "
            "remove them"
        )
    return None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the weight file `path` and the trainer's state beside it.

    Raises:
        CheckpointError: one of the two is missing, truncated or belongs to another save.
    """
    path = Path(path)
    weights, header = read_weights(path)
    trainer_path = _beside(path, TRAINER_SUFFIX)
    if not trainer_path.is_file():
        raise CheckpointError(f"{path}: {trainer_path.name} is missing beside it")
    if "trainer_sha256" in header and header["trainer_sha256"] != _digest(trainer_path):
        raise CheckpointError(f"{path}: {trainer_path.name} beside it belongs to another save, or was altered")
    try:
        trainer = read_stored(trainer_path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(trainer, dict) or "pair" not in trainer:
        raise CheckpointError(f"{trainer_path}: is not a trainer's state but {type(trainer).__name__}")
    if trainer["pair"] != header.get("pair"):
        raise CheckpointError(f"{path}: {trainer_path.name} beside it belongs to another save")
    return Checkpoint(path, weights, header, trainer | _evaluation(path, trainer["pair"]))


def _evaluation(path: Path, pair: str) -> dict[str, Any]:
    """What `save_evaluation` added to a pair; nothing where that is missing or belongs to another save."""
    try:
        stored = json.loads(_beside(path, EVALUATION_SUFFIX).read_text(encoding="utf-8"))
        return dict(stored["known"]) if stored["pair"] == pair else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_pair(path: Path) -> bool:
    return _beside(path, TRAINER_SUFFIX).is_file()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(".safetensors") + suffix)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _delete_others(folder: Path, newest: Path) -> None:
    """Delete temporary files that a killed process left, pairs after `newest` (of before a resume) and old pairs."""
    before = [p for p in folder.glob("step_*.safetensors") if p.name < newest.name and _is_pair(p)]
    kept = {newest, _beside(newest, TRAINER_SUFFIX)}
    for weights in sorted(before)[-1:]:
        kept |= {weights, _beside(weights, TRAINER_SUFFIX), _beside(weights, EVALUATION_SUFFIX)}
    for path in [*folder.glob("step_*"), *folder.glob(".step_*.tmp")]:
        if path not in kept:
            path.unlink(missing_ok=True)
