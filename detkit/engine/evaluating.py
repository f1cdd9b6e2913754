"""Evaluation during training, and what follows from its figures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from detkit.checkpoints.weights import save_weights
from detkit.engine.hook import Hook, Run
from detkit.files import write_text
from detkit.modeling.base import Model
from detkit.registry import ConfigError
from detkit.runtime.components import build_evaluator
from detkit.runtime.evaluate import EvaluationStopped, evaluate, evaluate_one, evaluation_options
from detkit.runtime.processes import is_main, share_buffers, world_size
from detkit.runtime.random_state import unchanged_random_state
from detkit.structures.protocols import Dataset, Evaluator


class Evaluate(Hook):
    """Every `eval_every` epochs, after step `first_eval` and at the end: figures, results.json, the best weights."""

    def __init__(self, runner: Run, dataset: Dataset):
        self.every, self.first = runner.options["eval_every"], runner.options["first_eval"]
        self.dataset = dataset
        self.evaluator = build_evaluator(runner.config, dataset)
        check_evaluation(runner.config, runner.trained_model, dataset, self.evaluator)

    def after_step(self, runner: Run) -> None:
        """Evaluate after step `first_eval`; at the end of an epoch `after_epoch` does it, once the epoch is saved."""
        if self._is_first_due(runner) and not runner.epoch_ended and not runner.interrupted:
            self._evaluate(runner)
            runner.set_training()

    def after_epoch(self, runner: Run) -> None:
        """Evaluate after every `eval_every`-th epoch; not again what was evaluated before the run was resumed."""
        is_due = runner.epoch % self.every == 0 or self._is_first_due(runner)
        if is_due and runner.evaluated_at != runner.step:
            self._evaluate(runner)

    def _is_first_due(self, runner: Run) -> bool:
        return self.first is not None and runner.step >= self.first and runner.evaluated_at is None

    def after_train(self, runner: Run) -> None:
        """Evaluate the final weights, unless a signal ended the run or they were evaluated already."""
        if not runner.interrupted and runner.evaluated_at != runner.step:
            self._evaluate(runner)

    def _evaluate(self, runner: Run) -> None:
        start, options = time.perf_counter(), evaluation_options(runner.config)
        share_buffers(runner.trained_model)  # those that the checkpoint has
        try:
            with unchanged_random_state():
                stopped = partial(_may_stop, runner)
                metrics = evaluate(runner.trained_model, self.dataset, self.evaluator, stopped=stopped, **options)
        except EvaluationStopped:
            return
        runner.metrics = {name: float(value) for name, value in metrics.items()}
        runner.evaluated_at = runner.step
        runner.evaluation_seconds = time.perf_counter() - start
        self._write(runner, is_best=self._compare(runner))

    def _compare(self, runner: Run) -> bool:
        name = runner.options["best_metric"] or next(iter(runner.metrics))
        if name not in runner.metrics:
            raise ConfigError(f"train.best_metric: no figure is called {name!r}. {_valid(runner.metrics)}")
        value, best = runner.metrics[name], runner.best["value"]
        is_best = not math.isnan(value) and (best is None or value > best)
        if is_best:
            runner.best = {"value": value, "step": runner.step, "since": 0}
        else:
            runner.best = {**runner.best, "since": runner.best["since"] + 1}
        return is_best

    def _write(self, runner: Run, *, is_best: bool) -> None:
        if is_main():
            results = json.dumps(self.evaluator.results())
            write_text(runner.out / "results.json", results)
            if is_best:
                save_weights(runner.out / "best.safetensors", runner.trained_model.state_dict(), runner.header())
            runner.console.line(self.evaluator.table())
        row = {"kind": "val", "step": runner.step, "epoch": runner.epoch, **runner.metrics}
        runner.call("on_row", {**row, "seconds": runner.evaluation_seconds})
        runner.save_evaluation()


class EarlyStop(Hook):
    """Ends the run after `patience` evaluations in a row without a better figure."""

    def __init__(self, patience: int):
        self.patience = patience

    def before_train(self, runner: Run) -> None:
        """Stop a resumed run before its first step if its checkpoint has used up the patience."""
        if runner.best["since"] >= self.patience:
            runner.stop_reason = f"no better figure in {self.patience} evaluations (best at step {runner.best['step']})"

    def after_epoch(self, runner: Run) -> None:
        """Set `stop_reason` when the last `patience` evaluations brought no better figure."""
        self.before_train(runner)


def check_evaluation(config: dict[str, Any], model: Model, dataset: Dataset, evaluator: Evaluator) -> None:
    """Evaluate one sample, to find what an evaluation would raise before hours of training.

    Args:
        config: of the run.

    Raises:
        ConfigError: the evaluator, the validation data and the model do not fit, or it gives no `train.best_metric`.
    """
    options = {"precision": config["train"]["precision"], "skip_broken": config["data"]["skip_broken"]}
    try:
        with unchanged_random_state():
            figures = evaluate_one(model, dataset, evaluator, **options)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"evaluator: {error}") from error
    name = config["train"]["best_metric"]
    if name is not None and figures is not None and name not in figures:
        raise ConfigError(f"train.best_metric: no figure is called {name!r}. {_valid(figures)}")


def _may_stop(runner: Run) -> bool:
    """Whether a signal asks to end an evaluation; several processes would have to agree, and see it to its end."""
    return runner.interrupted and world_size() == 1


def _valid(figures: Iterable[str]) -> str:
    return f"Valid: {', '.join(figures)}"
