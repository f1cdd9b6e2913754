"""Running a saved bad batch again, to find where its values stop being finite. See docs/replay.md."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detkit.checkpoints.header import require
from detkit.checkpoints.resume import latest_checkpoint
from detkit.checkpoints.transfer import initialize
from detkit.checkpoints.weights import build_stored, explaining_imports, load_strictly, read_weights
from detkit.config import load_config, resolve_config
from detkit.engine.resume.run_folder import stored_config
from detkit.modeling.base import Model
from detkit.runtime.components import build_datasets, build_model, import_components
from detkit.runtime.evaluate import autocast
from detkit.runtime.random_state import seed_everything

NAMES_SHOWN = 5
FRAME = re.compile(r'File "([^"]+)", line (\d+), in .*\n\s+(.*)')  # of a traceback


@dataclass
class Replay:
    """What happened to one batch.

    Attributes:
        image_ids: of the batch.
        losses: each weighted loss term.
        output: the first module whose output is not finite, with what is known of its inputs and weights.
        backward: the first step of the backward pass that gives NaN, and the line of the forward pass that it is from.
        gradients: names of the parameters whose gradient is not finite.
        parameters: number of parameters that have a gradient.
    """

    image_ids: list[Any]
    losses: dict[str, float] = field(default_factory=dict)
    output: str | None = None
    backward: str | None = None
    gradients: list[str] = field(default_factory=list)
    parameters: int = 0

    @property
    def is_finite(self) -> bool:
        """Whether all outputs, loss terms and gradients are finite."""
        losses = torch.tensor(list(self.losses.values()))
        return self.output is None and not self.gradients and bool(losses.isfinite().all())

    def lines(self) -> list[str]:
        """The findings as lines of text."""
        width = max(map(len, self.losses), default=0)
        text = [f"  {name:{width}}  {value:.6g}" for name, value in self.losses.items()]
        text.append(f"first module whose output is not finite: {self.output or 'none'}")
        if self.backward:
            text.append(f"first step of the backward pass that gives NaN: {self.backward}")
        shown = ", ".join(self.gradients[:NAMES_SHOWN]) + (", ..." if len(self.gradients) > NAMES_SHOWN else "")
        count = f"{len(self.gradients)} of {self.parameters}"
        text.append(f"parameters whose gradient is not finite: {count}" + (f": {shown}" if shown else ""))
        return text


def load_for_replay(
    source: str | Path, device: torch.device, *, say: Callable[[str], None] = print
) -> tuple[Model, dict[str, Any]]:
    """The model that a batch is replayed with, and the config that it was trained by.

    Args:
        source: the folder of a run, for its newest checkpoint or, without any, its initial weights; a .safetensors
            checkpoint; or a config file, for the initial weights of its seed. The `imports` of a folder or a config
            are imported, those that a .safetensors checkpoint names are not.
        device: where the model goes.
        say: takes a line about the weights.

    Raises:
        ValueError: nothing of these, or one that cannot be read.
    """
    path = Path(source)
    if path.suffix == ".safetensors":
        weights, header = read_weights(path)
        require(header, path)
        if header["config"]["model"].get("teacher") is not None:
            raise ValueError(f"{path}: was trained with a teacher, which the file cannot name: give the run's folder")
        with explaining_imports(path, header["config"]):
            model = _with_weights(header["config"], header, weights, path, say)
        return model.to(device), resolve_config(header["config"])
    config = stored_config(path) if path.is_dir() else resolve_config(load_config(path))
    import_components(config["imports"])
    checkpoint = latest_checkpoint(path / "checkpoints") if path.is_dir() else None
    if checkpoint is not None:
        weights = checkpoint.trainer["raw_weights"] or checkpoint.weights
        model = _with_weights(config, checkpoint.header, weights, checkpoint.path, say)
    else:
        model = _initial(config, say)
    return model.to(device), config


def _with_weights(
    config: dict[str, Any], header: dict[str, Any], weights: dict[str, Tensor], path: Path, say: Callable[[str], None]
) -> Model:
    """A model with the weights of a checkpoint; a teacher is part of the losses, so it is built too."""
    has_teacher = config["model"].get("teacher") is not None
    model = build_stored({**header, "config": config}, path, pretrained=has_teacher)
    load_strictly(model, weights, path)
    say(f"weights: {path}" + (f" (step {header['step']})" if "step" in header else ""))
    return model


def _initial(config: dict[str, Any], say: Callable[[str], None]) -> Model:
    """The model as a run of the config begins with it."""
    seed_everything(config["train"]["seed"])
    dataset, _ = build_datasets(config["data"])
    model = build_model(config["model"], dataset.label_map)
    say(f"weights: initial ones of seed {config['train']['seed']}")
    if config["train"]["init_from"] is not None:
        initialize(model, config["model"], config["train"]["init_from"], say=say)
    return model


def replay_batch(model: Model, batch: Any, *, precision: str = "auto") -> Replay:
    """Compute losses and gradients of a batch in training mode, and note what is not finite.

    Args:
        model: on the device to use; its gradients are replaced.
        batch: a training batch, as `detkit.engine.guard.load_batches` reads it.
        precision: see `detkit.runtime.evaluate.autocast`.
    """
    result = Replay([a.image_id for a in batch.annotations])
    model.train()
    model.zero_grad()
    anomalies = torch.autograd.set_detect_anomaly(True)
    with anomalies, _watched_outputs(model, result), autocast(precision, model.device):
        losses = model(batch.to(model.device))
    result.losses = {name: loss.item() for name, loss in losses.items()}
    total: Any = sum(losses.values())
    result.backward = _first_nan(total)
    if result.backward is not None:
        model.zero_grad()
        total.backward()  # once more without the check, which had ended it before all gradients were there
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    result.parameters = len(gradients)
    result.gradients = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    return result


def _first_nan(total: Tensor) -> str | None:
    """Run the backward pass; where it meets a NaN, the message and the line of the forward pass that it comes from."""
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        try:
            total.backward(retain_graph=True)
        except RuntimeError as error:
            frames = [frame for warning in caught for frame in FRAME.findall(str(warning.message))]
            place = "{}:{}: {}".format(*frames[-1]) if frames else "an unknown line"
            return f"{str(error).splitlines()[0]} It belongs to {place}"
    return None


@contextmanager
def _watched_outputs(model: nn.Module, result: Replay) -> Iterator[None]:
    """Note the first module that ends with an output that is not finite."""

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if result.output is None and not _is_finite(output):
                weights = all(p.isfinite().all() for p in module.parameters(recurse=False))
                notes = f"its inputs are {'' if _is_finite(inputs) else 'not '}finite"
                notes += "" if weights else ", its weights are not"
                result.output = f"{name} ({type(module).__name__}; {notes})"

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(value: Any) -> bool:
    """Whether all floating-point tensors inside of a value are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if is_dataclass(value) and not isinstance(value, type):
        return all(_is_finite(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, (list, tuple)) else True
