import json
import logging
import pickle

import numpy as np
import pytest
import torch
from paths import REAL_DATA as REAL
from PIL import Image

from detkit.data.coco import CocoDataset
from detkit.ops.rle import decode_mask, encode_masks
from detkit.registry import build

BOX = (10, 5, 20, 30)


def test_a_sample(coco_folder):
    path, folder = coco_folder([[(1, *BOX), (2, 0, 0, 4, 8)], []])
    dataset = build({"type": "CocoDataset", "annotation_file": str(path), "image_folder": str(folder), "masks": True})
    image, annotations = dataset[0]
    assert (image == torch.from_numpy(np.array(Image.open(folder / "000.png"))).permute(2, 0, 1)).all()
    assert annotations.boxes.tolist() == [[10, 5, 30, 35], [0, 0, 4, 8]]
    assert annotations.labels.tolist() == [0, 1]
    assert annotations.masks[0, 5:35, 10:30].all() and annotations.masks[0].sum() == 600
    assert (annotations.image_id, annotations.original_size) == (10, (60, 80))
    assert annotations.file_name == str(folder / "000.png")
    empty = dataset[1][1]
    assert empty.boxes.shape == (0, 4) and empty.masks.shape == (0, 60, 80) and empty.labels.dtype == torch.int64
    assert dataset.image_ids == [10, 11] and dataset.sizes.tolist() == [[60, 80]] * 2
    assert dataset.max_objects_per_image == 2
    with pytest.raises(IndexError):
        dataset[2]


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (3, 17, 90), (90, 0, 7)])
def test_labels_count_categories_in_the_order_of_their_ids(coco_folder, ids):
    path, folder = coco_folder([[(i, *BOX) for i in ids]], category_ids=ids)
    dataset = CocoDataset(path, folder)
    assert dataset.label_map.category_ids == tuple(sorted(ids))
    assert dataset.label_map.names == tuple(f"name{i}" for i in sorted(ids))
    assert dataset[0][1].labels.tolist() == [sorted(ids).index(i) for i in ids]
    assert [a["category_id"] for a in dataset.coco()["annotations"]] == list(ids)


def test_annotations_in_any_order_come_with_their_image(coco_folder, edit_coco):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)], [(1, 1, 1, 2, 2)], [(2, 3, 3, 4, 4), (1, 5, 5, 6, 6)]])
    before = [a.boxes.tolist() for _, a in CocoDataset(path, folder)]
    edit_coco(path, lambda c: c["annotations"].sort(key=lambda a: (a["id"] % 2, -a["image_id"])))
    assert [sorted(a.boxes.tolist()) for _, a in CocoDataset(path, folder)] == [sorted(boxes) for boxes in before]


def test_crowds_are_kept_for_evaluation_only(coco_folder, edit_coco):
    path, folder = coco_folder([[(1, *BOX), (1, 0, 0, 5, 5)]])
    edit_coco(path, lambda c: c["annotations"][0].update(iscrowd=1))
    dataset = CocoDataset(path, folder)
    assert dataset[0][1].boxes.tolist() == [[0, 0, 5, 5]]
    assert [a["iscrowd"] for a in dataset.coco()["annotations"]] == [1, 0]
    assert dataset.max_objects_per_image == 1


def test_polygons_and_both_kinds_of_rle_give_equal_masks(coco_folder, edit_coco):
    path, folder = coco_folder([[(1, *BOX)] * 3])
    mask = np.zeros((60, 80), dtype=bool)
    mask[5:35, 10:30] = True
    column = [10 * 60 + 5, 30, *[30, 30] * 19]

    def vary(content):
        annotations = content["annotations"]
        annotations[1]["segmentation"] = encode_masks(mask[None])[0]
        annotations[2]["segmentation"] = {"size": [60, 80], "counts": [*column, 60 * 80 - sum(column)]}

    edit_coco(path, vary)
    dataset = CocoDataset(path, folder, masks=True)
    for found in dataset[0][1].masks:
        assert (found.numpy() == mask).all()
    for annotation in dataset.coco()["annotations"]:
        assert (decode_mask(annotation["segmentation"], 60, 80) == mask).all()


