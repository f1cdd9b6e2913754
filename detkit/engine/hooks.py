"""What happens around the training steps: evaluation, checkpoints, logs. See `detkit.engine.writers` for the output."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.checkpoints.weights import save_weights
from detkit.engine.hook import Hook, Run
from detkit.engine.writers import build_writers
from detkit.files import write_text
from detkit.registry import ConfigError, build
from detkit.runtime.components import build_evaluator
from detkit.runtime.evaluate import evaluate
from detkit.runtime.processes import all_reduce_sum, is_main, world_size
from detkit.runtime.random_state import unchanged_random_state
from detkit.structures.protocols import Dataset


class Log(Hook):
    """Every `log_every` steps, a row of the mean losses, speed and memory since the last one."""

    def __init__(self, every: int):
        self.every = every
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def before_train(self, runner: Run) -> None:
        """Start the first interval of mean values."""
        self._begin(runner)

    def after_step(self, runner: Run) -> None:
        """Add up the losses of the step; at the end of an interval, or of the run, send the row to all hooks."""
        for name, value in {**runner.losses, "grad_norm": runner.grad_norm}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._steps += 1
        if runner.step % self.every == 0 or runner.step == runner.total_steps:
            runner.guard.check()
            runner.call("on_row", self._row(runner))
            self._begin(runner)

    def _begin(self, runner: Run) -> None:
        self._sums, self._steps = {}, 0
        self._train_seconds, self._data_seconds = runner.train_seconds, runner.data_seconds

    def _row(self, runner: Run) -> dict[str, Any]:
        sums = all_reduce_sum(torch.stack(list(self._sums.values())).float())
        means = (sums / self._steps / world_size()).tolist()
        losses = dict(zip(self._sums, means, strict=True))
        grad_norm = losses.pop("grad_norm")
        seconds = (runner.train_seconds - self._train_seconds) / self._steps
        images = runner.config["data"]["batch_size"] * runner.options["accumulate"] * world_size()
        return {
            "kind": "train",
            "step": runner.step,
            "epoch": runner.epoch,
            "loss": sum(losses.values()),
            **losses,
            "grad_norm": grad_norm,
            "lr": runner.optimizer.param_groups[0]["lr"],
            "seconds_per_step": seconds,
            "images_per_second": images / seconds,
            "data_wait": (runner.data_seconds - self._data_seconds) / self._steps / seconds,
            "memory_gib": _memory_gib(runner.device),
            "seconds_left": seconds * (runner.total_steps - runner.step) + _evaluation_seconds_left(runner),
        }


class Evaluate(Hook):
    """Every `eval_every` epochs and at the end: validation figures, results.json, the best weights so far."""

    def __init__(self, runner: Run, dataset: Dataset):
        self.every = runner.options["eval_every"]
        self.dataset = dataset
        self.evaluator = build_evaluator(runner.config, dataset)

    def after_epoch(self, runner: Run) -> None:
        """Evaluate after every `eval_every`-th epoch."""
        if runner.epoch % self.every == 0:
            self._evaluate(runner)

    def after_train(self, runner: Run) -> None:
        """Evaluate the final weights, unless a signal ended the run or they were evaluated already."""
        if not runner.interrupted and runner.evaluated_at != runner.step:
            self._evaluate(runner)

    def _evaluate(self, runner: Run) -> None:
        start, data = time.perf_counter(), runner.config["data"]
        options = {"batch_size": data["eval_batch_size"], "workers": data["workers"]}
        options |= {"precision": runner.options["precision"], "skip_broken": data["skip_broken"]}
        with unchanged_random_state():
            metrics = evaluate(runner.trained_model, self.dataset, self.evaluator, **options)
        runner.metrics = {name: float(value) for name, value in metrics.items()}
        runner.evaluated_at = runner.step
        runner.evaluation_seconds = time.perf_counter() - start
        self._write(runner, is_best=self._compare(runner))

    def _compare(self, runner: Run) -> bool:
        name = runner.options["best_metric"] or next(iter(runner.metrics))
        if name not in runner.metrics:
            raise ConfigError(f"train.best_metric: no figure is called {name!r}. Valid: {', '.join(runner.metrics)}")
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


class SaveCheckpoints(Hook):
    """A checkpoint every `every` steps (None: not) and `epochs` epochs, and at the end of the run; last.safetensors."""

    def __init__(self, every: int | None, epochs: int = 1):
        self.every, self.epochs = every, epochs
        self._saved: tuple[int, int | None] | None = None  # step, and step of the last evaluation

    def before_train(self, runner: Run) -> None:
        """Note that the checkpoint which a run resumed from need not be written again."""
        if runner.step:
            self._saved = (runner.step, runner.evaluated_at)

    def after_step(self, runner: Run) -> None:
        """Save after every `every`-th step, except at the end of an epoch, where `after_epoch` decides."""
        if self.every and runner.step % self.every == 0 and not runner.epoch_ended:
            self._save(runner)

    def after_epoch(self, runner: Run) -> None:
        """Save after every `epochs`-th epoch."""
        if runner.epoch % self.epochs == 0:
            self._save(runner)

    def after_train(self, runner: Run) -> None:
        """Save what the last checkpoint does not hold yet, and write last.safetensors."""
        if self._saved != (runner.step, runner.evaluated_at):
            self._save(runner)
        if is_main():
            save_weights(runner.out / "last.safetensors", runner.trained_model.state_dict(), runner.header())

    def _save(self, runner: Run) -> None:
        runner.save()
        self._saved = (runner.step, runner.evaluated_at)


class KeepWeights(Hook):
    """Writes the weights of certain steps into the folder `kept`; they are never deleted."""

    def __init__(self, steps: Sequence[int]):
        self.steps = set(steps)

    def after_step(self, runner: Run) -> None:
        """Write the weights of a wanted step to `kept_weights(out, step)`."""
        if runner.step in self.steps:
            runner.guard.check()
            if is_main():
                path = kept_weights(runner.out, runner.step)
                path.parent.mkdir(exist_ok=True)
                save_weights(path, runner.trained_model.state_dict(), runner.header())


def kept_weights(out: Path, step: int) -> Path:
    """Where the run in `out` keeps the weights of a step of `train.keep_steps`."""
    return out / "kept" / f"step_{step:08d}.safetensors"


class Profile(Hook):
    """Records `steps` steps, after three others, into trace.json (open it in chrome://tracing or Perfetto)."""

    def __init__(self, steps: int):
        self.steps = steps

    def before_train(self, runner: Run) -> None:
        """Start the profiler, on a GPU with its kernels too."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if runner.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=2, warmup=1, active=self.steps, repeat=1),
            on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(runner.out / "trace.json")),
        )
        self._profiler.start()

    def after_step(self, runner: Run) -> None:
        """Tell the profiler that a step is over."""
        self._profiler.step()

    def after_train(self, runner: Run) -> None:
        """Stop the profiler."""
        self._profiler.stop()


def build_hooks(runner: Run) -> list[Hook]:
    """The hooks that the config asks for, in the order in which they are called.

    Raises:
        ConfigError: `train.early_stop` without validation data, or what `build_writers` raises.
    """
    options = runner.options
    hooks: list[Hook] = [Log(options["log_every"])]
    if options["profile_steps"] and is_main():
        hooks.append(Profile(options["profile_steps"]))
    if runner.val_data is not None:
        hooks.append(Evaluate(runner, runner.val_data))
    if options["early_stop"] is not None:
        if runner.val_data is None:
            raise ConfigError("train.early_stop: needs data.val to evaluate on")
        hooks.append(EarlyStop(options["early_stop"]))
    if options["keep_steps"]:
        hooks.append(KeepWeights(options["keep_steps"]))
    hooks.append(SaveCheckpoints(options["checkpoint_every"], options["checkpoint_epochs"]))
    return [*hooks, *build_writers(runner), *_build_own(runner.config["hooks"])]


def _build_own(configs: Sequence[dict[str, Any]]) -> list[Hook]:
    """The hooks of the config's list `hooks`."""
    hooks = [build(config, path=f"hooks.{number}") for number, config in enumerate(configs)]
    for number, hook in enumerate(hooks):
        if not isinstance(hook, Hook):
            raise ConfigError(
                f"hooks.{number}: {type(hook).__name__} is no hook: make it a subclass of detkit.engine.hook.Hook"
            )
    return hooks


def _memory_gib(device: torch.device) -> float:
    """The most memory in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":  # has no module `resource`
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _evaluation_seconds_left(runner: Run) -> float:
    steps = runner.steps_per_epoch * runner.options["eval_every"]
    return runner.evaluation_seconds * (runner.total_steps // steps - runner.step // steps)
