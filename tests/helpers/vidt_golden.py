"""Golden outputs of the official ViDT code and the deterministic weights that they were made with.

A golden is a `.json` (keys, shapes, configuration, tolerance) beside a `.npz`; arrays are flat strided
subsamples of the full outputs. Weights are standard normal draws seeded by the crc32 of their official key.
"""

from __future__ import annotations

import dataclasses
import math
import re
from unittest import mock

import goldens
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from detkit.structures import Annotations, Detections, ImageBatch
from detkit.vidt.outputs import Stages

CLOSE = dict(rtol=1e-3, atol=2e-4)
CLOSE_PIXELS = dict(rtol=1e-3, atol=0.05)
# Detections to ask for beyond those of a golden; more than its scores that tie with the last one.
SPARE = 20


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    return goldens.read("vidt", name)


def weight(key: str, shape: list[int]) -> torch.Tensor:
    z = goldens.normal_of(key, shape)
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
    return torch.from_numpy(goldens.normal(seed, shape)).float()


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


def assert_close(
    tensor: torch.Tensor,
    name: str,
    description: dict,
    arrays: dict[str, np.ndarray],
    share: float = 0.0,
    limit: float = 1.0,
) -> None:
    """See that a full output is that of the golden; a `share` of its values may be off by up to `limit` tolerances."""
    actual, expected = subsample(tensor, description["arrays"][name]), arrays[name]
    if share == 0:
        np.testing.assert_allclose(actual, expected, **CLOSE, err_msg=name)
    else:
        error = np.abs(actual - expected) / (CLOSE["atol"] + CLOSE["rtol"] * np.abs(expected))
        off, largest = (error > 1).mean(), error.max()
        assert off <= share and largest <= limit, f"{name}: {off:.2%} are off, by up to {largest:.1f} tolerances"


def forward_from_golden_boxes(model, images: ImageBatch, arrays: dict[str, np.ndarray]) -> Stages:
    """The model's predictions of every stage, each decoder layer looking at the golden's boxes of the stage before.

    With random weights the boxes are what multiplies rounding from layer to layer: a box that moves by a millionth
    samples other values, which move the next box further. From equal boxes every stage is as exact as the first.
    """
    boxes, refine = [], model._refine

    def keep_box_and_give_golden(change: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        boxes.append(refine(change, references))
        return torch.from_numpy(arrays[f"layer{len(boxes) - 1}_pred_boxes"])

    with torch.no_grad(), mock.patch.object(model, "_refine", keep_box_and_give_golden):
        stages = model.forward_stages(images)
    return dataclasses.replace(stages, boxes=torch.stack(boxes))


def assert_stage(
    stages: Stages, stage: int, names: tuple[str, ...], description: dict, arrays: dict[str, np.ndarray]
) -> None:
    """See that the named predictions ("logits", "boxes", ...) of a stage are those of the golden."""
    for name in names:
        assert_close(getattr(stages, name)[stage], f"layer{stage}_pred_{name}", description, arrays)


# Share of the logits of each stage in which the CoaT model in float64 is outside the tolerance of the golden.
COAT_SHARE_OFF = (0, 0, 0, 0.0015, 0.0125, 0.013, 0.042)


def assert_coat_stage(stages: Stages, stage: int, description: dict, arrays: dict[str, np.ndarray]) -> None:
    """Judge a stage that looked at the model's own boxes: no more logits may be off than float64 itself is off."""
    assert_stage(stages, stage, ("boxes",), description, arrays)
    logits, name = stages.logits[stage], f"layer{stage}_pred_logits"
    assert_close(logits, name, description, arrays, share=COAT_SHARE_OFF[stage], limit=10)


def assert_detections(
    found: Detections, arrays: dict[str, np.ndarray], image: int, size: tuple[int, int] | None = None
) -> None:
    """See that detections are those of the golden, in another order only where scores tie within the tolerance.

    Args:
        found: `SPARE` more than the golden has, so that one that a tie moves behind the last place is still there.
        image: number of the image in the golden.
        size: (h, w) of the image where masks are to be compared too.
    """
    scores = arrays[f"scores_{image}"]
    best, ours = len(scores), found.scores.numpy()
    assert len(found) == best + SPARE and (np.diff(ours) <= 0).all()
    np.testing.assert_allclose(ours[:best], scores, **CLOSE)
    partners = find_partners(found, scores, arrays[f"labels_{image}"], arrays[f"boxes_{image}"])
    others = np.setdiff1d(np.arange(best), partners)
    np.testing.assert_allclose(ours[others], scores[-1:].repeat(len(others)), **CLOSE, err_msg="no tie at the cut")
    if size is not None:
        assert_masks(found[partners], arrays[f"mask_bits_{image}"], arrays[f"mask_area_{image}"], size)


def find_partners(found: Detections, scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """For each detection of the golden the index of one in `found` with its label, score and box, no index twice."""
    close = found.labels.numpy() == labels[:, None]
    close &= np.isclose(found.scores.numpy(), scores[:, None], **CLOSE)
    close &= np.isclose(found.boxes.numpy(), boxes[:, None], **CLOSE_PIXELS).all(-1)
    distance = np.abs(found.boxes.numpy() - boxes[:, None]).sum(-1)
    rows, partners = linear_sum_assignment(np.where(close, distance, 1e6))
    alone = rows[~close[rows, partners]]
    assert len(alone) == 0, f"detections {alone.tolist()} of the golden are not found"
    return partners


def assert_masks(found: Detections, packed_bits: np.ndarray, areas: np.ndarray, size: tuple[int, int]) -> None:
    """Compare the area of every mask, and the pixels of the first eight, which are all that the golden has."""
    assert found.masks.shape == (len(areas), *size) and found.masks.dtype == torch.bool
    bits = np.unpackbits(packed_bits).astype(bool).reshape(8, *size)
    assert (found.masks[:8].numpy() == bits).mean() >= 0.995
    np.testing.assert_allclose(found.masks.sum((1, 2)), areas.astype(np.int64), rtol=0.01)


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
