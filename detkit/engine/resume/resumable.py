"""Whether a run may go on from a checkpoint: what must be as it was, and what may change."""

from __future__ import annotations

import json
from typing import Any

from detkit.checkpoints.resume import Checkpoint
from detkit.checkpoints.weights import CheckpointError
from detkit.config import differing_paths, to_json
from detkit.runtime.processes import world_size
from detkit.structures import LabelMap
from detkit.structures.protocols import Dataset

# Options that decide what is measured, but not how the model is trained.
EVALUATION = {"evaluator", "data.val", "train.best_metric"}

# What may change when a run is resumed; everything else is part of what the run is.
MAY_CHANGE = EVALUATION | {
    "imports",  # the same files may lie elsewhere
    "data.eval_batch_size",
    "data.workers",
    *(f"train.{key}" for key in ("epochs", "max_steps", "device", "log_every", "eval_every", "checkpoint_every")),
    *(f"train.{key}" for key in ("first_eval", "loggers")),
    *(f"train.{key}" for key in ("checkpoint_epochs", "early_stop", "draw_samples", "tensorboard", "profile_steps")),
}


def forbidden_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The paths at which two configs differ although a resumed run must have them as before."""
    return [path for path in differing_paths(then, now) if not _is_below(path, MAY_CHANGE)]


def evaluates_alike(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the figures of two configs can be compared."""
    first, second = (json.loads(to_json(config)) for config in (then, now))
    return not any(_is_below(path, EVALUATION) for path in differing_paths(first, second))


def check_resumable(checkpoint: Checkpoint, config: dict[str, Any], data: Dataset, *, batches: int) -> None:
    """Check that the data and the processes are those that the checkpoint was written with.

    Args:
        config: of the run as it goes on.
        data: the training data.
        batches: of each process in an epoch.

    Raises:
        CheckpointError: they are others; it says what has changed, and the way out.
    """
    state, header = checkpoint.trainer, checkpoint.header
    then = len(state["random_states"])
    if then != world_size():
        raise CheckpointError(
            f"{checkpoint.path}: was written with {then} processes, this run has {world_size()}: start it with {then}"
        )
    way_out = (
        f"restore data.train, or begin a new run with these weights: --out OTHER_FOLDER --set "
        f"train.init_from={checkpoint.path}"
    )
    if changes := _class_changes(LabelMap(**header["label_map"]), data.label_map):
        raise CheckpointError(f"{checkpoint.path}: data.train has other classes than before: {changes}; {way_out}")
    for name, before, now in (
        ("batches per epoch", state["batches_per_epoch"], batches),
        ("training images", state.get("images", len(data)), len(data)),
    ):
        if before != now:
            raise CheckpointError(
                f"{checkpoint.path}: was written with {before} {name}, this run has {now} "
                f"(data.train has {len(data)} images); {way_out}"
            )


def _class_changes(then: LabelMap, now: LabelMap) -> str:
    """The first differences between the classes, or the order of the classes, of two label maps; "" if none."""
    before, after = (dict(zip(labels.category_ids, labels.names, strict=True)) for labels in (then, now))
    both = [i for i in before if i in after]
    changes = [f"id {i} was {before[i]!r} and is {after[i]!r}" for i in both if before[i] != after[i]]
    changes += [f"{name!r} (id {i}) is gone" for i, name in before.items() if i not in after]
    changes += [f"{name!r} (id {i}) is new" for i, name in after.items() if i not in before]
    if not changes and tuple(before) != tuple(after):
        return "their order has changed"
    return "; ".join(changes[:5])


def _is_below(path: str, options: set[str]) -> bool:
    return any(path == option or path.startswith(f"{option}.") for option in options)
