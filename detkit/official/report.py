"""What the converters of official checkpoints share: the report, and strict loading of all weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class ConversionReport:
    """What became of each key of an official state dict.

    Attributes:
        loaded: keys whose tensors were loaded into the model.
        duplicates: keys that hold a loaded tensor under another name.
        unused: keys that the authors' forward pass never reads; they are not loaded.
        config: the `model` section of a config that builds this model.
    """

    loaded: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        repeated = f"{len(self.duplicates)} duplicates of them, " if self.duplicates else ""
        return f"{len(self.loaded)} tensors loaded, {repeated}{len(self.unused)} never used by the official code"


def without_prefix(state_dict: Mapping[str, Tensor], prefix: str = "module.") -> Mapping[str, Tensor]:
    """Remove the prefix that data-parallel training adds to all keys, if every key has it."""
    if not all(key.startswith(prefix) for key in state_dict):
        return state_dict
    return {key.removeprefix(prefix): value for key, value in state_dict.items()}


def load_completely(model: nn.Module, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Load `weights` strictly, with no missing or unexpected name, and put the model in eval mode.

    Args:
        model: to load into.
        weights: by detkit's names.
        assign: use these tensors as the model's parameters, instead of copying their values.

    Raises:
        ValueError: missing or unexpected names, or another shape; the message lists up to five of each.
    """
    try:
        problems: Any = model.load_state_dict(weights, strict=False, assign=assign)
    except RuntimeError as error:
        raise ValueError(f"cannot convert: {error}") from error
    if problems.missing_keys or problems.unexpected_keys:
        raise ValueError(
            f"cannot convert: {len(problems.unexpected_keys)} tensors belong to no part known here "
            f"{problems.unexpected_keys[:5]}, {len(problems.missing_keys)} are missing {problems.missing_keys[:5]}"
        )
    model.eval()