def test_boxes_are_clipped_and_those_without_area_dropped_and_reported(coco_folder, edit_coco, caplog):
    bad = [(1, 90, 5, 10, 10), (1, 10, 10, 0, 5), (1, 10, 10, -5, 5)]
    path, folder = coco_folder([[(1, -5, 50, 20, 3000), *bad], [(2, *BOX)], [(2, *BOX), (1, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][4].update(bbox=[float("nan"), 1, 2, 3]))
    edit_coco(path, lambda c: c["annotations"][5].update(bbox=[]))
    with caplog.at_level(logging.WARNING):
        dataset = CocoDataset(path, folder)
    assert dataset[0][1].boxes.tolist() == [[0, 50, 15, 60]]
    assert len(dataset[1][1]) == 0 and dataset[2][1].labels.tolist() == [0]
    assert [a["id"] for a in dataset.coco()["annotations"]] == [1, 7]
    left_out, mended = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "left out 5 annotations" in left_out and str(path) in left_out and "annotation 2 of image 10" in left_out
    assert f"{path}: mended 1 annotations: annotation 1 of image 10: its bbox [-5, 50, 20, 3000] is clipped" in mended
    assert dataset.coco()["annotations"][0]["bbox"] == [0, 50, 15, 10]


def test_at_most_ten_dropped_annotations_are_listed(coco_folder, caplog):
    path, folder = coco_folder([[(1, *BOX)] + [(1, 0, 0, 0, 0)] * 25])
    CocoDataset(path, folder)
    assert caplog.text.count("of image 10") == 10 and "left out 25" in caplog.text


def test_ground_truth_is_complete_for_evaluation(coco_folder, edit_coco):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])

    def strip(content):
        for i, annotation in enumerate(content["annotations"]):
            del annotation["area"], annotation["iscrowd"]
            annotation["id"] = i

    edit_coco(path, strip)
    annotations = CocoDataset(path, folder).coco()["annotations"]
    assert [a["id"] for a in annotations] == [1, 2]
    assert annotations[0]["area"] == 600 and annotations[0]["iscrowd"] == 0 and "segmentation" not in annotations[0]
    assert "segmentation" in CocoDataset(path, folder, masks=True).coco()["annotations"][0]


def test_classes_keeps_a_subset(coco_folder):
    path, folder = coco_folder([[(1, *BOX), (5, 1, 1, 2, 2)], [(7, *BOX)]], category_ids=(1, 5, 7))
    dataset = CocoDataset(path, folder, classes=["name7", "name5"])
    assert dataset.label_map.names == ("name5", "name7") and dataset.label_map.category_ids == (5, 7)
    assert [a.labels.tolist() for _, a in dataset] == [[0], [1]]
    truth = dataset.coco()
    assert [a["category_id"] for a in truth["annotations"]] == [5, 7] and len(truth["categories"]) == 2
    with pytest.raises(ValueError, match="no class 'nam7', did you mean 'name7'"):
        CocoDataset(path, folder, classes=["nam7"])


def test_drop_empty_leaves_out_images_without_objects(coco_folder):
    path, folder = coco_folder([[], [(1, *BOX)], [], [(2, 1, 1, 2, 2), (1, *BOX)], []])
    dataset = CocoDataset(path, folder, drop_empty=True, masks=True)
    assert dataset.image_ids == [11, 13] and len(dataset.sizes) == 2
    assert [a.labels.tolist() for _, a in dataset] == [[0], [1, 0]]
    assert [image["id"] for image in dataset.coco()["images"]] == [11, 13]


def test_annotations_are_flat_arrays_and_pickle_to_their_bytes(coco_folder):
    many = [[(1 + i % 2, i % 40, i % 30, 5, 7) for i in range(400)] for _ in range(5)]
    path, folder = coco_folder(many)
    dataset = CocoDataset(path, folder, masks=True)
    held = {name: value for name, value in vars(dataset).items() if isinstance(value, (list, dict, set, tuple))}
    assert all(len(value) == 0 for value in held.values())
    arrays = [value for value in vars(dataset).values() if isinstance(value, np.ndarray)]
    assert all(array.dtype != object for array in arrays)
    size = sum(array.nbytes for array in arrays)
    assert len(pickle.dumps(dataset)) < size + 4000
    assert size < 2000 * 120
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3][1].masks, dataset[3][1].masks)


