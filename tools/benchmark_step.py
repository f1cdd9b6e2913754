"""Where the time and the memory of a training step go, on one CPU thread.

    python tools/benchmark_step.py quickstart
    python tools/benchmark_step.py finetune_cpu --set data.train.annotation_file=a.json data.train.image_folder=images

Trains on the first batches of the config's data, with the config's losses, optimizer and moving average. Prints for
each part its CPU time in milliseconds and what its forward pass keeps for the backward pass in MB, both as medians of
the steps, and the most memory that the process had. Parts do not count what other parts inside them take. The
evaluation, checkpoints and the log are left out.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from detkit.config import apply_overrides, load_config, resolve_config
from detkit.engine.optim import Ema, build_optimizer
from detkit.runtime.components import build_dataset, build_loader, build_model, import_components
from detkit.runtime.random_state import seed_everything

WARM_UP = 3
# Attributes of a model that are parts of the table, and how the table calls them.
MODULES = {
    "backbone": "body",
    "input_proj": "projections",
    "tgt_proj": "projections",
    "query_pos_proj": "projections",
    "fusion": "fusion",
    "proposals": "dense head",
    "decoder": "decoder",
    "class_embed": "heads",
    "bbox_embed": "heads",
    "vector_embed": "heads",
    "iou_embed": "heads",
    "token_head": "token labels",
}
METHODS = {
    "match": "matching",
    "dense_losses": "dense losses",
    "vector_losses": "mask losses",
    "token_losses": "token losses",
}


class Clock:
    """Adds up CPU milliseconds and megabytes of saved tensors, each for the innermost part that is open."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = defaultdict(float)
        self.megabytes: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0
        self._kept: set[int] = set()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside belongs to this part, except for what belongs to parts inside of it."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count the memory of a tensor that is saved for the backward pass, once for all that share it."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._kept:
            self._kept.add(storage.data_ptr())
            self.megabytes[self._open[-1]] += storage.nbytes() / 2**20
        return tensor

    def _charge(self) -> None:
        now = time.process_time()
        if self._open:
            self.milliseconds[self._open[-1]] += (now - self._since) * 1e3
        self._since = now

    def wrap(self, function: Callable, name: str) -> Callable:
        """The function as a part."""

        def measured(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return measured


class Step:
    """The training step of a config, whose parts a clock can measure."""

    def __init__(self, config: dict[str, Any]):
        seed_everything(config["train"]["seed"])
        data = build_dataset(config["data"]["train"], "data.train")
        self.model = build_model(config["model"], data.label_map).train()
        self.loader = build_loader({**config["data"], "workers": 0}, data, seed=config["train"]["seed"])
        self.optimizer = build_optimizer(self.model, **config["optimizer"])
        self.ema = Ema(self.model, config["train"]["ema"]) if config["train"]["ema"] is not None else None
        self.clip_norm = config["train"]["clip_norm"]
        self.clock = Clock()
        self._measure_parts()

    def _measure_parts(self) -> None:
        # Through the current clock, which is another one in each step.
        for attribute, name in MODULES.items():
            part = getattr(self.model, attribute, None)
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                if module is not None:
                    self._replace(module, "forward", name)
        if proposals := getattr(self.model, "proposals", None):
            self._replace(proposals, "start", "dense head")
        if criterion := getattr(self.model, "criterion", None):
            for method, name in METHODS.items():
                self._replace(criterion, method, name)
            self.model.criterion = lambda *given: self.clock.wrap(criterion, "losses")(*given)

    def _replace(self, holder: Any, method: str, name: str) -> None:
        function = getattr(holder, method)
        setattr(holder, method, lambda *given, **options: self.clock.wrap(function, name)(*given, **options))

    def run(self, steps: int) -> list[Clock]:
        """The clocks of so many steps, after some that are not measured."""
        clocks, batches = [], self._batches()
        for number in range(WARM_UP + steps):
            self.clock = Clock()
            with self.clock.part("data"):
                batch = next(batches)
            self._train(batch, number)
            clocks.append(self.clock)
        return clocks[WARM_UP:]

    def _batches(self) -> Iterator[Any]:
        for epoch in itertools.count():
            self.loader.batch_sampler.set_epoch(epoch)
            yield from self.loader

    def _train(self, batch: Any, number: int) -> None:
        with (
            self.clock.part("rest of the forward pass"),
            torch.autograd.graph.saved_tensors_hooks(self.clock.keep, lambda kept: kept),
        ):
            loss = sum(self.model(batch).values())
        with self.clock.part("backward"):
            loss.backward()
        with self.clock.part("optimizer"):
            if self.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.ema is not None:
            with self.clock.part("moving average"):
                self.ema.update(self.model, number)


def table(clocks: list[Clock]) -> str:
    """The medians of all parts as lines, in the order in which a step meets them."""
    parts = list(dict.fromkeys(name for clock in clocks for name in clock.milliseconds))
    lines = [f"{'part':28}{'CPU ms':>10}{'kept MB':>10}"]
    for name in parts:
        milliseconds = statistics.median(clock.milliseconds[name] for clock in clocks)
        megabytes = statistics.median(clock.megabytes[name] for clock in clocks)
        lines.append(f"{name:28}{milliseconds:10.1f}{megabytes:10.1f}")
    total, kept = (
        statistics.median(sum(values.values()) for values in sums)
        for sums in ([c.milliseconds for c in clocks], [c.megabytes for c in clocks])
    )
    return "\n".join([*lines, f"{'step':28}{total:10.1f}{kept:10.1f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--steps", type=int, default=20, help="steps to measure (default 20)")
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="change values of the config")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import_components()
    config = resolve_config(apply_overrides(load_config(options.config), options.set))
    step = Step(config)
    print(table(step.run(options.steps)))
    print(f"most memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")


if __name__ == "__main__":
    main()
