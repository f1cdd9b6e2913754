"""Writing weight files in safetensors format whose header holds everything needed to rebuild the model."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from detkit.checkpoints.header import encode
from detkit.files import write_atomically
from detkit.modeling.base import Model


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
        "versions": versions(),
        **more,
    }


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    """Write weights and header, atomically: an interruption leaves the old file as it was.

    A tensor with several names is stored once; `aliases` in the header has its other names. The checksums of tensors
    and header are stored too.
    """
    tensors, aliases = _without_aliases(state_dict)
    metadata = encode({**header, "aliases": aliases}, tensors)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


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


def versions() -> dict[str, str]:
    """Those of detkit, PyTorch and Python."""
    try:
        own = version("detkit")
    except PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"detkit": own, "torch": torch.__version__, "python": platform.python_version()}
