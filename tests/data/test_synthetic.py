import time

import numpy as np
import pytest
import torch

from detkit.data.drawing import SHAPES
from detkit.data.synthetic import SyntheticScenes
from detkit.ops.rle import decode_mask
from detkit.registry import build


def same(first, second):
    (image_a, a), (image_b, b) = first, second
    return torch.equal(image_a, image_b) and torch.equal(a.boxes, b.boxes) and torch.equal(a.masks, b.masks)


def test_a_scene_depends_on_seed_and_index_only():
    scenes = SyntheticScenes(20, seed=3)
    in_order = [scenes[i] for i in range(5)]
    again = SyntheticScenes(50, seed=3)
    assert same(in_order[4], again[4]) and same(in_order[0], again[0])
    assert not torch.equal(scenes[0][0], scenes[1][0])
    assert not torch.equal(scenes[0][0], SyntheticScenes(20, seed=4)[0][0])


def test_samples_are_what_the_dataset_protocol_says():
    scenes = build({"type": "SyntheticScenes", "length": 40, "size": (96, 160), "min_objects": 2, "max_objects": 4})
    assert scenes.sizes.shape == (40, 2) and scenes.sizes[0].tolist() == [96, 160]
    assert scenes.image_ids == list(range(1, 41)) and scenes.label_map.category_ids[0] == 1
    seen = set()
    for index, (image, annotations) in enumerate(scenes):
        assert image.dtype == torch.uint8 and image.shape == (3, 96, 160) and image.is_contiguous()
        assert 2 <= len(annotations) <= 4 <= scenes.max_objects_per_image
        assert annotations.labels.dtype == torch.int64 and annotations.boxes.dtype == torch.float32
        assert annotations.masks.dtype == torch.bool and annotations.masks.shape[1:] == (96, 160)
        assert annotations.image_id == index + 1 and annotations.original_size == (96, 160)
        seen |= set(annotations.labels.tolist())
    assert index == 39 and seen == set(range(len(SHAPES)))


def test_boxes_are_tight_around_visible_masks_that_do_not_overlap():
    overlaps = 0
    scenes = SyntheticScenes(100)
    for _, annotations in scenes:
        masks = annotations.masks.numpy()
        assert masks.sum(0).max() == 1
        for box, mask in zip(annotations.boxes, masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        boxes = annotations.boxes
        width = torch.minimum(boxes[:, None, 2], boxes[:, 2]) - torch.maximum(boxes[:, None, 0], boxes[:, 0])
        height = torch.minimum(boxes[:, None, 3], boxes[:, 3]) - torch.maximum(boxes[:, None, 1], boxes[:, 1])
        overlaps += int(((width > 0) & (height > 0)).sum() > len(boxes))
    assert overlaps > 20


def test_every_object_stays_visible_enough():
    scenes = SyntheticScenes(200, max_objects=8, min_visible=0.6)
    for index in range(200):
        scene = scenes._render(index)
        assert scene.masks().dense().sum((1, 2)).tolist() == scene.visible_areas
        assert (np.array(scene.visible_areas) >= 0.6 * np.array(scene.full_areas)).all()


def test_object_size_is_part_of_the_shorter_side():
    boxes = torch.cat([a.boxes for _, a in SyntheticScenes(100, max_objects=1, object_size=(0.3, 0.5))])
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    assert sides.max() <= 0.5 * 128 + 2 and sides.min() >= 0.2 * 128


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_fit_the_unit_circle_and_their_distance_is_true_near_the_outline(name):
    v, u = np.mgrid[-1.2:1.2:241j, -1.2:1.2:241j].astype(np.float32)
    distance = SHAPES[name](u, v)
    assert (distance[np.hypot(u, v) > 1.01] > 0).all() and (distance < 0).mean() > 0.1
    slope = np.hypot(*np.gradient(distance, 0.01))
    assert np.median(slope[np.abs(distance) < 0.03]) == pytest.approx(1, abs=0.05)


def test_coco_ground_truth_equals_the_samples():
    scenes = SyntheticScenes(12, seed=1)
    truth = scenes.coco()
    assert [image["id"] for image in truth["images"]] == scenes.image_ids
    assert [c["name"] for c in truth["categories"]] == list(scenes.label_map.names)
    assert sorted(a["id"] for a in truth["annotations"]) == list(range(1, len(truth["annotations"]) + 1))
    for image_id, (_, annotations) in zip(scenes.image_ids, scenes, strict=True):
        found = [a for a in truth["annotations"] if a["image_id"] == image_id]
        assert [a["category_id"] - 1 for a in found] == annotations.labels.tolist()
        assert [a["area"] for a in found] == annotations.masks.sum((1, 2)).tolist()
        for a, box, mask in zip(found, annotations.boxes.tolist(), annotations.masks, strict=True):
            x, y, width, height = a["bbox"]
            assert [x, y, x + width, y + height] == box
            assert (decode_mask(a["segmentation"], 128, 128) == mask.numpy()).all()


def test_masks_can_be_left_out():
    scenes = SyntheticScenes(3, masks=False)
    assert scenes[0][1].masks is None
    assert "segmentation" not in scenes.coco()["annotations"][0]
    assert torch.equal(scenes[0][1].boxes, SyntheticScenes(3)[0][1].boxes)


def test_rendering_is_fast():
    scenes = SyntheticScenes(100)
    start = time.process_time()
    for i in range(100):
        scenes[i]
    assert (time.process_time() - start) / 100 < 5e-3  # 0.3 ms on a free core


@pytest.mark.parametrize(
    "options",
    [
        {"length": 0},
        {"size": 16},
        {"min_objects": 4, "max_objects": 2},
        {"object_size": (0.5, 0.2)},
        {"object_size": (0.02, 0.5)},
    ],
)
def test_options_out_of_range_are_errors(options):
    with pytest.raises(ValueError, match="got"):
        SyntheticScenes(**{"length": 5, **options})