def test_a_size_that_differs_from_the_file_is_reported_once_and_the_pixels_win(coco_folder, edit_coco, caplog):
    path, folder = coco_folder([[(1, *BOX), (2, 45, 5, 30, 10)]])
    Image.new("RGB", (40, 50)).save(folder / "000.png")
    dataset = CocoDataset(path, folder)
    for _ in range(2):
        image, annotations = dataset[0]
    assert image.shape == (3, 50, 40) and annotations.original_size == (50, 40)
    assert annotations.boxes.tolist() == [[10, 5, 30, 35]]
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "000.png" in record.getMessage() and "image id 10" in record.getMessage()


def test_unreadable_images_name_file_and_ids(coco_folder):
    path, folder = coco_folder([[(1, *BOX)]], suffix="jpg")
    file = folder / "000.jpg"
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"image id 10 .*000\.jpg.*cannot read image"):
        CocoDataset(path, folder, masks=True)[0]


def test_masks_for_another_size_are_left_out_alone(coco_folder, edit_coco, caplog):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])
    rle = encode_masks(np.ones((1, 60, 80), dtype=bool))[0]
    edit_coco(path, lambda c: c["annotations"][0].update(segmentation=rle))
    Image.new("RGB", (70, 50)).save(folder / "000.png")
    dataset = CocoDataset(path, folder, masks=True)
    for _ in range(2):
        annotations = dataset[0][1]
        assert annotations.labels.tolist() == [1] and annotations.masks.shape == (1, 50, 70)
    assert caplog.text.count("left out annotation 1, its segmentation does not fit its image") == 1


def test_masks_need_segmentations(coco_folder, edit_coco, caplog):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][0].update(segmentation=[]))
    assert CocoDataset(path, folder, masks=True)[0][1].labels.tolist() == [1]
    assert "annotation 1 of image 10" in caplog.text
    edit_coco(path, lambda c: c["annotations"][1].pop("segmentation"))
    with pytest.raises(ValueError, match=r"none of its 2 annotations .*annotation 2 of image 10: has no segmentation"):
        CocoDataset(path, folder, masks=True)
    assert len(CocoDataset(path, folder)[0][1]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), 'no list "categories"'),
        (lambda c: c["images"][1].pop("height"), r"images\[1\] \(id 11\) lacks 'height'"),
        (lambda c: c["annotations"][0].pop("bbox"), r"annotation 1 of image 10: has no bbox"),
        (lambda c: c["images"][1].update(id="x"), r"images\[1\] has the id 'x'; number them"),
        (lambda c: c["images"][1].update(id=2**63), r"images\[1\] has the id 9223372036854775808, .* 64 bits"),
        (lambda c: c["images"][1].update(id=True), r"images\[1\] has the id True"),
        (lambda c: c["images"][1].update(width=0), r"images\[1\] \(id 11\) has width 0, not a whole number"),
        (lambda c: c["images"][1].update(width=1e300), r"images\[1\] \(id 11\) has width 1e\+300, not a whole"),
        (lambda c: c["images"][1].update(height=True), r"images\[1\] \(id 11\) has height True, .* wrong type"),
        (lambda c: c["images"][1].update(file_name="\ud800"), r"images\[1\] \(id 11\) has the file_name"),
        (lambda c: c["images"][1].update(file_name="x" * 300), "1 of 2 images are not in"),
        (
            lambda c: c["categories"][1].update(name="\ud800"),
            r"id 2. has the name '.ud800', .* no text",
        ),
        (lambda c: c["categories"][1].update(name=" "), r"categories\[1\] \(id 2\) has an empty name"),
        (lambda c: c["images"][1].update(id=10), "images repeats 1 ids: 10"),
        (lambda c: c["categories"][1].update(id=1), "categories repeats 1 ids: 1"),
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 1 of image 99: there is no such image"),
        (lambda c: c["annotations"][0].update(category_id=9), "annotation 1 of image 10: there is no category 9"),
        (lambda c: c["images"][1].update(file_name="no.png"), "1 of 2 images are not in .*no.png"),
        (lambda c: (c["images"].clear(), c["annotations"].clear()), "has no images"),
    ],
)
def test_errors_in_the_file_name_it_and_the_ids(coco_folder, edit_coco, change, message):
    path, folder = coco_folder([[(1, *BOX)], []])
    edit_coco(path, change)
    with pytest.raises(ValueError, match=message) as error:
        CocoDataset(path, folder)
    assert str(path) in str(error.value)


