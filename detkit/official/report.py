"""What all converters of official checkpoints share: the report, and loading that leaves nothing open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class ConversionReport:
    """What became of an official state dict.

    Attributes:
        loaded: official keys whose tensors the model now holds.
        duplicates: keys that repeat a loaded tensor under another name.
        unused: keys that do not change what the official model computes, which are left out.
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
    """Without the prefix that training on several devices puts before every key."""
    if not all(key.startswith(prefix) for key in state_dict):
        return state_dict
    return {key.removeprefix(prefix): value for key, value in state_dict.items()}


def load_completely(model: nn.Module, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Load `weights`, all of them and nothing else, and put the model in eval mode.

    Args:
        assign: let the model hold these tensors, instead of copying them into its own.

    Raises:
        ValueError: missing or unexpected names, or another shape; some are named.
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
