"""Golden outputs of the authors' code: a `.json` that describes them beside a `.npz` with the arrays.

The three systems store weights and parts of large arrays in three ways; `vidt_golden`, `pointseg_golden` and
`matching_golden` know these, and read the files by this module.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from paths import GOLDEN


def read(folder: str, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of a golden; some have a description only."""
    description = json.loads((GOLDEN / folder / f"{name}.json").read_text())
    arrays = GOLDEN / folder / f"{name}.npz"
    return description, dict(np.load(arrays)) if arrays.exists() else {}


def normal(seed: int, shape: Any) -> np.ndarray:
    """Standard normal float64 draws, the same everywhere."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))


def normal_of(key: str, shape: Any) -> np.ndarray:
    """The draws that weights are made of: seeded by the official key of a parameter."""
    return normal(zlib.crc32(key.encode()), shape)
