"""Running a model over a dataset and an evaluator over what it finds."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from detkit.console import Console
from detkit.data.loading import eval_loader
from detkit.modeling.base import Model
from detkit.registry import ConfigError
from detkit.runtime.processes import is_main, rank, world_size
from detkit.runtime.signals import shielded
from detkit.structures.protocols import Dataset, Evaluator, SampleBatch

PRECISIONS = ("auto", "bf16", "fp32")


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context to run a model in: "auto" (bf16 on cuda, fp32 elsewhere), "bf16" or "fp32".

    Raises:
        ConfigError: another name, or bf16 on a GPU that cannot do it.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"train.precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    if device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise ConfigError(f"train.precision: {torch.cuda.get_device_name(device)} cannot compute in bf16; use fp32")
    wanted = precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def evaluation_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `evaluate` that stand in a resolved config: batch size, workers, precision, broken images."""
    data = config["data"]
    return {
        "batch_size": data["eval_batch_size"],
        "workers": data["workers"],
        "precision": config["train"]["precision"],
        "skip_broken": data["skip_broken"],
    }


class EvaluationStopped(Exception):
    """The evaluation was ended before all images were seen."""


@torch.no_grad()
def evaluate(
    model: Model,
    dataset: Dataset,
    evaluator: Evaluator,
    *,
    batch_size: int = 1,
    workers: int = 0,
    precision: str = "auto",
    skip_broken: bool = True,
    progress: bool = True,
    stopped: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """Evaluate `model`, where it is, on `dataset`; with several processes each takes a part of the images.

    Args:
        evaluator: is reset, fed with every batch, and computes the figures.
        precision: see `autocast`.
        skip_broken: report images that cannot be read and count them as without detections, instead of raising.
        progress: show a bar if the output is a terminal.
        stopped: asked before each batch whether to end at once; it must say the same in every process.

    Returns:
        The figures, the same in every process. The model is in eval mode afterwards.

    Raises:
        EvaluationStopped: `stopped` said so.
    """
    model.eval()
    evaluator.reset()
    device = next(model.parameters()).device
    loader = eval_loader(
        dataset,
        model.input_rule.resize,
        batch_size=batch_size,
        workers=workers,
        rank=rank(),
        world_size=world_size(),
        skip_broken=skip_broken,
    )
    shielded(loader.batches)
    console = Console(sys.stderr if is_main() and progress else None)
    for number, batch in enumerate(loader, 1):
        if stopped is not None and stopped():
            raise EvaluationStopped
        with autocast(precision, device):
            predictions = model(batch.to(device, non_blocking=True))
        update(evaluator, predictions, batch)
        console.progress(number / len(loader), f"evaluation {number}/{len(loader)}")
    console.clear()
    return evaluator.compute()


def update(evaluator: Evaluator, predictions: Sequence[Any], batch: SampleBatch) -> None:
    """Let the evaluator compare predictions, which are brought to the CPU, with the annotations of their batch.

    Raises:
        ConfigError: it is an evaluator for something else.
    """
    try:
        evaluator.update([found.cpu() for found in predictions], batch.annotations)
    except AttributeError as error:
        if not type(error.obj).__module__.startswith("detkit.structures"):
            raise
        name, found = type(evaluator).__name__, type(predictions[0]).__name__
        raise ConfigError(f"evaluator: a {name} cannot compare {found} with the annotations of data.val") from error


@torch.no_grad()
def evaluate_one(
    model: Model, dataset: Dataset, evaluator: Evaluator, *, precision: str = "auto", skip_broken: bool = True
) -> dict[str, float] | None:
    """Evaluate a single sample, to find mistakes that would only show at the end of an epoch.

    Returns:
        The figures; of them only the names mean something. None if none of the first ten samples can be read. The
        evaluator is reset, and the model is in the mode that it was in.
    """
    batch = _first_readable(model, dataset, skip_broken)
    if batch is None:
        return None
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    evaluator.reset()
    try:
        with autocast(precision, device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* were not evaluated")  # all but one, on purpose
            update(evaluator, model(batch.to(device)), batch)
            return evaluator.compute()
    finally:
        evaluator.reset()
        model.train(was_training)


def _first_readable(model: Model, dataset: Dataset, skip_broken: bool) -> SampleBatch | None:
    view: Any = dataset.evaluation_view(dataset, model.input_rule.resize, skip_broken=skip_broken)
    for index in range(min(10, len(view))):
        if (sample := view[index]) is not None:
            return dataset.collate([sample])
    return None
