"""White rectangles on black, to see whether boxes, masks and points stay with the pixels that a transform moves."""

import numpy as np
import pytest
import torch

from detkit.structures import Annotations


def rng(*seed):
    return np.random.default_rng(seed or 0)


def white_boxes(height=480, width=640):
    """White rectangles on black with equal masks and boxes, points at their centres of mass, labels in order."""
    boxes = torch.tensor([[40, 60, 180, 200], [240, 120, 400, 440], [500, 20, 620, 140], [460, 300, 600, 400]]).float()
    masks = torch.zeros(4, height, width, dtype=torch.bool)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    image = (masks.any(0) * 255).to(torch.uint8).expand(3, -1, -1).clone()
    points = (boxes[:, :2] + boxes[:, 2:] - 1) / 2  # pixel indices
    return image, Annotations(boxes, torch.arange(4), masks, points, image_id=7, original_size=(height, width))


def assert_consistent(image, annotations, tolerance=2.2):
    """Every box and mask lies on white pixels, within `tolerance` pixels, and the masks cover all of them."""
    white = image[0] > 127
    for box, mask in zip(annotations.boxes, annotations.masks, strict=True):
        assert white[mask].float().mean() > 0.95
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        tight = [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
        assert box.tolist() == pytest.approx(tight, abs=tolerance)
    assert (annotations.masks.any(0) == white).float().mean() > 0.985
    height, width = image.shape[1:]
    assert (annotations.boxes >= 0).all() and (annotations.boxes <= torch.tensor([width, height] * 2)).all()
