"""One rule for annotations that cannot be used: in training, evaluation, splitting and points."""

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit.cli import main
from detkit.data.annotations import is_crowd, judge_annotations
from detkit.data.coco import CocoDataset
from detkit.data.points.split import split_annotations
from detkit.evaluation.coco import CocoEvaluator
from detkit.ops.rle import decode_mask
from detkit.structures import Detections

BOX = (10, 5, 20, 30)
SQUARE = [10, 5, 30, 5, 30, 35, 10, 35]
HOSTILE_MASKS = [
    [[48, 32]],
    [[1, 2, 3, 4, 5, float("nan")]],
    [SQUARE, [1, 2, 3, 4, 5, 1e8]],
    [SQUARE, [1, 2, 3, 4, 5, -1e7]],
    [SQUARE, [1, 2, 3, 4, 5, 10**400]],
    [SQUARE, [1, 2, 3, 4, 5, 6, 7]],
    [SQUARE, "abcdefg"],
    [SQUARE, {"size": [60, 80], "counts": [4800]}],
    [[0, 0, 900, 59] * 2000],
    {"size": 3, "counts": "abc"},
    {"size": [60, 80], "counts": "é"},
    {"size": [60, 80], "counts": [2**40, 4800 - 2**40]},
    {"size": [60, 80]},
    "polygon",
    7,
]


def perfect(dataset):
    """Figures of the dataset's own objects as detections."""
    evaluator = CocoEvaluator(dataset)
    annotations = [a for _, a in dataset]
    evaluator.update([Detections.of_annotations(a, dataset.label_map) for a in annotations], annotations)
    return evaluator.compute()["bbox/AP"]


@pytest.mark.parametrize("flag", [0, 0.0, False, None, "0", "false", " False "])
def test_no_crowd(flag):
    assert not is_crowd({"iscrowd": flag})


@pytest.mark.parametrize("flag", [1, 1.0, True, "1", "true", "True"])
def test_a_crowd(flag):
    assert is_crowd({"iscrowd": flag})


@pytest.mark.parametrize("flag", [-5.5, 2, "yes", "", [], [0], {}, float("nan"), 10**400])
def test_neither_crowd_nor_object(coco_folder, edit_coco, caplog, flag):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][0].update(iscrowd=flag))
    dataset = CocoDataset(path, folder)
    assert dataset[0][1].labels.tolist() == [1] and [a["id"] for a in dataset.coco()["annotations"]] == [2]
    assert "annotation 1 of image 10: its iscrowd is" in caplog.text and "neither 0 nor 1" in caplog.text


