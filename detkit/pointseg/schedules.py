"""The learning-rate schedules of PointWSSIS: functions from the step (from 0) to a factor of `lr`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from detkit.registry import register
from detkit.registry.ranges import NonNegativeInt, PositiveInt, PositiveShare, Share

logger = logging.getLogger(__name__)

Schedule = Callable[[int], float]


@register
def refine_cosine(
    *, lr: float, epochs: int, steps_per_epoch: int, warmup_steps: NonNegativeInt = 2000, floor: Share = 0.01
) -> Schedule:
    """The schedule of MaskRefineNet: linear warm-up from `floor * lr` to `lr`, then half a cosine back to `floor * lr`.

    The paper trains 200,000 steps with lr 1e-4.

    Args:
        warmup_steps: steps of the line at the start.
        floor: first and last rate as a share of `lr`.

    Raises:
        ValueError: the warm-up is not shorter than the run.
    """
    total = epochs * steps_per_epoch
    if not 0 <= warmup_steps < total:
        raise ValueError(f"warmup_steps must be below the {total} steps of the run, got {warmup_steps}")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return floor + (1 - floor) * step / warmup_steps
        progress = min(1.0, (step - warmup_steps) / (total - warmup_steps))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor


@register
def solo_steps(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    drop_steps: Sequence[PositiveInt],
    factor: PositiveShare = 0.1,
    warmup_steps: NonNegativeInt = 1000,
    warmup_factor: Share = 0.01,
) -> Schedule:
    """The schedule of teacher and student: linear warm-up from `warmup_factor * lr` to `lr`, then steps.

    The rate is multiplied by `factor` at each of `drop_steps`.

    Args:
        drop_steps: ascending steps at which the rate drops.
        factor: what the rate is multiplied by at each drop.
        warmup_steps: steps of the line at the start.
        warmup_factor: first rate as a share of `lr`.

    Raises:
        ValueError: `drop_steps` does not ascend.
    """
    if list(drop_steps) != sorted(set(drop_steps)):
        raise ValueError(f"drop_steps must ascend, got {drop_steps!r}")
    if warmup_steps >= epochs * steps_per_epoch:
        message = "schedule: the warm-up of %d steps is not shorter than the run of %d: optimizer.lr is never reached"
        logger.warning(message, warmup_steps, epochs * steps_per_epoch)

    def rate(step: int) -> float:
        warm = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        return (warmup_factor + (1 - warmup_factor) * warm) * factor ** sum(step >= drop for drop in drop_steps)

    return rate
