"""Object detection, instance segmentation and semantic correspondence: ViDT, PointWSSIS and MatchMe."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    import torch

    from detkit.cli.measuring import evaluate_checkpoint as evaluate
    from detkit.exporting.program import export
    from detkit.modeling.base import Model
    from detkit.pipelines.finetune.program import train
    from detkit.reports import compare, report

    M = TypeVar("M", bound=Model)

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "export", "load", "report", "train"]

# The commands as functions, imported when they are used: name -> module and function.
COMMANDS = {
    "compare": ("detkit.reports", "compare"),
    "evaluate": ("detkit.cli.measuring", "evaluate_checkpoint"),
    "export": ("detkit.exporting.program", "export"),
    "report": ("detkit.reports", "report"),
    "train": ("detkit.pipelines.finetune.program", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in COMMANDS:
        raise AttributeError(f"module 'detkit' has no attribute {name!r}")
    module, function = COMMANDS[name]
    return getattr(importlib.import_module(module), function)


@overload
def load(path: str | Path, device: torch.device | str = "cpu", *, imports: Sequence[str] = ()) -> Model: ...
@overload
def load(path: str | Path, device: torch.device | str = "cpu", *, kind: type[M], imports: Sequence[str] = ()) -> M: ...


def load(path: str | Path, device: torch.device | str = "cpu", *, kind: Any = None, imports: Sequence[str] = ()) -> Any:
    """The model that a detkit checkpoint (.safetensors) describes, with its weights, in eval mode.

    Files that `detkit export` wrote (.onnx, .xml, .pt2) give models that predict with the same methods, on the CPU.

    Args:
        path: the checkpoint, the folder of a run for its best one, or the name of a published model, which is
            downloaded once ("vidt_plus_swin_tiny"; `detkit list models` shows the names).
        device: where the model goes, such as "cuda"; "auto" is the GPU where there is one.
        kind: the class that the model must be of, for example `detkit.modeling.image_model.ImageModel`; a type checker
            then knows the methods of what is returned. None takes any.
        imports: modules and .py files of your own that register parts of the model; they are imported first.

    Returns:
        An `ImageModel` with `predict`, a `Matcher` with `match`, or a `MaskRefiner` with `refine`.

    Raises:
        ValueError: no such file or name, truncated, altered or not a detkit checkpoint, its weights are not finite, it
            needs imports that are not given, or it holds a model of another kind.
    """
    from detkit.checkpoints.weights import load_model
    from detkit.exporting.exported import is_exported, load_exported

    model = load_exported(path) if is_exported(path) else load_model(path, device, imports=imports)
    if kind is not None and not isinstance(model, kind):
        raise ValueError(f"{path}: holds a {type(model).__name__}, which is no {kind.__name__}")
    return model