@pytest.mark.parametrize("flag", [0, "0", False, 1, "1", True])
def test_a_flag_means_the_same_everywhere(coco_folder, edit_coco, flag, capsys, tmp_path):
    path, folder = coco_folder([[(1, *BOX), (1, 0, 0, 5, 5)], [(1, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][0].update(iscrowd=flag))
    dataset, crowds = CocoDataset(path, folder, masks=True), int(flag in (1, "1"))
    assert dataset.crowds == crowds and len(dataset[0][1]) == 2 - crowds
    assert [a["iscrowd"] for a in dataset.coco()["annotations"]] == [crowds, 0, 0] and perfect(
        dataset
    ) == pytest.approx(1)
    assert f"{crowds} left out as crowds" in dataset.summary()
    out = str(tmp_path / "split")
    assert main(["split-points", str(path), "--percent", "50", "--out", out]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:3]]
    assert sum(int(row[2]) for row in rows) == 3 - crowds and sum(int(row[4]) for row in rows) == crowds


def test_nothing_but_crowds_is_an_error_at_every_door(coco_folder, edit_coco, capsys, tmp_path):
    path, folder = coco_folder([[(1, *BOX)], [(2, *BOX)]])
    edit_coco(path, lambda c: [a.update(iscrowd=1, point=[12, 8]) for a in c["annotations"]])
    with pytest.raises(ValueError, match=r"instances\.json: no object remains, all 2 .* iscrowd"):
        CocoDataset(path, folder)
    for command in (
        ["split-points", str(path), "--percent", "50", "--out", str(tmp_path)],
        ["check-points", str(path)],
    ):
        assert main(command) == 2
        assert "instances.json: no object remains, all 2" in capsys.readouterr().err


def test_the_number_of_crowds_is_in_every_summary(coco_folder, edit_coco, capsys, caplog):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX), (1, 1, 1, 5, 5)], []])
    edit_coco(path, lambda c: [a.update(iscrowd=int(a["id"] > 1), point=[12, 8]) for a in c["annotations"]])
    with caplog.at_level(logging.INFO):
        CocoDataset(path, folder)
    assert f"{path}: 2 images (1 of them empty), 1 objects of 2 classes, 2 left out as crowds" in caplog.text
    assert main(["check-points", str(path)]) == 0
    assert ["left", "out", "as", "crowds", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("segmentation", HOSTILE_MASKS, ids=range(len(HOSTILE_MASKS)))
@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_a_bad_mask_costs_its_own_annotation_only(coco_folder, edit_coco, caplog, segmentation, backend):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX), (1, 1, 1, 5, 5)]])
    edit_coco(path, lambda c: c["annotations"][0].update(segmentation=segmentation))
    dataset = CocoDataset(path, folder, masks=True)
    assert dataset[0][1].labels.tolist() == [1, 0] and "annotation 1 of image 10: its" in caplog.text
    assert [a["id"] for a in dataset.coco()["annotations"]] == [2, 3]
    content = json.loads(path.read_text())
    for truth in (dataset, content):
        evaluator = CocoEvaluator(truth, iou_types=["bbox", "segm"], backend=backend)
        evaluator.update([Detections.of_annotations(dataset[0][1], dataset.label_map)], [dataset[0][1]])
        assert evaluator.compute()["segm/AP"] == pytest.approx(1)
    content["images"].append({**content["images"][0], "id": 11})
    split = split_annotations(content, percent=50)
    assert [p.annotation for p in split.problems] == [1]
    assert len(split.strong["annotations"]) + len(split.weak["annotations"]) == 2


@pytest.mark.parametrize("stray", [[48, 32], [], [1, 2, 3, 4]])
def test_a_polygon_without_area_is_left_out_of_its_object(coco_folder, edit_coco, caplog, stray):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)], [(1, *BOX)]])
    wanted = [a.masks for _, a in CocoDataset(path, folder, masks=True)]
    edit_coco(path, lambda c: c["annotations"][0]["segmentation"].insert(0, stray))
    dataset = CocoDataset(path, folder, masks=True)
    assert all(torch.equal(a.masks, masks) for (_, a), masks in zip(dataset, wanted, strict=True))
    assert "annotation 1 of image 10: 1 of its 2 polygons have no area and are left out" in caplog.text
    split = split_annotations(json.loads(path.read_text()), percent=50)
    assert not split.problems and len(split.strong["annotations"]) + len(split.weak["annotations"]) == 3


@pytest.mark.parametrize("box", [[1, 2, True, 4], [1, 2, "3", 4], [1, 2, 10**400, 4], None, 5, {}, [[1, 2, 3, 4]]])
def test_a_bad_box_costs_its_own_annotation_only(coco_folder, edit_coco, caplog, box):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][0].update(bbox=box))
    dataset = CocoDataset(path, folder)
    assert dataset[0][1].labels.tolist() == [1] and perfect(dataset) == pytest.approx(1)
    assert "annotation 1 of image 10: " in caplog.text and "bbox" in caplog.text


@pytest.mark.parametrize("area", [-1, True, "5", float("nan"), float("inf"), 10**400, []])
def test_a_bad_area_is_replaced_and_reported(coco_folder, edit_coco, caplog, area):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][0].update(area=area))
    assert [a["area"] for a in CocoDataset(path, folder).coco()["annotations"]] == [600, 600]
    assert "annotation 1 of image 10: its area is" in caplog.text


def test_doubles_are_reported(coco_folder, edit_coco, caplog):
    path, folder = coco_folder([[(1, *BOX)], [(2, *BOX)]])

    def double(content):
        content["images"][1]["file_name"] = "000.png"
        content["categories"][1]["name"] = "name1"

    edit_coco(path, double)
    CocoDataset(path, folder)
    assert "1 times one file under several ids of images: 000.png (10, 11)" in caplog.text
    assert "1 times one name under several ids of categories: name1 (1, 2)" in caplog.text


