import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from processes import run_ranks

from detkit.evaluation.coco import CocoEvaluator
from detkit.registry import build
from detkit.structures import Annotations, Detections, LabelMap

LABELS = LabelMap(("cat", "dog"), (3, 17))
BOXES = {1: [[10.0, 10.0, 60.0, 90.0], [5.0, 20.0, 25.0, 40.0]], 2: [[0.0, 0.0, 100.0, 100.0]], 9: []}
KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def ground_truth():
    """Three images: one cat and one dog, a dog, nothing."""
    annotations = []
    for image_id, boxes in BOXES.items():
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            category = 3 if image_id == 1 and i == 0 else 17
            box, corners = [x1, y1, x2 - x1, y2 - y1], [x1, y1, x2, y1, x2, y2, x1, y2]
            annotations.append(
                {"id": len(annotations), "image_id": image_id, "category_id": category, "iscrowd": 0}
                | {"bbox": box, "area": box[2] * box[3], "segmentation": [corners]}
            )
    return {
        "images": [{"id": i, "height": 120, "width": 120} for i in BOXES],
        "annotations": annotations,
        "categories": [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def annotation(image_id):
    return Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image_id=image_id, file_name="some.jpg")


def detections(boxes, labels, scores=None, with_masks=False, label_map=LABELS):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = None
    if with_masks:
        masks = torch.zeros(len(boxes), 120, 120, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
    scores = torch.tensor(scores if scores is not None else [0.9] * len(boxes))
    return Detections(boxes, scores, torch.tensor(labels, dtype=torch.int64), masks, label_map)


def perfect(image_id, with_masks=False):
    return detections(BOXES[image_id], {1: [0, 1], 2: [1], 9: []}[image_id], with_masks=with_masks)


def evaluate_perfect(evaluator, with_masks=False):
    evaluator.update([perfect(i, with_masks) for i in (1, 2)], [annotation(i) for i in (1, 2)])
    evaluator.update([perfect(9, with_masks)], [annotation(9)])
    return evaluator.compute()


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_ground_truth_as_predictions_has_ap_one(backend):
    evaluator = CocoEvaluator(ground_truth(), iou_types=("bbox", "segm"), backend=backend)
    figures = evaluate_perfect(evaluator, with_masks=True)
    assert list(figures) == [f"{iou_type}/{key}" for iou_type in ("bbox", "segm") for key in KEYS]
    assert list(figures.values()) == pytest.approx([1] * 24)
    names = ["bbox/AP/cat", "bbox/AP/dog", "segm/AP/cat", "segm/AP/dog"]
    assert evaluator.per_class() == pytest.approx(dict.fromkeys(names, 1))


def test_built_by_the_registry_from_a_dataset():
    class Dataset:
        def coco(self):
            return ground_truth()

    evaluator = build({"type": "CocoEvaluator", "max_detections": 50}, path="evaluator", dataset=Dataset())
    assert evaluate_perfect(evaluator)["bbox/AR50"] == 1


def test_misses_and_wrong_classes_lower_the_figures():
    evaluator = CocoEvaluator(ground_truth())
    evaluator.update([perfect(1), detections(BOXES[2], [0]), perfect(9)], [annotation(i) for i in BOXES])
    figures = evaluator.compute()
    assert 0 < figures["bbox/AP"] < 1
    assert evaluator.per_class()["bbox/AP/cat"] == pytest.approx(
        1
    )  # the wrong cat comes after the right one: equal scores
    assert evaluator.per_class()["bbox/AP/dog"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_no_detections_at_all_and_no_objects_at_all(backend):
    evaluator = CocoEvaluator(ground_truth(), iou_types=["bbox", "segm"], backend=backend)
    evaluator.update([detections([], [], with_masks=True)] * 3, [annotation(i) for i in BOXES])
    figures = evaluator.compute()
    assert set(figures.values()) == {0.0}
    assert evaluator.results() == []
    empty = CocoEvaluator(ground_truth() | {"annotations": []}, backend=backend)
    assert set(evaluate_perfect(empty).values()) == {-1.0}


def test_reset_starts_anew():
    evaluator = CocoEvaluator(ground_truth())
    evaluate_perfect(evaluator)
    evaluator.reset()
    assert evaluator.results() == []
    assert evaluator.per_class() == {}
    assert evaluate_perfect(evaluator)["bbox/AP"] == pytest.approx(1)


def test_unknown_categories_are_named_once_and_do_not_count():
    evaluator = CocoEvaluator(ground_truth())
    foreign = LabelMap(("cat", "dog", "zebra"), (3, 17, 24))
    predictions = [perfect(1), perfect(2), detections([[0, 0, 9, 9]], [2], label_map=foreign)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator.update(predictions, [annotation(i) for i in BOXES])
    with pytest.warns(UserWarning, match=r"categories \[24\] do not count"):
        assert evaluator.compute()["bbox/AP"] == pytest.approx(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluator.compute()["bbox/AP"] == pytest.approx(1)


def test_images_that_were_left_out_are_reported():
    evaluator = CocoEvaluator(ground_truth())
    evaluator.update([perfect(1)], [annotation(1)])
    with pytest.warns(UserWarning, match="2 of 3 images"):
        assert evaluator.compute()["bbox/AP"] < 1


@pytest.mark.parametrize(
    ("found", "image_id", "message"),
    [
        (detections([[0, 0, float("nan"), 5]], [0]), 1, "image 1 .*NaN"),
        (detections([[0, 0, 5, 5]], [0], [float("inf")]), 2, "image 2 .*infinite"),
        (perfect(9), 77, r"image 77 \(some.jpg\) is not in"),
        (perfect(9), None, "image None"),
    ],
)
def test_update_names_the_image_that_is_wrong(found, image_id, message):
    evaluator = CocoEvaluator(ground_truth())
    with pytest.raises(ValueError, match=message):
        evaluator.update([found], [annotation(image_id)])


def test_an_image_twice_is_an_error():
    evaluator = CocoEvaluator(ground_truth())
    with pytest.raises(ValueError, match=r"image 1 .* before"):
        evaluator.update([perfect(1), perfect(1)], [annotation(1), annotation(1)])


def test_segm_needs_masks():
    with pytest.raises(ValueError, match="image 1 have no masks"):
        CocoEvaluator(ground_truth(), iou_types=["segm"]).update([perfect(1)], [annotation(1)])


@pytest.mark.parametrize(
    "options", [{"iou_types": "bbox"}, {"iou_types": ["boxes"]}, {"iou_types": []}, {"backend": "x"}]
)
def test_wrong_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CocoEvaluator(ground_truth(), **options)
    with pytest.raises(ValueError, match="max_detections"):
        CocoEvaluator(ground_truth(), max_detections=9)


def test_results_are_what_detections_give_and_pycocotools_reads(tmp_path):
    from pycocotools.coco import COCO

    evaluator = CocoEvaluator(ground_truth(), iou_types=["bbox", "segm"])
    evaluate_perfect(evaluator, with_masks=True)
    expected = [result for i in BOXES for result in perfect(i, with_masks=True).to_coco(i)]
    assert evaluator.results() == expected
    path = tmp_path / "results.json"
    path.write_text(json.dumps(evaluator.results()))
    truth = COCO()
    truth.dataset = ground_truth()
    truth.createIndex()
    assert len(truth.loadRes(str(path)).anns) == 3


def test_table():
    truth = ground_truth()
    truth["categories"].append({"id": 5, "name": "a class without objects"})
    evaluator = CocoEvaluator(truth)
    evaluate_perfect(evaluator)
    header, row = evaluator.table().splitlines()
    assert header.split() == KEYS
    assert row.split()[:2] == ["bbox", "100.0"]
    lines = evaluator.table(per_class=True).splitlines()
    assert lines[-2].split() == ["a", "class", "without", "objects", "-"]
    assert lines[-1].split() == ["dog", "100.0"]
    assert len({len(line) for line in lines[3:]}) == 1


def test_classes_of_one_name_stay_apart():
    truth = ground_truth()
    truth["categories"][0]["name"] = "cat"
    evaluator = CocoEvaluator(truth)
    evaluate_perfect(evaluator)
    assert set(evaluator.per_class()) == {"bbox/AP/cat (id 3)", "bbox/AP/cat (id 17)"}


def _rank_main(folder):
    """Rank 0 has two images, rank 1 one of them again with a worse answer, rank 2 nothing."""
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    evaluator = CocoEvaluator(ground_truth(), iou_types=["bbox", "segm"], backend="pycocotools")  # has no threads
    if rank == 0:
        evaluator.update([perfect(i, with_masks=True) for i in (1, 2)], [annotation(1), annotation(2)])
    if rank == 1:
        wrong = detections([[50, 50, 51, 51]] * 4, [1] * 4, with_masks=True)
        evaluator.update([wrong, perfect(9, with_masks=True)], [annotation(2), annotation(9)])
    figures = evaluator.compute()
    summary = {"figures": figures, "per_class": evaluator.per_class(), "results": len(evaluator.results())}
    Path(folder, f"{rank}.json").write_text(json.dumps(summary))
    torch.distributed.destroy_process_group()


def test_uneven_ranks_count_each_image_once(tmp_path):
    codes, output = run_ranks(lambda: _rank_main(str(tmp_path)), tmp_path / "log", ranks=3)
    assert codes == [0, 0, 0], output
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert list(ranks[0]["figures"].values()) == pytest.approx([1] * 24)
    for rank in ranks:
        assert rank["figures"] == ranks[0]["figures"]
        assert rank["per_class"] == ranks[0]["per_class"]
    assert [rank["results"] for rank in ranks] == [3, 0, 0]


def test_import_needs_no_backend():
    code = "import sys, detkit.evaluation; assert not {'hotcoco', 'pycocotools', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
