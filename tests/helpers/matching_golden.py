"""Golden outputs of the official CATs, CATs++, SemiMatch, SCorrSAN and SFNet code.

A golden is a `.json` (weights, inputs, meaning of the arrays, tolerance) beside a `.npz`. Weights are standard normal
draws seeded by the crc32 of their official key, inputs are draws of a stated seed.
"""

from __future__ import annotations

import goldens
import numpy as np
import torch

from detkit.ops.correlation import expected_position, normalized_positions, probabilities


class Golden:
    """The description and the arrays of one golden."""

    def __init__(self, name):
        self.description, self.arrays = goldens.read("correspondence", name)

    def __getitem__(self, name):
        """A stored array as a tensor."""
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def input(self, name):
        """A seeded input."""
        (entry,) = [e for e in self.description["inputs"] if e["name"] == name]
        return (normal(entry["seed"], entry["shape"]) * entry["scale"]).float()

    def error(self, name, found, *, atol=0.0, rtol=0.0):
        """The largest difference of `found` to the stored part of an output, which must be within the tolerance."""
        stored, note = self[name], self.description["arrays"][name]
        assert list(found.shape) == note["full_shape"], (name, found.shape, note["full_shape"])
        found = found.detach()[tuple(slice(None, None, step) for step in note.get("stride", ()))]
        difference = (found.double() - stored.double()).abs()
        assert (difference <= atol + rtol * stored.double().abs()).all(), f"{name}: {difference.max():.3g}"
        return float(difference.max())


def soft_argmax(corr_bst, size, temperature=0.02):
    """The expected source place of each target cell, `[b, 2, t]` in -1..1, as `Matcher.flow_of` computes it."""
    return expected_position(probabilities(corr_bst, temperature), *normalized_positions(*size, corr_bst))


def normal(seed, shape):
    """Standard normal float64 draws."""
    return torch.from_numpy(goldens.normal(seed, shape))


def weight(entry):
    """The value of an official parameter or buffer by its entry in a golden."""
    key, shape, kind = entry["key"], entry["shape"], entry["kind"]
    if kind.startswith("untouched"):
        return torch.zeros(shape, dtype=torch.int64)
    if kind.startswith("kept"):
        return torch.linspace(-1, 1, *shape)
    z = torch.from_numpy(goldens.normal_of(key, shape))
    z = {"normal*scale": lambda: z * entry["scale"], "0.02*normal": lambda: z * 0.02}.get(
        kind, lambda: 1 + 0.1 * z.abs()
    )()
    return z.float()


def state_dict(entries):
    """The official state dict of the listed entries."""
    return {entry["key"]: weight(entry) for entry in entries}
