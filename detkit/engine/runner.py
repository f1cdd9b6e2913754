"""The training loop."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.checkpoints.resume import Checkpoint, latest_checkpoint, save_checkpoint, save_evaluation
from detkit.checkpoints.transfer import initialize
from detkit.checkpoints.weights import CheckpointError, load_strictly, make_header
from detkit.config import check_sections
from detkit.console import Console
from detkit.engine.freezing import freeze
from detkit.engine.guard import FiniteGuard
from detkit.engine.hooks import build_hooks
from detkit.engine.optim import Ema, build_optimizer, set_learning_rate
from detkit.engine.resume.resumable import check_resumable, evaluates_alike
from detkit.engine.resume.run_folder import check_run_folder, stored_config, write_config
from detkit.engine.resume.trainer_state import check_state
from detkit.engine.schedules import build_schedule
from detkit.modeling.base import Model
from detkit.runtime.components import (
    build_datasets,
    build_loader,
    build_model,
    check_components,
    import_components,
    warn_of_crowds,
)
from detkit.runtime.evaluate import autocast
from detkit.runtime.lock import locked
from detkit.runtime.processes import (
    all_gather_object,
    all_reduce_sum,
    distributed,
    is_main,
    on_main,
    rank,
    replicate,
    world_size,
)
from detkit.runtime.random_state import random_state, seed_everything, set_random_state
from detkit.runtime.signals import calling_on_stop_signal
from detkit.structures import Batch

INTERRUPTED = "interrupted"


def train(config: dict[str, Any] | None, out: str | Path, *, resume: bool = False) -> Runner:
    """Train as `config` says, in the folder `out`; started by torchrun, with the other processes.

    Args:
        config: see `detkit.config`; None takes the one that `out` holds.
        resume: continue the run in `out` from its latest checkpoint, as if it had never stopped; from the beginning
            where it has none, or where there is no folder yet.

    Returns:
        The finished runner: `metrics` holds the last validation figures, `interrupted` whether a signal ended it.

    Raises:
        ConfigError: the config, the data or the folder does not allow the run, or another process runs in it.
        CheckpointError: there are checkpoints, but none can be resumed from.
        NonFiniteError: a loss or its gradient became NaN or infinite.
    """
    config = stored_config(out) if config is None else config
    check_sections(config)
    with (
        distributed(config.get("train", {}).get("device", "auto")) as device,
        contextlib.ExitStack() as until_the_end,
    ):
        on_main(lambda: until_the_end.enter_context(locked(out)))
        config = check_run_folder(config, out, resume=resume)
        import_components(config["imports"])
        check_components(config)
        runner = Runner(config, Path(out), device)
        if not (resume and runner.resume()):
            runner.initialize()
        if is_main():
            write_config(runner.config, runner.out)
        try:
            # Twice: PyTorch reports a dead data worker by a signal, which may come while another error is handled.
            with runner.telling_way_on(), runner.telling_way_on():
                runner.train()
        finally:
            runner.replica = runner.model  # lets go of the process group, which ends here
        return runner


class Runner:
    """Holds what a run consists of and runs it.

    Hooks read and may change:
        step: optimizer steps done. epoch: epochs done. position: micro-batches done in the current epoch.
        losses, grad_norm: of the last step, detached tensors on the device.
        metrics: validation figures of step `evaluated_at`; best: `value`, `step` and evaluations `since` the best.
        interval: sums of the loss terms and of the gradient norm since the last row of the log; interval_steps: of
            how many steps.
        train_seconds, data_seconds: spent in steps, and of that waiting for data.
        stop_reason: set it to end the run after this step.
    """

    def __init__(self, config: dict[str, Any], out: Path, device: torch.device):
        self.config, self.out, self.device = config, out, device
        self.options = config["train"]
        self.console = Console(sys.stdout if is_main() else None)
        autocast(self.options["precision"], device)  # refuses the impossible before anything is built
        seed_everything(self.options["seed"])
        self.train_data, self.val_data = build_datasets(config["data"])
        self.model = build_model(config["model"], self.train_data.label_map).to(device).train()
        warn_of_crowds(self.model, self.train_data)
        self.frozen = freeze(self.model, config)
        self.loader = build_loader(config["data"], self.train_data, seed=self.options["seed"], train=self.options)
        self.keys: Any = self.loader.batch_sampler
        self.optimizer = build_optimizer(self.model, **config["optimizer"])
        self.schedule = build_schedule(config, self.steps_per_epoch)
        self.ema = Ema(self.model, self.options["ema"]) if self.options["ema"] is not None else None
        self.replica = replicate(self.model, device)
        self.guard = FiniteGuard(out)
        self.hooks = build_hooks(self)
        self.step = self.epoch = self.position = 0
        self.losses: dict[str, Tensor] = {}
        self.interval: dict[str, Tensor] = {}
        self.interval_steps = 0
        self.metrics: dict[str, float] = {}
        self.evaluated_at: int | None = None
        self.best: dict[str, Any] = {"value": None, "step": None, "since": 0}
        self.train_seconds = self.data_seconds = self.evaluation_seconds = 0.0
        self.stop_reason: str | None = None
        self._stop_requested = False
        seed_everything(self.options["seed"] + rank())

    def initialize(self) -> None:
        """Start with the weights that `train.init_from` names, if it names any."""
        if self.options["init_from"] is None:
            return
        initialize(self.model, self.config["model"], self.options["init_from"], say=self.console.line)
        if self.ema is not None:
            self.ema.model.load_state_dict(self.model.state_dict())

    def train(self) -> None:
        """Run from where it stands to the end, a stop or a signal."""
        with calling_on_stop_signal(self._signalled):
            self.call("before_train")
            if self.step and self.position == 0:  # resumed from a checkpoint that was written before its evaluation
                self.call("after_epoch")
            while not self.finished:
                self.train_epoch()
            self.call("after_train")

    def train_epoch(self) -> None:
        """Run the rest of an epoch."""
        self.set_training()
        self.keys.set_epoch(self.epoch)
        self.keys.set_position(self.position)
        batches = iter(self.loader)
        while not self.epoch_ended and not self.finished:
            start = time.perf_counter()
            micro_batches = list(islice(batches, self.options["accumulate"]))
            self.data_seconds += time.perf_counter() - start
            num_objects = self._count_objects(micro_batches)
            if self.interrupted:
                break
            self.train_step(micro_batches, num_objects)
            self.train_seconds += time.perf_counter() - start
            self.call("after_step")
        self.guard.check()
        if self.epoch_ended and not self.interrupted:
            self.epoch, self.position = self.epoch + 1, 0
            self.call("after_epoch")

    def set_training(self) -> None:
        """Put the model in training mode, all but its frozen parts."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def train_step(self, micro_batches: list[Batch], num_objects: Tensor) -> None:
        """One optimizer step; its gradient is that of one batch of all micro-batches of all processes."""
        for batch in micro_batches:
            batch.num_objects = num_objects
        set_learning_rate(self.optimizer, self.schedule(self.step))
        self.losses = {}
        for number, batch in enumerate(micro_batches, 1):
            self._backward(batch, is_last=number == len(micro_batches))
        self.grad_norm = self._clip_gradients()
        self.guard.watch(self.step + 1, micro_batches, self.losses, self.grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        self.step += 1
        self.position += len(micro_batches)

    def _backward(self, batch: Batch, *, is_last: bool) -> None:
        batch = batch.to(self.device, non_blocking=True)
        shares_gradients = self.replica is self.model or is_last
        with contextlib.nullcontext() if shares_gradients else self.replica.no_sync():
            with autocast(self.options["precision"], self.device):
                losses = self.replica(batch)
            sum(losses.values()).backward()
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0) + loss.detach()

    def _count_objects(self, micro_batches: list[Batch]) -> Tensor:
        """The number of objects that losses are divided by. The processes also agree here whether to stop."""
        counts = torch.tensor([sum(map(self.model.count_objects, micro_batches)), self._stop_requested])
        objects, stops = all_reduce_sum(counts).tolist()
        if stops:
            self.stop_reason = INTERRUPTED
        return torch.full((), max(1.0, objects / world_size()), device=self.device)

    def _clip_gradients(self) -> Tensor:
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.options["clip_norm"] is None:
            return torch.nn.utils.get_total_norm([p.grad for p in parameters])
        return torch.nn.utils.clip_grad_norm_(parameters, self.options["clip_norm"])

    def _signalled(self) -> None:
        self._stop_requested = True
        if world_size() == 1:  # several processes agree on it before their next step, in `_count_objects`
            self.stop_reason = INTERRUPTED

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run."""
        return self.stop_reason == INTERRUPTED

    @property
    def epoch_ended(self) -> bool:
        """Whether all micro-batches of the current epoch are done."""
        return self.position == len(self.loader)

    @property
    def finished(self) -> bool:
        """Whether no step is left to do: the run was stopped, or has all its steps and has closed its last epoch."""
        return self.stop_reason is not None or (self.step >= self.total_steps and not self.epoch_ended)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last of them may have fewer micro-batches than `accumulate`."""
        return -(-len(self.loader) // self.options["accumulate"])

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run: those of all epochs, but at most `max_steps`."""
        steps = self.options["epochs"] * self.steps_per_epoch
        return steps if self.options["max_steps"] is None else min(steps, self.options["max_steps"])

    @property
    def trained_model(self) -> Model:
        """The model to evaluate and keep: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.model

    @contextlib.contextmanager
    def telling_way_on(self) -> Iterator[None]:
        """Add to an error how to go on after it."""
        try:
            yield
        except (RuntimeError, MemoryError, OSError, ValueError) as error:
            if not getattr(error, "__notes__", ()):
                error.add_note(self.way_on())
            raise

    def way_on(self) -> str:
        """How to go on after a failure."""
        where = f"the run in {self.out}"
        if not self.out.is_dir():
            return f"{where} was removed while it ran; the same command starts it from the beginning"
        goes_on = "continues it" if any(self.out.glob("checkpoints/*.safetensors")) else "starts it from the beginning"
        return f"{where} ended after step {self.step}; the same command with --resume {goes_on}"

    def call(self, event: str, *arguments: Any) -> None:
        """Call the method `event` of every hook, in order."""
        for hook in self.hooks:
            getattr(hook, event)(self, *arguments)

    def header(self) -> dict[str, Any]:
        """The header of weight files written now."""
        metrics = self.metrics if self.evaluated_at == self.step else {}
        return make_header(self.config, self.trained_model, metrics=metrics, step=self.step, epoch=self.epoch)

    def save(self) -> None:
        """Write a checkpoint; all processes must call this together."""
        self.guard.check()
        random_states = all_gather_object(random_state())
        sums = {name: value.cpu() for name, value in self.interval.items()}
        intervals = all_gather_object({"sums": sums, "steps": self.interval_steps})
        if not is_main():
            return
        state = {
            "optimizer": self.optimizer.state_dict(),
            "raw_weights": self.model.state_dict() if self.ema is not None else None,
            "random_states": random_states,
            "intervals": intervals,
            "batches_per_epoch": len(self.loader),
            "images": len(self.train_data),
            **self._progress(),
        }
        weights = self.trained_model.state_dict()
        save_checkpoint(self.out / "checkpoints", self.step, weights, self.header(), state)

    def save_evaluation(self) -> None:
        """Add the figures to the checkpoint of this step, if there is one."""
        if is_main():
            save_evaluation(self.out / "checkpoints", self.step, self._progress())

    def _progress(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("epoch", "position", "metrics", "evaluated_at", "best")}

    def resume(self) -> bool:
        """Continue from the latest checkpoint in the run's folder; False if there is none yet."""
        checkpoint = latest_checkpoint(self.out / "checkpoints", partial(check_state, optimizer=self.optimizer))
        if checkpoint is None:
            self.console.line("no checkpoint yet: starting from the beginning")
            return False
        try:
            self._continue_from(checkpoint)
        except (LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise CheckpointError(f"{checkpoint.path}: the trainer's state beside it is damaged ({reason})") from error
        if not evaluates_alike(checkpoint.header["config"], self.config):
            self.console.line("the evaluation is another one than before: the best figure is looked for anew")
            self.metrics, self.evaluated_at, self.best = {}, None, {"value": None, "step": None, "since": 0}
        self.console.line(f"resuming after step {self.step} (epoch {self.epoch}, batch {self.position})")
        return True

    def _continue_from(self, checkpoint: Checkpoint) -> None:
        check_resumable(checkpoint, self.config, self.train_data, batches=len(self.loader))
        state = checkpoint.trainer
        load_strictly(self.trained_model, checkpoint.weights, checkpoint.path)
        if self.ema is not None:
            load_strictly(self.model, state["raw_weights"], checkpoint.path)
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("step", "epoch", "position", "metrics", "evaluated_at", "best"):
            setattr(self, name, state[name])
        if "intervals" in state:  # not in checkpoints of older versions
            interval = state["intervals"][rank()]
            self.interval = {name: value.to(self.device) for name, value in interval["sums"].items()}
            self.interval_steps = interval["steps"]
        set_random_state(state["random_states"][rank()])
