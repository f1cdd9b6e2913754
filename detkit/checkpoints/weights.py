"""Weight files in safetensors format whose header holds everything needed to rebuild the model."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from detkit.files import write_atomically
from detkit.modeling.base import Model
from detkit.registry import UnknownComponentError, names, nearest, register
from detkit.runtime.components import build_model, import_components
from detkit.structures import LabelMap

SCHEMA = 1


class CheckpointError(ValueError):
    """A checkpoint file that cannot be used; the message names it and says why."""


def make_header(
    config: dict[str, Any], model: Model, *, metrics: Mapping[str, float] | None = None, **more: Any
) -> dict[str, Any]:
    """The header of a weight file.

    Args:
        config: the resolved config; of it only "model" is needed to load the file.
        model: its `label_map` and `input_rule` are stored.
        metrics: validation figures of these weights.
        more: other entries of JSON types, such as step and epoch.
    """
    return {
        "config": config,
        "label_map": model.label_map.to_dict(),
        "input_rule": model.input_rule.to_dict(),
        "metrics": dict(metrics or {}),
        "versions": _versions(),
        **more,
    }


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    """Write weights and header, atomically: an interruption leaves the old file as it was.

    A tensor with several names is stored once; `aliases` in the header has its other names.
    """
    tensors, aliases = _without_aliases(state_dict)
    text = json.dumps({**header, "schema": SCHEMA, "aliases": aliases})
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {"format": "pt", "detkit": text}))


def read_header(path: str | Path) -> dict[str, Any]:
    """The header that `save_weights` wrote.

    Raises:
        CheckpointError: no such file, truncated, not written by detkit, or written by a newer detkit.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if "detkit" not in metadata:
        raise CheckpointError(f"{path}: is a safetensors file but not a detkit checkpoint (no detkit header)")
    header = json.loads(metadata["detkit"])
    if header["schema"] > SCHEMA:
        raise CheckpointError(f"{path}: has schema {header['schema']}, this detkit reads up to {SCHEMA}; update detkit")
    return header


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, with all shared tensors under all their names, and the header.

    Raises:
        CheckpointError: see `read_header`.
    """
    header = read_header(path)
    with _opened(path) as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return weights | {alias: weights[name] for alias, name in header["aliases"].items()}, header


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load `weights` into `model`, all of them and nothing else.

    Raises:
        CheckpointError: missing or unexpected names, or another shape; all are listed.
    """
    own = model.state_dict()
    problems = [f"missing: {name}" for name in own if name not in weights]
    problems += [f"unexpected: {name}" for name in weights if name not in own]
    problems += [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(f"{source}: the weights do not fit the model:\n  " + "\n  ".join(problems))
    model.load_state_dict(weights)


@register("Checkpoint")
def load_model(path: str | Path, device: torch.device | str = "cpu", *, imports: Sequence[str] = ()) -> Model:
    """Rebuild the model that a checkpoint describes, with its weights, in eval mode.

    Args:
        path: the .safetensors file.
        device: where the model goes, such as "cuda".
        imports: modules and .py files to import first, whose components the model consists of. The file says which
            ones it was made with, but they are imported only if they are named here: importing runs their code.

    Raises:
        CheckpointError: an unreadable or foreign file, weights that do not fit, or a component that nothing
            registers; the message gives the imports that the file was made with.
        ConfigError: one of `imports` cannot be imported.
    """
    import_components(imports)
    weights, header = read_weights(path)
    label_map = LabelMap(**header["label_map"])
    with explaining_imports(path, header["config"]):
        model = build_model(header["config"]["model"], label_map, header["input_rule"], pretrained=False)
    load_strictly(model, weights, path)
    return model.to(device).eval()


@contextlib.contextmanager
def explaining_imports(path: str | Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Let an unknown component in the config of the checkpoint `path` be an error that tells what to import.

    Raises:
        CheckpointError: instead of an `UnknownComponentError`.
    """
    try:
        yield
    except UnknownComponentError as error:
        recorded = list(config.get("imports", ()))
        imports = recorded or ["MODULE_OR_FILE"]
        flags = " ".join(f"--import {name}" for name in imports)
        hint = "The imports that it was made with are imported only if you allow it"
        if not recorded:
            hint = "It was made without imports; name the module or file that registers this"
        raise CheckpointError(
            f"{path}: {error.path}: nothing is registered as {error.name!r}{nearest(error.name, names()) or '.'} "
            f"{hint}: {flags} on the command line, imports={imports} in detkit.load or in a config"
        ) from error


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    if not Path(path).is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is truncated or not a safetensors file ({error})") from error


def _without_aliases(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The distinct tensors, copied to the CPU, and {other name: name} for the rest."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple, str] = {}
    for name, tensor in state_dict.items():
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in first_name:
            aliases[name] = first_name[key]
            continue
        first_name[key] = name
        tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return tensors, aliases


def _versions() -> dict[str, str]:
    try:
        own = version("detkit")
    except PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"detkit": own, "torch": torch.__version__, "python": platform.python_version()}
