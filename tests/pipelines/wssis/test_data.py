import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.data.points.dataset import PointDataset
from detkit.ops.rle import decode_mask, encode_masks
from detkit.pipelines.wssis.data import Sources, make_data, with_points
from detkit.pipelines.wssis.labels import (
    boxes_of,
    join_labels,
    label_quality,
    labels_between,
    predict_at_points,
    pseudo_labels,
    refine_predictions,
    unanswered,
)
from detkit.structures import LabelMap, PromptedDetections


def rectangle(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(number, image, category=3, box=(4, 6, 10, 8), **more):
    shape = {"bbox": list(box), "segmentation": rectangle(*box), "area": box[2] * box[3]}
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, **shape, **more}


def point(number, image, category=3, at=(9, 10)):
    return {"id": number, "image_id": image, "category_id": category, "point": list(at)}


def content(images, annotations):
    listed = [{"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in images]
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    return {"images": listed, "annotations": annotations, "categories": categories}


@pytest.fixture
def files(tmp_path):
    """Two strong and two weak images, the second of these without points; a function changes a file."""
    made = {
        "strong": content([1, 2], [annotation(1, 1), annotation(2, 2, 7)]),
        "weak": content([3, 4], [point(1, 3), point(5, 3, 7, (20, 12))]),
        "truth": content([3, 4], [annotation(1, 3), annotation(5, 3, 7, (18, 8, 6, 10))]),
    }
    for number in (1, 2, 3, 4):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")

    def section(**changes):
        for name, change in changes.items():
            change(made[name])
        for name, part in made.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(part))
        paths = {name: str(tmp_path / f"{name}.json") for name in made}
        return {"data": {**paths, "image_folder": str(tmp_path), "val": None, "val_image_folder": None}}

    section.content = made
    return section


def run(section, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    make_data(section, folder)
    return Sources.read(folder)


def test_given_files_are_used_where_they_are(files, tmp_path):
    sources = run(files(), tmp_path)
    assert sources.weak == tmp_path / "weak.json" and sources.val_data() is None
    strong = json.loads(sources.strong.read_text())
    assert strong["annotations"][0]["point"] == [8.5, 9.5] and strong["annotations"][0]["bbox"] == [4, 6, 10, 8]


def test_points_of_strong_labels():
    given = content([1], [annotation(1, 1, point=[5, 7]), annotation(2, 1, iscrowd=1)])
    assert [a.get("point") for a in with_points(given)["annotations"]] == [[5, 7], None]
    for broken, message in (({"segmentation": []}, "annotation 4"), ({"segmentation": [[1, 2]]}, "annotation 4")):
        with pytest.raises(ValueError, match=message):
            with_points(content([1], [annotation(4, 1, **broken)]))
    with pytest.raises(ValueError, match="annotation 4 of image 1: its mask is empty"):
        with_points(content([1], [annotation(4, 1, segmentation=rectangle(40, 40, 2, 2))]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(weak=lambda c: c["categories"].pop()), r"weak.json: its categories differ"),
        (dict(weak=lambda c: c["images"][0].update(id=1)), r"none of its 2 annotations .* image 3: there is no such"),
        (dict(weak=lambda c: c["images"][1].update(id=2)), r"1 image ids are both strong and weak: 2"),
        (dict(weak=lambda c: c["images"][1].update(file_name="2.png")), r"1 file names are both .*: 2.png"),
        (dict(weak=lambda c: c["images"][1].update(file_name="lost.png")), r"1 of 4 images are not in .*: lost.png"),
        (dict(weak=lambda c: c.pop("annotations")), r"weak.json: no list .annotations."),
        (dict(weak=lambda c: c["annotations"].clear()), r"weak.json: has no points"),
        (dict(strong=lambda c: c["annotations"].clear()), r"strong.json: has no objects"),
        (dict(strong=lambda c: c["annotations"][0].pop("segmentation")), r"data.strong: .*.json: .* 1 of image 1"),
        (dict(truth=lambda c: c["annotations"].pop()), r"truth.json: has no masks for 1 points: \[5\]"),
        (dict(truth=lambda c: c.pop("images")), r"truth.json: no list .images."),
        (dict(truth=lambda c: c["annotations"][1].update(image_id=4)), r"truth.json: 1 .* another image_id .* \[5\]"),
        (
            dict(truth=lambda c: c["annotations"][1].pop("segmentation")),
            r"truth.json: has no masks for 1 points: \[5\]",
        ),
    ],
)
def test_files_that_do_not_fit(files, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(files(**changes), tmp_path)


def test_a_class_without_strong_label_is_reported(files, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(files(strong=lambda c: c["annotations"].pop()), tmp_path)
    assert "no strong label shows the classes dog" in caplog.text


def test_points_of_unknown_classes_are_left_out_by_id(files, tmp_path, caplog):
    sources = run(files(weak=lambda c: c["annotations"][1].update(category_id=9)), tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = PointDataset(sources.weak, sources.image_folder)
    assert "annotation 5 of image 3: there is no category 9" in caplog.text and len(dataset) == 2


class Rectangles:
    """A model that answers points of class 3 with a rectangle."""

    label_map = LabelMap(("dog", "cat"), (7, 3))

    def predict(self, images, batch_size, *, points, labels, prompt, boxes=None):
        self.seen = [x.tolist() for x in labels]
        found = []
        for image, known, classes in zip(images, points, labels, strict=True):
            owners = (classes == 1).nonzero()[:, 0]
            masks = torch.zeros(len(owners), *image.shape[1:], dtype=torch.bool)
            masks[:, 6:14, 4:12] = True
            corners = torch.tensor([[4.0, 6.0, 12.0, 14.0]]).repeat(len(owners), 1)
            plain = (corners, torch.full((len(owners),), 0.9), classes[owners], masks, self.label_map)
            found.append(PromptedDetections(*plain, owners=owners, points=known[owners]))
        return found


def test_predictions_name_their_points(files, tmp_path):
    sources = run(files(), tmp_path)
    dataset, model = PointDataset(sources.weak, sources.image_folder), Rectangles()
    (found,) = predict_at_points(model, dataset, prompt="point", batch_size=2)
    assert model.seen == [[1, 0], []]  # by category id, and an image without points
    assert (found["annotation_id"], found["image_id"], found["category_id"]) == (1, 3, 3)
    assert found["point"] == [9, 10] and found["bbox"] == [4, 6, 8, 8]
    with pytest.raises(ValueError, match="needs a bbox with every point"):
        predict_at_points(model, dataset, prompt="point_with_size")
    model.label_map = LabelMap(("cat",), (3,))
    with pytest.raises(ValueError, match=r"does not know: dog \(id 7\)"):
        predict_at_points(model, dataset, prompt="point")


def test_labels_and_their_quality(files, tmp_path):
    sources = run(files(), tmp_path)
    dataset = PointDataset(sources.weak, sources.image_folder)
    predictions = predict_at_points(Rectangles(), dataset, prompt="point")
    strong, weak, truth = (json.loads(path.read_text()) for path in (sources.strong, sources.weak, sources.truth))
    labels = join_labels(strong, weak, pseudo_labels(predictions))
    assert [i["id"] for i in labels["images"]] == [3, 4, 1, 2]
    assert [(a["id"], a["image_id"], a.get("pseudo")) for a in labels["annotations"]][2] == (3, 3, True)
    assert labels["annotations"][2]["area"] == 64
    figures = label_quality(truth, weak, predictions)
    assert figures["mean IoU of answers"] == pytest.approx(64 / 80) and figures["mean IoU"] == pytest.approx(32 / 80)
    assert figures["AP50"] == pytest.approx(0.5) and unanswered(weak, predictions) == 1
    assert label_quality(truth, weak, [])["mean IoU"] == 0 and unanswered(weak, []) == 2
    empty = {**predictions[0], "segmentation": encode_masks(torch.zeros(1, 24, 32, dtype=torch.bool))[0]}
    assert pseudo_labels([empty]) == []


def test_the_truth_as_prediction_is_perfect():
    crowd = annotation(9, 3, box=(0, 0, 30, 20), iscrowd=1)
    truth = content([3, 4], [annotation(1, 3), crowd, annotation(5, 3, 7, (18, 8, 6, 10)), annotation(6, 4)])
    weak = content([3, 4], [point(1, 3), point(5, 3, 7, (20, 12)), point(6, 4)])
    rles = [
        encode_masks(decode_mask(a["segmentation"], 24, 32)[None])[0] for a in truth["annotations"] if not a["iscrowd"]
    ]
    predictions = [
        {**a, "annotation_id": a["id"], "bbox": [1.0, 1.0, 5.0, 5.0], "score": 1.0, "segmentation": rle}
        for a, rle in zip(weak["annotations"], rles, strict=True)
    ]
    perfect = {"AP": 1.0, "AP50": 1.0, "AP75": 1.0, "mean IoU": 1.0, "mean IoU of answers": 1.0}
    assert label_quality(truth, weak, predictions) == pytest.approx(perfect)
    # Of two answers to a point the better scored one counts, once.
    worse = [{**predictions[0], "score": 0.5, "segmentation": rles[1]}]
    figures = label_quality(truth, weak, predictions + worse)
    assert figures["mean IoU"] == figures["mean IoU of answers"] == 1.0


def test_refined_predictions_keep_everything_but_mask_and_box(files, tmp_path):
    class Shift:
        label_map = Rectangles.label_map

        def refine(self, image, masks, points, labels):
            assert labels.tolist() == [1] and points.tolist() == [[9, 10]]
            return masks.roll(3, dims=2)

    sources = run(files(), tmp_path)
    dataset = PointDataset(sources.weak, sources.image_folder)
    (before,) = predict_at_points(Rectangles(), dataset, prompt="point")
    (after,) = refine_predictions(Shift(), dataset, [before])
    assert after["bbox"] == [7, 6, 8, 8] and after["segmentation"] != before["segmentation"]
    assert {k: v for k, v in after.items() if k not in ("bbox", "segmentation")} == {
        k: v for k, v in before.items() if k not in ("bbox", "segmentation")
    }


def test_boxes_and_labels():
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[0, 2:4, 1] = True
    assert boxes_of(masks) == [[1, 2, 1, 2], [0, 0, 0, 0]]
    assert labels_between(LabelMap(("a", "b"), (1, 2)), LabelMap(("b", "c", "a"), (2, 3, 1))).tolist() == [2, 0]


def test_more_labels_than_fit_into_a_byte():
    masks = encode_masks(torch.ones(300, 4, 5, dtype=torch.bool))
    kept = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 4], "point": [1, 1], "score": 1.0}
    assert [a["area"] for a in pseudo_labels([{**kept, "segmentation": mask} for mask in masks])] == [20] * 300
