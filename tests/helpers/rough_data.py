"""The small data set of the goldens of MaskRefineNet: images whose pixels tell their place, rough and true masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pointseg_golden import Golden
from torch import Tensor

from detkit.official.coco_classes import COCO_CLASSES
from detkit.pointseg.codes import decode

LABELS = {category: label for label, category in enumerate(COCO_CLASSES)}


@dataclass
class Scene:
    """One image: rough masks with points and labels, and true masks with labels."""

    image: Tensor
    rough: Tensor
    points: Tensor
    labels: Tensor
    true: Tensor
    true_labels: Tensor
    readable: list[int]
    first_row: int


def coded_image(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blue = (16 * (x // 256) + y // 256).expand(height, width)
    return torch.stack([x % 256, y % 256, blue]).to(torch.uint8)


def stack(masks: list[np.ndarray], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *size, dtype=torch.bool)


def scenes(golden: Golden) -> dict[int, Scene]:
    """By image id. `readable` are the true masks that the official code reads: not the compressed ones."""
    result = {}
    for image_id, height, width in golden["images_id_h_w"].tolist():
        size = height, width
        rough = np.flatnonzero(golden["pred_image_id"] == image_id)
        true = np.flatnonzero(golden["gt_image_id"] == image_id)
        y, x = golden.tensor("pred_point_code")[rough].unbind(1)
        kinds = [golden.meta["arrays"][f"gt{i}_mask"]["kind"] for i in true]
        result[image_id] = Scene(
            coded_image(*size),
            stack([golden.mask(f"pred{i}_mask") for i in rough], size),
            decode(y * 10000 + x, size),
            golden.tensor("pred_class")[rough],
            stack([golden.mask(f"gt{i}_mask") for i in true], size),
            torch.tensor([LABELS[category] for category in golden["gt_coco_category_id"][true].tolist()]),
            [i for i, kind in enumerate(kinds) if kind != "rle_str"],
            int(rough[0]) if len(rough) else -1,
        )
    return result
