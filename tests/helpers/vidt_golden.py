"""Golden outputs of the official ViDT code and the deterministic weights that they were made with.

A golden is a `.json` (keys, shapes, configuration, tolerance) beside a `.npz`; arrays are flat strided
subsamples of the full outputs. Weights are standard normal draws seeded by the crc32 of their official key.
"""

from __future__ import annotations

import json
import math
import re
import zlib

import numpy as np
import pytest
import torch
from paths import GOLDEN

from detkit.structures import Annotations, ImageBatch

FOLDER = GOLDEN / "vidt"


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    description = json.loads((FOLDER / f"{name}.json").read_text())
    arrays = FOLDER / f"{name}.npz"
    return description, dict(np.load(arrays)) if arrays.exists() else {}


def weight(key: str, shape: list[int]) -> torch.Tensor:
    z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(shape))
    if len(shape) <= 1:
        if key.endswith(("weight", "running_var")):
            z = 1 + 0.1 * np.abs(z)
        else:
            z = (2.0 if key.endswith("sampling_offsets.bias") else 0.1) * z
    elif len(shape) == 3:
        z = 0.5 * z
    else:
        z = z / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(z.astype(np.float32))


def state_dict(description: dict) -> dict[str, torch.Tensor]:
    """The official state dict: shared tensors stand under each of their keys, as in a real checkpoint."""
    keys = description["state_dict"]
    last = max((int(key.split(".")[1]) for key in keys if key.startswith("vector_embed.")), default=0)
    tensors = {}
    for key, shape in keys.items():
        if key.endswith("relative_position_index"):
            tensors[key] = torch.zeros(shape, dtype=torch.int64)
        else:
            name = key.replace("transformer.decoder.bbox_embed.", "bbox_embed.")
            tensors[key] = weight(re.sub(r"^vector_embed\.\d+\.", f"vector_embed.{last}.", name), shape)
    return tensors


def normal(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """A float32 standard normal input drawn from PCG64(seed)."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)).float()


def images(description: dict) -> ImageBatch:
    sizes = zip(description["image_seeds"], description["image_sizes_hw"], strict=True)
    return ImageBatch.from_images([normal(seed, (3, h, w)) for seed, (h, w) in sizes])


def annotations(description: dict) -> list[Annotations]:
    """Ellipse objects `[label, cx, cy, rx, ry]` with masks; boxes clipped to the image."""
    result = []
    for objects, (h, w) in zip(description["target_spec"], description["image_sizes_hw"], strict=True):
        label, cx, cy, rx, ry = torch.tensor(objects, dtype=torch.float32).unbind(1)
        boxes = torch.stack([cx - rx, cy - ry, cx + rx, cy + ry], dim=1)
        boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, w), boxes[:, 1::2].clamp(0, h)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        masks = ((x - cx[:, None, None]) / rx[:, None, None]) ** 2 + ((y - cy[:, None, None]) / ry[:, None, None]) ** 2
        result.append(Annotations(boxes, label.long(), masks=masks <= 1))
    return result


def subsample(tensor: torch.Tensor, note: dict) -> np.ndarray:
    """The elements of a full output that the golden keeps, in its shape."""
    assert list(tensor.shape) == note["shape"], (tensor.shape, note["shape"])
    array = tensor.detach().cpu().numpy()
    return array.reshape(-1)[:: note["flat_stride"]] if "flat_stride" in note else array


def assert_matches(matches, arrays: dict[str, np.ndarray], last: int, images: int) -> None:
    """See that every stage up to `last` matched the queries and objects that the golden has, image by image."""
    for stage in range(last + 1):
        prefix = "" if stage == last else f"layer{stage}_"
        for image in range(images):
            chosen = (matches.stage == stage) & (matches.image == image)
            assert matches.query[chosen].tolist() == arrays[f"{prefix}match_pred_{image}"].tolist()
            assert matches.target[chosen].tolist() == arrays[f"{prefix}match_target_{image}"].tolist()


def assert_losses(losses, description):
    """The weighted terms, and their sum, are those of the golden."""
    weights = description["weights"]
    expected = {name: value * weights[name] for name, value in description["losses"].items() if name in weights}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-3), name
    assert sum(losses.values()).item() == pytest.approx(description["total"], rel=1e-3)
