"""A limit on what the constructor of a model may allocate, so that a header cannot ask for all memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SPARE_ELEMENTS, SPARE_TENSORS = 1 << 26, 20_000
FACTOR = 8  # constructors build parts that they drop again, and tables that are not stored
SMALL = 1 << 14  # elements of inputs whose results are not looked at


class AllocationLimit(TorchDispatchMode):
    """Inside of it, tensors may be made up to some multiple of those that a file holds.

    Args:
        elements: of all tensors in the file.
        tensors: their number.

    Raises:
        ValueError: out of the operation that goes beyond, before it allocates anything.
    """

    def __init__(self, elements: int, tensors: int):
        super().__init__()
        self.elements: float = FACTOR * elements + SPARE_ELEMENTS
        self.tensors = FACTOR * tensors + SPARE_TENSORS

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what `func` would make, then call it."""
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not inputs:
            self._take(numel_of_new(func, args))
        elif max(tensor.numel() for tensor in inputs) > SMALL and not func._schema.is_mutable and not func.is_view:
            self._count(func, inputs, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, inputs: Sequence[Tensor], args: Any, kwargs: Any) -> None:
        """Most operations make what their inputs broadcast to; only the others are tried on tensors without data."""
        try:
            if any(isinstance(value, (list, tuple)) for value in args):
                raise ValueError("such as repeat")
            made = math.prod(np.broadcast_shapes(*(tuple(tensor.shape) for tensor in inputs)))
        except ValueError:
            on_meta = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, (args, kwargs))
            made = numel_of_result(func, *on_meta)
        self._take(made)

    def _take(self, elements: float) -> None:
        self.elements -= max(0, elements)
        self.tensors -= 1
        if self.elements < 0 or self.tensors < 0:
            raise ValueError("the model is much larger than the weights in the file")


def numel_of_result(func: Any, args: Any, kwargs: Any) -> int:
    """How many elements an operation makes of tensors on the meta device; 0 where it does not run there."""
    try:
        return sum(leaf.numel() for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor))
    except Exception:  # a wrong operation fails again when it is called
        return 0


def numel_of_new(func: Any, args: Any) -> float:
    """How many elements an operation that takes no tensors will make, as far as its arguments tell."""
    name, numbers = func._overloadpacket.__name__, [value for value in args if isinstance(value, (int, float))]
    if name == "arange" and numbers:
        start, end, step = {1: (0, *numbers, 1), 2: (*numbers, 1)}.get(len(numbers), numbers[:3])
        return abs(end - start) / abs(step) if step else 0
    if name in ("linspace", "logspace") and len(numbers) > 2:
        return numbers[2]
    if name == "eye" and numbers:
        return numbers[0] * numbers[-1]
    sizes = next((value for value in args if isinstance(value, (list, tuple))), ())
    return math.prod(sizes)