def test_files_that_are_missing_or_not_json(coco_folder):
    path, folder = coco_folder([[(1, *BOX)]])
    with pytest.raises(ValueError, match=r"image folder .*nowhere does not exist"):
        CocoDataset(path, folder / "nowhere")
    with pytest.raises(ValueError, match=r"cannot read annotation file .*other\.json"):
        CocoDataset(folder / "other.json", folder)
    path.write_text('{"images": [],\n "annotations": [,]}')
    with pytest.raises(ValueError, match=r"instances\.json is not json: line 2"):
        CocoDataset(path, folder)


@pytest.mark.parametrize(("name", "split", "images"), [("coco_mini", "val", 302), ("pennfudan", "train", 130)])
def test_real_data(name, split, images):
    if not (REAL / name).is_dir():
        pytest.skip(f"needs the dataset {name} in {REAL}")
    file = REAL / name / f"instances_{split}.json"
    dataset = CocoDataset(file, REAL / name / split, masks=True)
    content = json.loads(file.read_text())
    assert len(dataset) == images
    truth = dataset.coco()
    assert [a["id"] for a in truth["annotations"]] == [a["id"] for a in content["annotations"]]
    differences = []
    for index in range(0, images, 10):
        image, annotations = dataset[index]
        wanted = [a for a in content["annotations"] if a["image_id"] == annotations.image_id and not a["iscrowd"]]
        ids = [dataset.label_map.category_ids[label] for label in annotations.labels]
        assert ids == [a["category_id"] for a in wanted]
        assert tuple(image.shape[1:]) == tuple(dataset.sizes[index])
        for box, mask, a in zip(annotations.boxes.numpy(), annotations.masks.numpy(), wanted, strict=True):
            x, y, width, height = a["bbox"]
            assert box.tolist() == pytest.approx([x, y, x + width, y + height], abs=1e-2)
            assert mask.sum() == pytest.approx(a["area"], rel=0.1, abs=25)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            differences.append(np.abs(tight - box).max())
    assert len(differences) > 20 and np.mean(np.array(differences) < 1.5) > 0.95


def test_files_that_are_not_given_yet():
    with pytest.raises(ValueError, match=r"annotation_file .* and image_folder are not given yet"):
        CocoDataset(None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(annotation_file="https://host/c.json"), "^https://host/c.json is a URL: download the file"),
        (dict(image_folder="s3://bucket/images"), "^s3://bucket/images is a URL: download the folder"),
    ],
)
def test_urls_in_the_place_of_paths(coco_folder, change, message):
    path, folder = coco_folder([[(1, *BOX)]])
    with pytest.raises(ValueError, match=message):
        CocoDataset(**{"annotation_file": path, "image_folder": folder, **change})


def test_urls_as_file_names(coco_folder, edit_coco):
    path, folder = coco_folder([[(1, *BOX)]])
    edit_coco(path, lambda c: c["images"][0].update(file_name="https://host/000.png"))
    with pytest.raises(ValueError, match=r"the file_name https://host/000.png is a URL: download the images"):
        CocoDataset(path, folder)


@pytest.mark.parametrize(
    "segmentation", [[[100, 100, 120, 100, 120, 120]], [[5, -30, 9, -30, 9, 0]], {"size": [60, 80], "counts": [4800]}]
)
def test_a_mask_without_a_pixel_is_left_out_and_reported(coco_folder, edit_coco, caplog, segmentation):
    path, folder = coco_folder([[(1, *BOX), (2, *BOX)]])
    edit_coco(path, lambda c: c["annotations"][0].update(segmentation=segmentation))
    assert len(CocoDataset(path, folder, masks=True)[0][1]) == 1
    assert "its mask is empty: nothing of it lies inside the 80 x 60 pixels" in caplog.text


def test_one_file_written_in_two_ways_is_reported(coco_folder, edit_coco, caplog):
    path, folder = coco_folder([[(1, *BOX)], [(2, *BOX)]])
    edit_coco(path, lambda c: c["images"][1].update(file_name="./000.png"))
    CocoDataset(path, folder)
    assert "1 times one file under several ids of images: 000.png (10, 11)" in caplog.text
