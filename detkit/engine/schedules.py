"""Learning-rate schedules: each makes a function from the optimizer step (from 0) to a factor of the initial rate.

A config names one as `schedule=dict(type="cosine", min_lr=1e-7)`; the runner adds `lr`, `epochs` and
`steps_per_epoch`. A warm-up, where asked for, multiplies the schedule by a line from about 0 to 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Le

from detkit.registry import build, register
from detkit.registry.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, PositiveShare

logger = logging.getLogger(__name__)

Schedule = Callable[[int], float]


def build_schedule(config: dict[str, Any], steps_per_epoch: int) -> Schedule:
    """The learning-rate schedule of a whole config."""
    run = {"lr": config["optimizer"]["lr"], "epochs": config["train"]["epochs"], "steps_per_epoch": steps_per_epoch}
    return build(config["schedule"], path="schedule", **run)


@register
def cosine(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    min_lr: Annotated[float, Ge(0), Le(100)] = 0.0,
    warmup_steps: NonNegativeInt = 0,
    warmup_epochs: NonNegativeFloat = 0,
    per_step: bool = False,
    official: bool = False,
    span_steps: PositiveInt | None = None,
) -> Schedule:
    """Half a cosine from `lr` to `min_lr` over all epochs (Loshchilov and Hutter 2017, without restarts).

    Args:
        min_lr: the rate at the end.
        warmup_steps: optimizer steps over which the rate rises from about 0; 0 for no warm-up.
        warmup_epochs: the same in epochs; give one of the two.
        per_step: move at every step instead of at every epoch, and reach `min_lr` in the last step.
        official: stay one epoch behind, so that epochs 0 and 1 both have the initial rate, as the published ViDT models
            were trained (the authors' loop steps the schedule with the epoch just finished).
        span_steps: with `per_step`, reach `min_lr` after so many steps, for a run that `train.max_steps` ends early.

    Raises:
        ValueError: `min_lr` above `lr`, both warm-ups, `official` with `per_step`, or `span_steps` without it.
    """
    if not 0 <= min_lr <= lr:
        raise ValueError(f"min_lr must lie between 0 and lr = {lr}, got {min_lr}")
    if per_step and official:
        raise ValueError("official=True delays the schedule by a whole epoch: it cannot be combined with per_step")
    if span_steps is not None and not per_step:
        raise ValueError("span_steps counts steps: it needs per_step=True")
    last_step = max((span_steps or epochs * steps_per_epoch) - 1, 1)
    floor = min_lr / lr if lr else 0.0

    def factor(step: int) -> float:
        epoch = step // steps_per_epoch
        progress = step / last_step if per_step else max(epoch - official, 0) / epochs
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return _with_warmup(factor, (epochs, steps_per_epoch), warmup_steps, warmup_epochs)


@register
def constant(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_steps: NonNegativeInt = 0,
    warmup_epochs: NonNegativeFloat = 0,
) -> Schedule:
    """The initial rate throughout.

    Args:
        warmup_steps: optimizer steps over which the rate rises from about 0; 0 for no warm-up.
        warmup_epochs: the same in epochs; give one of the two.
    """
    return _with_warmup(lambda step: 1.0, (epochs, steps_per_epoch), warmup_steps, warmup_epochs)


@register
def step(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    drop_epochs: Sequence[PositiveInt],
    factor: PositiveShare = 0.1,
    warmup_steps: NonNegativeInt = 0,
    warmup_epochs: NonNegativeFloat = 0,
) -> Schedule:
    """Multiply the rate by `factor` at the start of each epoch of `drop_epochs` (numbered from 0).

    Args:
        drop_epochs: epochs of this run, not the first.
        factor: what the rate is multiplied by at each drop.
        warmup_steps: optimizer steps over which the rate rises from about 0; 0 for no warm-up.
        warmup_epochs: the same in epochs; give one of the two.

    Raises:
        ValueError: `drop_epochs` is no list of epochs of this run.
    """
    if not isinstance(drop_epochs, Sequence) or not all(0 < epoch < epochs for epoch in drop_epochs):
        raise ValueError(f"drop_epochs must be epochs between 1 and {epochs - 1}, got {drop_epochs!r}")

    def drops(step: int) -> float:
        return factor ** sum(step // steps_per_epoch >= epoch for epoch in drop_epochs)

    return _with_warmup(drops, (epochs, steps_per_epoch), warmup_steps, warmup_epochs)


def _with_warmup(schedule: Schedule, run: tuple[int, int], steps: int, epochs: float) -> Schedule:
    """The schedule of a run of so many epochs, each of so many steps, with a warm-up."""
    if steps and epochs:
        raise ValueError("give warmup_steps or warmup_epochs, not both")
    if steps < 0 or epochs < 0:
        raise ValueError("warmup_steps and warmup_epochs must not be negative")
    steps = steps or round(epochs * run[1])
    if steps >= run[0] * run[1] > 0:
        logger.warning(
            "schedule: the warm-up of %d steps is not shorter than the run of %d: optimizer.lr is never reached. Lower "
            "warmup_steps or train longer",
            steps,
            run[0] * run[1],
        )
    return lambda step: schedule(step) * min(1.0, (step + 1) / steps) if steps else schedule(step)
