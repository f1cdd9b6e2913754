"""Dataclasses whose tensors are moved together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from detkit.ops.masks import RegionMasks


class TensorStruct:
    """Base of dataclasses that hold tensors, also inside of lists and of other such dataclasses."""

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy with `function` applied to every tensor; all other values are shared with the original."""
        return replace(self, **{name: _map(value, function) for name, value in vars(self).items()})  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy whose tensors are on `device`; see `torch.Tensor.to`."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def cpu(self) -> Self:
        """A copy whose tensors are on the CPU."""
        return self.to("cpu")

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, from which transfers to a GPU need no waiting."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (TensorStruct, RegionMasks)):
        return value.map_tensors(function)
    return [_map(item, function) for item in value] if isinstance(value, list) else value
