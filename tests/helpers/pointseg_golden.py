"""Golden outputs of the official PointWSSIS code and the deterministic weights that they were made with.

A golden is a `.json` (keys, shapes, configuration, tolerance) beside a `.npz`. Large arrays are stored as the rows,
columns and so on of their `.idx0`, `.idx1` ..., with mean, std, sum of magnitudes, min and max of the whole.
"""

from __future__ import annotations

import math

import goldens
import numpy as np
import torch
from torch import Tensor


def normal(seed: int, shape: list[int], mul: float = 1.0, add: float = 0.0) -> np.ndarray:
    drawn = goldens.normal(seed, shape).astype(np.float32)
    return drawn * np.float32(mul) + np.float32(add)


def weight(key: str, shape: list[int], rule: str) -> Tensor:
    drawn = goldens.normal_of(key, shape)
    if len(shape) >= 2:
        drawn *= 0.02 if rule == "normal0.02" else math.sqrt(2 / math.prod(shape[1:]))
    elif key.endswith(("weight", "running_var")):
        drawn = 1 + 0.1 * np.abs(drawn)
    else:
        drawn *= 0.02
    return torch.from_numpy(drawn.astype(np.float32))


class Golden:
    def __init__(self, name: str):
        self.meta, self.arrays = goldens.read("pointwssis", name)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The official state dict; integer buffers are 0."""
        rule, keys = self.meta["weights"]["rule"], self.meta["weights"]["keys"]
        return {
            key: torch.zeros(spec["shape"], dtype=torch.int64)
            if spec["dtype"].startswith("int")
            else weight(key, spec["shape"], rule)
            for key, spec in keys.items()
        }

    def input(self, name: str) -> Tensor:
        """A seeded input, with the stored values that replace parts of it."""
        spec = self.meta["inputs"][name]
        x = normal(spec["seed"], spec["shape"], spec.get("mul", 1.0), spec.get("add", 0.0))
        if "channels_from" in spec:
            stored = self[spec["channels_from"]]
            x[0, : len(stored)] = stored
        if "cells_idx" in spec:
            for (level, row, column), value in zip(self[spec["cells_idx"]], self[spec["cells_val"]], strict=True):
                if level == spec["level"]:
                    x[0, : len(value), row, column] = value
        if "points_idx" in spec:
            for (level, channel, row, column), value in zip(
                self[spec["points_idx"]], self[spec["points_val"]], strict=True
            ):
                if level == spec["level"]:
                    x[0, channel, row, column] = value
        return torch.from_numpy(x)

    def mask(self, name: str) -> np.ndarray:
        """A mask (or several) stored as packed bits."""
        shape = self.meta["arrays"][name]["packed_shape"]
        stored = self[name]
        return np.unpackbits(stored, axis=-1)[..., : math.prod(shape[stored.ndim - 1 :])].reshape(shape).astype(bool)

    def error(self, name: str, whole: Tensor | np.ndarray) -> float:
        """The largest error relative to the largest stored value, of stored elements and of the sum of magnitudes."""
        note = self.meta["arrays"][name]
        whole = whole.detach().numpy() if isinstance(whole, Tensor) else np.asarray(whole)
        if "index_arrays" in note:
            assert list(whole.shape) == note["full_shape"], (name, whole.shape, note["full_shape"])
            part = whole[np.ix_(*[self[index] for index in note["index_arrays"]])]
        else:
            part = whole
        expected = self[name].astype(np.float64)
        assert part.shape == expected.shape, (name, part.shape, expected.shape)
        error = float(np.abs(part - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-12))
        if f"{name}.stats" in self.arrays:
            total = self[f"{name}.stats"][2]
            error = max(error, abs(float(np.abs(whole, dtype=np.float64).sum()) - total) / total)
        return error

    def check(self, name: str, whole: Tensor | np.ndarray, rtol: float | None = None) -> None:
        if rtol is None:
            rtol = self.meta["arrays"][name].get("rtol", self.meta["tolerances"]["default_rtol"])
        error = self.error(name, whole)
        assert error <= rtol, f"{name}: relative error {error:.2e}, allowed {rtol:.0e}"
