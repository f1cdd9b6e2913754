"""Whether the trainer's state of a checkpoint holds what a run needs to go on."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, MinLen

from detkit.checkpoints.resume import Checkpoint
from detkit.checkpoints.weights import CheckpointError
from detkit.registry import ConfigError, check_value
from detkit.runtime.random_state import set_random_state, unchanged_random_state

Count = Annotated[int, Ge(0)]
# The entries that a run reads.
STATE: dict[str, Any] = {
    "step": Count,
    "epoch": Count,
    "position": Count,
    "batches_per_epoch": Count,
    "evaluated_at": Count | None,
    "metrics": dict,
    "best": dict,
    "optimizer": dict,
    "raw_weights": dict | None,
    "random_states": Annotated[list[dict], MinLen(1)],
    "intervals": list[dict],
    "images": Count,
}
NEW = {"intervals", "images"}  # not in checkpoints of older versions


def check_state(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Check the content of a trainer's state, before any of it is used.

    Args:
        optimizer: of the run.

    Raises:
        CheckpointError: an entry is missing, of another kind, or does not fit the run; the message says which.
    """
    state = checkpoint.trainer
    try:
        for name, wanted in STATE.items():
            if name in state or name not in NEW:
                check_value(state.get(name, "nothing"), wanted, name)
        if state["position"] > state["batches_per_epoch"]:
            raise ConfigError(f"position: {state['position']} is behind the last batch of an epoch")
        check_value(state["best"].get("since"), Count, "best.since")
        check_value(state["best"].get("step"), Count | None, "best.step")
        for name, value in [*state["metrics"].items(), ("best.value", state["best"].get("value") or 0.0)]:
            check_value(isinstance(value, (int, float)) or value, bool, f"metrics: {name}")
        _check_optimizer(state["optimizer"], optimizer)
        _check_ranks(state)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.path}: the trainer's state beside it has wrong content: {error}") from error


def _check_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    groups, parameters = state.get("param_groups"), [p for group in optimizer.param_groups for p in group["params"]]
    own = optimizer.state_dict()["param_groups"]
    check_value(groups, list[dict], "optimizer.param_groups")
    names = [[sorted(group), group.get("params")] for group in groups or ()]
    if names != [[sorted(group), group["params"]] for group in own]:
        raise ConfigError("optimizer.param_groups: are not those of the run")
    check_value(state.get("state"), dict, "optimizer.state")
    for number, values in state["state"].items():
        check_value(values, dict, f"optimizer.state.{number}")
        if number not in range(len(parameters)):
            raise ConfigError(f"optimizer.state.{number}: there is no such parameter")
        shapes = {tuple(value.shape) for value in values.values() if isinstance(value, torch.Tensor)}
        if shapes - {(), tuple(parameters[number].shape)}:
            raise ConfigError(f"optimizer.state.{number}: is of another shape than its parameter")


def _check_ranks(state: dict[str, Any]) -> None:
    for rank, interval in enumerate(state.get("intervals", ())):
        check_value(interval.get("steps"), Count, f"intervals.{rank}.steps")
        check_value(interval.get("sums"), dict, f"intervals.{rank}.sums")
        if not all(isinstance(value, torch.Tensor) and value.shape == () for value in interval["sums"].values()):
            raise ConfigError(f"intervals.{rank}.sums: are not all numbers")
    if len(state.get("intervals", state["random_states"])) != len(state["random_states"]):
        raise ConfigError("intervals: are not of as many processes as random_states")
    for rank, random_state in enumerate(state["random_states"]):
        try:
            with unchanged_random_state():
                set_random_state({name: value for name, value in random_state.items() if name != "cuda"})
        except Exception as error:  # the generators do not expect what a file may hold
            raise ConfigError(f"random_states.{rank}: cannot be set ({type(error).__name__})") from error
