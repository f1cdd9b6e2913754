from types import SimpleNamespace

import pytest
import torch

from detkit.evaluation.refined_masks import RefineEvaluator, mask_ious
from detkit.pointseg.refine.batches import RoughMasks
from detkit.structures import LabelMap

DATASET = SimpleNamespace(label_map=LabelMap(("cat", "dog"), (3, 7)))


def boxes(*boxes):
    masks = torch.zeros(len(boxes), 10, 10, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def image(image_id, rough, true, category_ids):
    points = torch.zeros(len(rough), 2)
    return RoughMasks(rough, points, torch.tensor(category_ids), true, image_id, f"{image_id}.png")


def test_overlaps():
    one, other = boxes((0, 0, 4, 4), (0, 0, 2, 2), (0, 0, 0, 0)), boxes((0, 0, 4, 2), (5, 5, 6, 6), (0, 0, 0, 0))
    assert mask_ious(one, other).tolist() == [0.5, 0.0, 1.0]


def test_means_over_objects():
    evaluator = RefineEvaluator(DATASET)
    true = boxes((0, 0, 4, 4), (0, 0, 8, 8))
    first = image(1, boxes((0, 0, 4, 2), (0, 0, 8, 8)), true, [7, 3])
    second = image(2, boxes((0, 0, 4, 1)), true[:1], [7])
    evaluator.update([true, boxes((0, 0, 4, 3))], [first, second])
    figures = evaluator.compute()
    assert figures == pytest.approx({"IoU": (1 + 1 + 0.75) / 3, "IoU/rough": (0.5 + 1 + 0.25) / 3})
    assert next(iter(figures)) == "IoU"
    assert evaluator.results()[2] == dict(image_id=2, category_id=7, point=[0, 0], rough_iou=0.25, iou=0.75)
    text = evaluator.table(per_class=True)
    assert "91.7" in text and "58.3" in text and "dog" in text and "cat" in text
    evaluator.reset()
    assert evaluator.compute() == {"IoU": -1.0, "IoU/rough": -1.0} and "-" in evaluator.table()


def test_refused_updates():
    evaluator = RefineEvaluator(DATASET)
    true = boxes((0, 0, 4, 4))
    evaluator.update([true], [image(1, true, true, [3])])
    with pytest.raises(ValueError, match=r"image 1 \(1\.png\) was evaluated before"):
        evaluator.update([true], [image(1, true, true, [3])])
    with pytest.raises(ValueError, match="has no id"):
        evaluator.update([true], [image(None, true, true, [3])])
    with pytest.raises(ValueError, match=r"image 2 .*refined masks \(0, 10, 10\)"):
        evaluator.update([true[:0]], [image(2, true, true, [3])])
