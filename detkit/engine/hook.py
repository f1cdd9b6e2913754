"""What a hook is, and what it sees of the run that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from detkit.console import Console
from detkit.engine.guard import FiniteGuard
from detkit.modeling.base import Model
from detkit.structures.protocols import Dataset


class Run(Protocol):
    """A training run, as hooks see it; `detkit.engine.runner.Runner` says what the attributes mean.

    A hook may change `interval`, `interval_steps`, `metrics`, `evaluated_at`, `evaluation_seconds` and `best`, and set
    `stop_reason`.
    """

    config: dict[str, Any]
    options: dict[str, Any]
    out: Path
    device: torch.device
    console: Console
    guard: FiniteGuard
    model: Model
    optimizer: torch.optim.Optimizer
    train_data: Dataset
    val_data: Dataset | None
    step: int
    epoch: int
    losses: dict[str, Tensor]
    grad_norm: Tensor
    metrics: dict[str, float]
    evaluated_at: int | None
    best: dict[str, Any]
    interval: dict[str, Tensor]
    interval_steps: int
    train_seconds: float
    data_seconds: float
    evaluation_seconds: float
    stop_reason: str | None

    @property
    def trained_model(self) -> Model:
        """The model to evaluate and keep: the moving average where there is one."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was the last of its epoch."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run."""

    def set_training(self) -> None:
        """Put the model in training mode, all but its frozen parts."""

    def call(self, event: str, *arguments: Any) -> None:
        """Call the method `event` of every hook, in order."""

    def header(self) -> dict[str, Any]:
        """The header of weight files written now."""

    def save(self) -> None:
        """Write a checkpoint; all processes must call this together."""

    def save_evaluation(self) -> None:
        """Add the figures to the checkpoint of this step, if there is one."""


class Hook:
    """Base of hooks: called on every process, in the order of `detkit.engine.hooks.build_hooks`.

    A subclass overrides the events that it needs. What only one process may do, such as writing a file, asks
    `detkit.runtime.processes.is_main()`.
    """

    def before_train(self, runner: Run) -> None:
        """Before the first step of this process; after a resume `runner.step` is not 0."""

    def after_step(self, runner: Run) -> None:
        """After each optimizer step; `runner.step` counts it."""

    def after_epoch(self, runner: Run) -> None:
        """After each whole epoch; `runner.epoch` counts it. Called again when a run resumes at the end of an epoch."""

    def after_train(self, runner: Run) -> None:
        """After the last step, also when the run was stopped."""

    def on_row(self, runner: Run, row: dict[str, Any]) -> None:
        """When figures are known. `row` holds `kind` ("train" or "val"), `step`, `epoch` and numbers."""
