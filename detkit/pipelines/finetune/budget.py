"""How long a run takes on this machine, measured by a few steps, and how many epochs fit into a time."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detkit.config import resolve_config
from detkit.console import format_seconds, without_warnings
from detkit.engine.hook import Hook, Run
from detkit.engine.runner import Runner
from detkit.runtime.components import build_evaluator
from detkit.runtime.evaluate import evaluate_one
from detkit.runtime.processes import world_size

WARM_UP, TIMED = 2, 6  # steps
LONGEST = 20.0  # seconds of measuring, after which at least one step was timed
EVALUATIONS = 5  # of a run: the first after a fifth of it
SHARE_OF_EVALUATIONS = 1 / 3  # of a time budget, at most; where five take more, there are two


@dataclass(frozen=True)
class Speed:
    """What was measured: seconds of an optimizer step and of a whole evaluation, and the steps of an epoch."""

    step: float
    evaluation: float
    steps_per_epoch: int


class Stopwatch(Hook):
    """Notes when each step was over, and ends a run that takes too long."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []

    def after_step(self, runner: Run) -> None:
        """Note the time."""
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)
        self.times.append(time.perf_counter())
        if len(self.times) > WARM_UP and self.times[-1] - self.start > LONGEST and world_size() == 1:
            runner.stop_reason = "measured"

    def seconds(self) -> float:
        """Of a step, after those of the warm-up."""
        return (self.times[-1] - self.times[WARM_UP - 1]) / (len(self.times) - WARM_UP)


def measure(config: dict[str, Any], device: torch.device) -> Speed:
    """Train a few steps of a run's config with weights that are thrown away, and evaluate an image.

    Nothing is written, and the run that follows is the same as without. With several processes all must call this.
    """
    steps = WARM_UP + TIMED
    train = {**config["train"], "max_steps": steps, "epochs": steps, "loggers": []}
    short = {**config, "train": train, "schedule": {"type": "constant"}, "hooks": []}
    with tempfile.TemporaryDirectory() as folder, without_warnings():
        runner = Runner(resolve_config(short), Path(folder), device)
        runner.hooks = [watch := Stopwatch()]
        while not runner.finished:
            runner.train_epoch()
        return Speed(watch.seconds(), _evaluation_seconds(runner), runner.steps_per_epoch)


def _evaluation_seconds(runner: Runner) -> float:
    """Of the whole validation part: the faster of two evaluations of an image, times the images."""
    if runner.val_data is None:
        return 0.0
    evaluator, seconds = build_evaluator(runner.config, runner.val_data), []
    for _ in range(2):
        start = time.perf_counter()
        evaluate_one(runner.trained_model, runner.val_data, evaluator)
        seconds.append(time.perf_counter() - start)
    return min(seconds) * len(runner.val_data)


def fit(config: dict[str, Any], speed: Speed, seconds: float) -> dict[str, Any]:
    """The config with as many epochs as fit into so many seconds with their evaluations; the schedule spans them.

    Where not even one epoch fits, the run ends within it, at the end of its schedule, but not before its first step.
    """
    many = EVALUATIONS * speed.evaluation <= SHARE_OF_EVALUATIONS * seconds
    left = seconds - (EVALUATIONS if many else 2) * speed.evaluation
    steps = max(1, int(left / speed.step))
    epochs, schedule, train = steps // speed.steps_per_epoch, config["schedule"], config["train"]
    if epochs == 0:  # `max_steps` alone would leave the schedule where it is then
        spans = schedule.get("per_step") and schedule["type"] == "cosine"
        schedule = {**schedule, "span_steps": steps} if spans else schedule
        train = {**train, "max_steps": steps}
    config = {**config, "schedule": schedule, "train": {**train, "epochs": max(1, epochs)}}
    return with_evaluations(config, speed, EVALUATIONS if many else 2)


def with_evaluations(config: dict[str, Any], speed: Speed, count: int = EVALUATIONS) -> dict[str, Any]:
    """The config with so many evaluations in equal distances, the first after a fifth of the run at the latest."""
    epochs = config["train"]["epochs"]
    every, fifth = max(1, epochs // count), max(1, total_steps(config, speed) // EVALUATIONS)
    first = fifth if every * speed.steps_per_epoch > fifth else None
    train = {**config["train"], "eval_every": every, "checkpoint_epochs": every, "first_eval": first}
    return {**config, "train": train}


def with_short_warmup(config: dict[str, Any], speed: Speed) -> dict[str, Any]:
    """The config with a warm-up of at most a tenth of the run's steps."""
    schedule, most = config["schedule"], total_steps(config, speed) // 10
    if schedule.get("warmup_steps", 0) > most:
        return {**config, "schedule": {**schedule, "warmup_steps": most}}
    return config


def total_steps(config: dict[str, Any], speed: Speed) -> int:
    """The optimizer steps of a run."""
    steps = config["train"]["epochs"] * speed.steps_per_epoch
    return min(steps, config["train"].get("max_steps") or steps)


def expected(config: dict[str, Any], speed: Speed) -> str:
    """How long a run will take, in words."""
    train, steps = config["train"], total_steps(config, speed)
    period, first = speed.steps_per_epoch * train.get("eval_every", 1), train.get("first_eval")
    evaluations = -(-steps // period) + (first is not None and first < steps)
    seconds = steps * speed.step + evaluations * speed.evaluation
    counts = [_counted(steps, "step"), _counted(train["epochs"], "epoch"), _counted(evaluations, "evaluation")]
    return f"about {format_seconds(seconds)}: {', '.join(counts)} ({speed.step:.3f} s a step)"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
