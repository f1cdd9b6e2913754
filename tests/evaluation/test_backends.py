"""hotcoco must give the figures of pycocotools, bit for bit, whatever the input."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.evaluation.backends import (
    clean_ground_truth,
    detection_rows,
    evaluate_hotcoco,
    evaluate_pycocotools,
    result_dicts,
    summarize,
)

SIZE = 160
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 90, "name": "bird"}, {"id": 5, "name": "cow"}]


def random_boxes(rng, number):
    """x, y, width, height that reach over all three area ranges."""
    sides = rng.choice([6, 20, 60, 120], size=(number, 2)) * rng.uniform(0.7, 1.3, size=(number, 2))
    return np.concatenate([rng.uniform(0, SIZE - 5, size=(number, 2)), sides], axis=1)


def rectangle_rle(box):
    x, y, width, height = (max(0, round(float(v))) for v in box)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    rle = mask_utils.encode(mask)
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def segmentation(rng, box):
    """One of the three forms in which a ground truth may hold a mask."""
    x, y, w, h = box.tolist()
    form = rng.integers(3)
    if form == 0:
        return [[x, y, x + w, y + h / 3, x + w / 2, y + h, x, y + h / 2]]
    if form == 1:
        return rectangle_rle(box)
    before, run = int(rng.integers(SIZE * SIZE // 2)), int(rng.integers(1, SIZE * SIZE // 3))
    return {"size": [SIZE, SIZE], "counts": [before, run, SIZE * SIZE - before - run]}


def random_case(seed, num_images=8):
    """Ground truth with crowds, empty images and unused classes; detections around it with many equal scores."""
    rng = np.random.default_rng(seed)
    images = [{"id": int(i), "height": SIZE, "width": SIZE} for i in rng.permutation(100)[:num_images]]
    annotations, rows = [], []
    for image in images[: num_images - 1]:
        boxes = random_boxes(rng, int(rng.integers(0, 8)))
        for box in boxes:
            annotation = {"image_id": image["id"], "category_id": int(rng.choice([7, 2, 90, 33])), "bbox": box.tolist()}
            annotation |= {"id": len(annotations), "area": float(box[2] * box[3] * rng.uniform(0.5, 1))}
            annotation |= {"iscrowd": int(rng.random() < 0.15), "segmentation": segmentation(rng, box)}
            annotations.append(annotation)
        near = np.repeat(boxes, 3, axis=0) + rng.normal(0, 3, size=(3 * len(boxes), 4))
        far = random_boxes(rng, int(rng.integers(0, 30)))
        found = np.concatenate([near, far])
        found[:, 2:] = found[:, 2:].clip(0)  # some have no area
        scores = rng.random(len(found)).round(int(rng.integers(1, 4)))
        classes = rng.choice([7, 2, 90, 5], size=len(found))
        rows.append(detection_rows(image["id"], found, scores, classes))
    truth = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    return truth, np.concatenate(rows)


def assert_equal_backends(truth, rows, masks=None, max_detections=100):
    truth = clean_ground_truth(truth, with_masks=masks is not None)
    ours = evaluate_hotcoco(truth, rows, masks, max_detections)
    reference = evaluate_pycocotools(truth, rows, masks, max_detections)
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(a, b)
    figures = summarize(*ours, max_detections)
    assert figures == summarize(*reference, max_detections)
    return figures


@pytest.mark.parametrize("seed", range(30))
def test_boxes_equal_pycocotools_on_random_cases(seed):
    figures = assert_equal_backends(*random_case(seed))
    assert 0 < figures["AP"] < 1


@pytest.mark.parametrize("seed", range(30))
def test_masks_equal_pycocotools_on_random_cases(seed):
    truth, rows = random_case(seed)
    assert_equal_backends(truth, rows, [rectangle_rle(box) for box in rows["box"]])


@pytest.mark.parametrize("max_detections", [10, 11, 300])
def test_other_limits_of_detections(max_detections):
    truth, rows = random_case(3)
    crowded = np.concatenate([rows] * 5)
    figures = assert_equal_backends(truth, crowded, max_detections=max_detections)
    assert f"AR{max_detections}" in figures


def test_figures_are_those_of_pycocotools_own_summary():
    truth, rows = random_case(5)
    truth = clean_ground_truth(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(result_dicts(rows)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = summarize(*evaluate_hotcoco(truth, rows, None, 100))
    keys = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert list(figures) == keys
    assert list(figures.values()) == evaluation.stats.tolist()


def no_detections(truth, rows):
    return truth, rows[:0]


def no_annotations(truth, rows):
    return truth | {"annotations": []}, rows


def nothing(truth, rows):
    return truth | {"annotations": []}, rows[:0]


def only_crowds(truth, rows):
    return truth | {"annotations": [a | {"iscrowd": 1} for a in truth["annotations"]]}, rows


def one_score(truth, rows):
    rows = rows.copy()
    rows["score"] = 0.5
    return truth, rows


def same_box_many_times(truth, rows):
    return truth, np.repeat(rows[:4], 150, axis=0)


def boxes_without_area(truth, rows):
    rows = rows.copy()
    rows["box"][:, 2:] = 0
    return truth, rows


def exact_boxes(truth, rows):
    ids, boxes, categories = ([a[k] for a in truth["annotations"]] for k in ("image_id", "bbox", "category_id"))
    return truth, detection_rows(ids, boxes, 0.9, categories)


def one_category(truth, rows):
    return truth | {"categories": CATEGORIES[1:2]}, rows[rows["category_id"] == 2]


def areas_on_the_limits(truth, rows):
    areas = [0.0, 32.0**2, 96.0**2, 1e5**2, 1e12]
    return truth | {"annotations": [a | {"area": areas[i % 5]} for i, a in enumerate(truth["annotations"])]}, rows


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        no_detections,
        no_annotations,
        nothing,
        only_crowds,
        one_score,
        same_box_many_times,
        boxes_without_area,
        exact_boxes,
        one_category,
        areas_on_the_limits,
    ],
    ids=lambda case: case.__name__,
)
def test_degenerate_inputs_equal_pycocotools(case, with_masks):
    truth, rows = case(*random_case(1))
    masks = [rectangle_rle(box) for box in rows["box"]] if with_masks else None
    figures = assert_equal_backends(truth, rows, masks)
    if case in (no_annotations, nothing, only_crowds):
        assert set(figures.values()) == {-1.0}


def test_clean_ground_truth_fills_and_renumbers():
    truth = {
        "images": [{"id": 4, "height": 10, "width": 10, "license": 3}],
        "annotations": [{"id": 0, "image_id": 4, "category_id": 2, "bbox": [0, 0, 4, 5]}],
        "categories": [{"id": 3, "name": "b"}, {"id": 2, "name": "a"}],
    }
    clean = clean_ground_truth(truth)
    assert clean["annotations"] == [
        {"id": 1, "image_id": 4, "category_id": 2, "bbox": [0, 0, 4, 5], "area": 20.0, "iscrowd": 0}
    ]
    assert [category["id"] for category in clean["categories"]] == [2, 3]
    assert truth["annotations"][0]["id"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no 'images'"),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, "categories repeat"),
        ({"annotations": [{"id": 12, "image_id": 4, "category_id": 2}]}, "annotation 12 of image 4: has no bbox"),
        ({"images": [{"id": 2**63, "height": 5, "width": 5}]}, "images has the id 9223372036854775808, .* 64 bits"),
        ({"images": [{"height": 5, "width": 5}]}, "images has the id None"),
        ({"images": [7]}, "images has the id None"),
        ({"images": [{"id": 4, "height": "5", "width": 5}]}, "image 4 of the ground truth has height '5', not a whole"),
        ({"images": [{"id": "f81d", "height": 5, "width": 5}]}, "has the id 'f81d'; number them"),
    ],
)
def test_clean_ground_truth_names_what_is_wrong(change, message):
    truth, _ = random_case(0)
    truth["images"] = [{"id": 4, "height": 5, "width": 5}]
    truth = {key: value for key, value in (truth | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        clean_ground_truth(truth)


def test_without_a_mask_an_annotation_is_left_out_and_reported(caplog):
    truth, _ = random_case(0)
    number, first = len(truth["annotations"]), truth["annotations"][0]
    known = sum(a["category_id"] != 33 for a in truth["annotations"])
    del first["segmentation"]
    left = clean_ground_truth(truth, with_masks=True)["annotations"]
    assert len(left) == known - (first["category_id"] != 33) < number
    assert f"annotation {first['id']} of image {first['image_id']}: has no segmentation" in caplog.text


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("base", [2**53, 2**62, 2**63 - 101, -(2**63)])
def test_large_ids_change_no_figure(base, with_masks):
    truth, rows = random_case(4)
    masks = [rectangle_rle(box) for box in rows["box"]] if with_masks else None
    wanted = assert_equal_backends(truth, rows, masks)
    moved = truth | {
        "images": [image | {"id": image["id"] + base} for image in truth["images"]],
        "annotations": [a | {"image_id": a["image_id"] + base} for a in truth["annotations"]],
    }
    rows = rows.copy()
    rows["image_id"] += base
    assert assert_equal_backends(moved, rows, masks) == wanted
    assert {result["image_id"] for result in result_dicts(rows)} <= {image["id"] for image in moved["images"]}


def test_masks_need_the_sizes_of_the_images():
    truth, _ = random_case(0)
    del truth["images"][2]["width"]
    with pytest.raises(ValueError, match=r"image \d+ of the ground truth has width None"):
        clean_ground_truth(truth, with_masks=True)
