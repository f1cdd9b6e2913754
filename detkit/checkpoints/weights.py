"""Reading weight files, and the models that their headers describe; `detkit.checkpoints.saving` writes them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detkit.checkpoints.files import find_weights, opened
from detkit.checkpoints.header import (
    ALTERED,
    TENSORS,
    CheckpointError,
    check_aliases,
    decode,
    digest_of_tensors,
    require,
)
from detkit.checkpoints.limits import AllocationLimit
from detkit.checkpoints.saving import make_header, save_weights
from detkit.modeling.base import Model
from detkit.registry import ConfigError, UnknownComponentError, names, nearest, register
from detkit.runtime.components import build_model, import_components
from detkit.runtime.processes import choose_device
from detkit.structures import LabelMap

__all__ = [
    "CheckpointError",
    "build_stored",
    "check_finite",
    "explaining_imports",
    "load_model",
    "load_strictly",
    "make_header",
    "read_header",
    "read_weights",
    "save_weights",
]

logger = logging.getLogger(__name__)

SHOWN = 10  # tensors in a message


def read_header(path: str | Path) -> dict[str, Any]:
    """The header that `save_weights` wrote.

    Raises:
        CheckpointError: no such file, truncated, altered, not written by detkit, or written by a newer detkit.
    """
    path = find_weights(path)
    with opened(path) as file:
        return decode(file.metadata() or {}, path)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, with all shared tensors under all their names, and the header.

    Files of before detkit had checksums are read with a warning.

    Raises:
        CheckpointError: see `read_header`; or tensors that do not have the checksum that was written with them.
    """
    path = find_weights(path)
    with opened(path) as file:
        header = decode(file.metadata() or {}, path)
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if TENSORS not in header:
        logger.warning("%s was written before checkpoints had checksums: damage to it would not be noticed", path)
    elif header[TENSORS] != digest_of_tensors(weights):
        raise CheckpointError(f"{path}: the tensors do not have their checksum: {ALTERED}")
    aliases = header.get("aliases", {})
    check_aliases(aliases, weights, path)
    return weights | {alias: weights[name] for alias, name in aliases.items()}, header


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load `weights` into `model`, all of them and nothing else.

    Raises:
        CheckpointError: missing or unexpected names, another shape, or integers for real numbers; the first are listed.
    """
    own = model.state_dict()
    problems = [f"missing: {name}" for name in own if name not in weights]
    problems += [f"unexpected: {name}" for name in weights if name not in own]
    common = {name: (weights[name], own[name]) for name in own if name in weights}
    problems += [
        f"{name}: {tuple(stored.shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, (stored, tensor) in common.items()
        if stored.shape != tensor.shape
    ]
    problems += [
        f"{name}: {stored.dtype} in the file, {tensor.dtype} in the model"
        for name, (stored, tensor) in common.items()
        if (stored.is_floating_point(), stored.is_complex()) != (tensor.is_floating_point(), tensor.is_complex())
    ]
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(f"{source}: the weights do not fit the model: {'; '.join(problems[:SHOWN])}{more}")
    model.load_state_dict(weights)


@register("Checkpoint")
def load_model(path: str | Path, device: torch.device | str = "cpu", *, imports: Sequence[str] = ()) -> Model:
    """Rebuild the model that a checkpoint describes, with its weights, in eval mode.

    Args:
        path: the .safetensors file, the folder of a run for its best one, or the name of a published model.
        device: where the model goes, such as "cuda"; "auto" is the GPU where there is one.
        imports: modules and .py files to import first, whose components the model consists of. The file says which
            ones it was made with, but they are imported only if they are named here: importing runs their code.

    Raises:
        CheckpointError: an unreadable, altered or foreign file, weights that do not fit or are not finite, or a
            component that nothing registers; the message gives the imports that the file was made with.
        ConfigError: one of `imports` cannot be imported.
    """
    import_components(imports)
    path = find_weights(path)
    weights, header = read_weights(path)
    with AllocationLimit(sum(tensor.numel() for tensor in weights.values()), len(weights)):
        model = build_stored(header, path)
    load_strictly(model, weights, path)
    check_finite(weights, path)
    model.thresholds = header.get("thresholds")
    return model.to(choose_device(str(device))).eval()


def build_stored(header: Mapping[str, Any], path: str | Path, *, pretrained: bool = False) -> Model:
    """The model that the header of the checkpoint `path` describes, with random weights.

    Args:
        header: of the file.
        path: for the messages.
        pretrained: see `detkit.runtime.components.build_model`.

    Raises:
        CheckpointError: a header that describes no model that can be built.
        ConfigError: a wrong argument of a component.
    """
    require(header, path)
    label_map = LabelMap(**header["label_map"])
    try:
        with explaining_imports(path, header["config"]):
            return build_model(header["config"]["model"], label_map, header["input_rule"], pretrained=pretrained)
    except CheckpointError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    except Exception as error:  # constructors do not expect what a header may hold
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise CheckpointError(f"{path}: the model in its header cannot be built: {reason}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:500] if str(error) else ""


def check_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Check that weights have neither NaN nor infinite values.

    Raises:
        CheckpointError: some have; a few are named.
    """
    broken = [name for name, tensor in weights.items() if not _is_finite(tensor)]
    if broken:
        shown = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
        raise CheckpointError(
            f"{source}: {len(broken)} of {len(weights)} tensors have values that are NaN or infinite ({shown}): "
            "the training had failed; take an earlier checkpoint"
        )


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
            f"{path}: {error.path}: nothing is registered as {error.name[:100]!r}{nearest(error.name, names()) or '.'} "
            f"{hint}: {flags} on the command line, imports={imports} in detkit.load or in a config"
        ) from error


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    lowest, highest = torch.aminmax(tensor.float() if tensor.itemsize == 1 else tensor)  # NaN if there is one
    return bool(lowest.isfinite() and highest.isfinite())
