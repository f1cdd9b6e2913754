"""What happens around the training steps: logs and checkpoints.

See `detkit.engine.evaluating` for the evaluation, `detkit.engine.writers` for the output.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoints.weights import save_weights
from detkit.engine.evaluating import EarlyStop, Evaluate
from detkit.engine.hook import Hook, Run
from detkit.engine.writers import build_writers
from detkit.modeling.memory import return_free_memory
from detkit.registry import ConfigError, build
from detkit.runtime.processes import all_reduce_sum, is_main, world_size

# Steps between two returns of free memory: taking it from the system again costs as much as half a step.
RETURN_EVERY = 50


class Log(Hook):
    """Every `log_every` steps, a row of the mean losses, speed and memory since the last one."""

    def __init__(self, every: int):
        self.every = every

    def before_train(self, runner: Run) -> None:
        """Start the clock; a resumed run goes on with the interval of mean values that it was in."""
        self._start_clock(runner)

    def after_step(self, runner: Run) -> None:
        """Add up the losses of the step; at the end of an interval, or of the run, send the row to all hooks."""
        for name, value in {**runner.losses, "grad_norm": runner.grad_norm}.items():
            runner.interval[name] = runner.interval.get(name, 0) + value.detach()
        runner.interval_steps += 1
        self._timed_steps += 1
        if runner.step % self.every == 0 or runner.step == runner.total_steps:
            runner.guard.check()
            runner.call("on_row", self._row(runner))
            runner.interval, runner.interval_steps = {}, 0
            self._start_clock(runner)

    def _start_clock(self, runner: Run) -> None:
        self._timed_steps = 0
        self._train_seconds, self._data_seconds = runner.train_seconds, runner.data_seconds

    def _row(self, runner: Run) -> dict[str, Any]:
        sums = all_reduce_sum(torch.stack(list(runner.interval.values())).float())
        means = (sums / runner.interval_steps / world_size()).tolist()
        losses = dict(zip(runner.interval, means, strict=True))
        grad_norm = losses.pop("grad_norm")
        seconds = (runner.train_seconds - self._train_seconds) / self._timed_steps
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
            "data_wait": (runner.data_seconds - self._data_seconds) / self._timed_steps / seconds,
            "memory_gib": _memory_gib(runner.device),
            "seconds_left": seconds * (runner.total_steps - runner.step) + _evaluation_seconds_left(runner),
        }


class SaveCheckpoints(Hook):
    """A checkpoint every `every` steps (None: not) and `epochs` epochs, and at the end of the run.

    It is called before the evaluation, so that nothing that goes wrong there costs the training of an epoch.
    """

    def __init__(self, every: int | None, epochs: int = 1):
        self.every, self.epochs = every, epochs
        self._saved_at: int | None = None

    def before_train(self, runner: Run) -> None:
        """Note that the checkpoint which a run resumed from need not be written again."""
        if runner.step:
            self._saved_at = runner.step

    def after_step(self, runner: Run) -> None:
        """Save after every `every`-th step, except at the end of an epoch, where `after_epoch` decides."""
        if self.every and runner.step % self.every == 0 and not runner.epoch_ended:
            self._save(runner)

    def after_epoch(self, runner: Run) -> None:
        """Save after every `epochs`-th epoch."""
        if runner.epoch % self.epochs == 0:
            self._save(runner)

    def after_train(self, runner: Run) -> None:
        """Save the end of the run."""
        self._save(runner)

    def _save(self, runner: Run) -> None:
        if self._saved_at != runner.step:
            runner.save()
            self._saved_at = runner.step


class SaveLast(Hook):
    """last.safetensors at the end of the run, with the figures of its evaluation."""

    def after_train(self, runner: Run) -> None:
        """Write last.safetensors."""
        if is_main():
            save_weights(runner.out / "last.safetensors", runner.trained_model.state_dict(), runner.header())


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


class ReturnMemory(Hook):
    """Gives free memory back to the system every `every` steps, see `detkit.modeling.memory`."""

    def __init__(self, every: int = RETURN_EVERY):
        self.every = every

    def after_step(self, runner: Run) -> None:
        """Return it, where it is time."""
        if runner.step % self.every == 0:
            return_free_memory()


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
        ConfigError: `train.early_stop` or `train.best_metric` without validation data, an evaluation that cannot be
            done, or what `build_writers` raises.
    """
    options = runner.options
    hooks: list[Hook] = [Log(options["log_every"]), ReturnMemory()]
    if options["profile_steps"] and is_main():
        hooks.append(Profile(options["profile_steps"]))
    if options["keep_steps"]:
        hooks.append(KeepWeights(options["keep_steps"]))
    hooks.append(SaveCheckpoints(options["checkpoint_every"], options["checkpoint_epochs"]))
    if runner.val_data is not None:
        hooks.append(Evaluate(runner, runner.val_data))
    for name in ("early_stop", "best_metric"):
        if options[name] is not None and runner.val_data is None:
            raise ConfigError(f"train.{name}: needs data.val to evaluate on")
    if options["early_stop"] is not None:
        hooks.append(EarlyStop(options["early_stop"]))
    hooks.append(SaveLast())
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