def test_one_unknown_category_and_one_repeated_id_do_not_stop_the_rest(coco_folder, edit_coco, caplog):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX), (2, *BOX), (1, *BOX)]])
    edit_coco(path, lambda c: (c["annotations"][0].update(category_id=77), c["annotations"][3].update(id=2)))
    assert CocoDataset(path, folder)[0][1].labels.tolist() == [1, 1]
    assert (
        "left out 2 annotations" in caplog.text and "annotation 1 of image 10: there is no category 77" in caplog.text
    )
    assert "annotation 2 of image 10: an earlier annotation has the same id" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_with_a_byte_order_mark(coco_folder, encoding):
    path, folder = coco_folder([[(1, *BOX)]])
    path.write_text(path.read_text().replace("name1", "Bär"), encoding=encoding)
    assert CocoDataset(path, folder).label_map.names[0] == "Bär"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"é": 1}'.encode("latin-1"), "is not in UTF-8 .byte 0xe9 at position 2; perhaps Latin-1.: save it as UTF-8"),
        (b'{"images": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "holds a number of thousands of digits"),
        (b"[]", 'no list "images"'),
        (b"null", 'no list "images"'),
        (b"", "is not json: line 1"),
    ],
)
def test_other_json(coco_folder, text, message, capsys, tmp_path):
    path, folder = coco_folder([[(1, *BOX)]])
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"instances\.json.*{message}|{message}.*instances\.json"):
        CocoDataset(path, folder)
    assert main(["check-points", str(path)]) == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("base", [2**53, 2**63 - 20])
@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_large_ids_arrive_unchanged(coco_folder, edit_coco, base, backend):
    path, folder = coco_folder([[(1, *BOX)], [(2, *BOX)], [(1, 1, 1, 5, 5)]])

    def enlarge(content):
        for image in content["images"]:
            image["id"] += base - 10
        for annotation in content["annotations"]:
            annotation["image_id"] += base - 10
            annotation["id"] += base

    edit_coco(path, enlarge)
    dataset = CocoDataset(path, folder)
    evaluator = CocoEvaluator(dataset, backend=backend)
    annotations = [a for _, a in dataset]
    evaluator.update([Detections.of_annotations(a, dataset.label_map) for a in annotations], annotations)
    assert evaluator.compute()["bbox/AP"] == pytest.approx(1)
    assert [result["image_id"] for result in evaluator.results()] == [base, base + 1, base + 2] == dataset.image_ids


def test_annotation_ids_beyond_64_bits_are_named(coco_folder, edit_coco, caplog):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][0].update(id=2**64))
    assert len(CocoDataset(path, folder)[0][1]) == 1
    assert f"has the id {2**64}, which does not fit into 64 bits" in caplog.text and str(path) in caplog.text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([0, 1, 10, 1e8]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts"]), inner),
    max_leaves=20,
)
KEYS = st.sampled_from(["id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"])
GOOD = {"id": 1, "image_id": 10, "category_id": 1, "bbox": list(BOX), "segmentation": [SQUARE], "area": 600}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES | st.lists(st.lists(st.floats() | st.integers(-200, 200), max_size=9)), max_size=3))
def test_whatever_an_annotation_holds_it_is_sound_or_named(change):
    image = {"id": 10, "height": 60, "width": 80}
    judged = judge_annotations([GOOD | {"id": 2}, GOOD | change], {10: image}, {1}, masks=True)
    assert judged.annotations[0]["id"] == 2 and len(judged.annotations) + len(judged.problems) == 2
    assert all(len(str(problem)) < 400 for problem in judged.problems)
    for annotation in judged.annotations:
        assert decode_mask(annotation["segmentation"], 60, 80).shape == (60, 80)
        x, y, width, height = annotation["bbox"]
        assert -1000 <= x < x + width <= 1080 and -1000 <= y < y + height <= 1060
        assert annotation["iscrowd"] in (0, 1) and 0 <= annotation["area"] < np.inf
