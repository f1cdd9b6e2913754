"""Files of points, the dataset of them, and the tools that make and check them."""

import json
import logging
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image

from detkit.cli import main
from detkit.data.coco import CocoDataset
from detkit.data.export import export_scenes
from detkit.data.loading import eval_loader
from detkit.data.points.dataset import PointDataset
from detkit.data.points.file import check_points
from detkit.data.points.split import draw_images, mask_centre, random_pixel, split_annotations, write_split
from detkit.data.synthetic import SyntheticScenes
from detkit.ops.rle import decode_mask, encode_masks
from detkit.pointseg.geometry import centres_of_mass
from detkit.registry import build

PENNFUDAN = ROOT.parent / "shared" / "data" / "pennfudan" / "instances_train.json"
BOX = (10, 5, 20, 30)


@pytest.fixture
def point_file(coco_folder, edit_coco):
    """A function that writes images and points (for each image a list of (category id, x, y)), without boxes."""

    def write(points, **options):
        path, folder = coco_folder([[(c, 0, 0, 1, 1) for c, *_ in objects] for objects in points], **options)
        places = iter([x, y] for objects in points for _, x, y in objects)

        def edit(content):
            kept = ("id", "image_id", "category_id")
            content["annotations"] = [
                {**{key: a[key] for key in kept}, "point": next(places)} for a in content["annotations"]
            ]

        edit_coco(path, edit)
        return path, folder

    return write


def scenes(length=40, **options):
    return SyntheticScenes(length, size=48, **options).coco()


def test_samples(point_file):
    path, folder = point_file([[(2, 10, 5.5), (1, 3, 4)], [], [(1, 7, 8)]])
    dataset = build(dict(type="PointDataset", annotation_file=str(path), image_folder=str(folder)))
    assert len(dataset) == 3 and dataset.image_ids == [10, 11, 12] and dataset.sizes.tolist() == [[60, 80]] * 3
    assert dataset.label_map.category_ids == (1, 2) and not dataset.has_boxes and dataset.problems == []
    image, annotations = dataset[0]
    assert image.shape == (3, 60, 80) and image.dtype == torch.uint8
    assert annotations.points.tolist() == [[10, 5.5], [3, 4]] and annotations.labels.tolist() == [1, 0]
    assert annotations.boxes.tolist() == [[10, 5.5, 10, 5.5], [3, 4, 3, 4]]
    assert (annotations.image_id, annotations.original_size) == (10, (60, 80))
    assert [dataset.annotation_ids(i) for i in range(3)] == [[1, 2], [], [3]]
    empty = dataset[1][1]
    assert empty.points.shape == (0, 2) and empty.boxes.shape == (0, 4) and empty.labels.dtype == torch.int64
    assert [a["point"] for a in dataset.coco()["annotations"]] == [[10, 5.5], [3, 4], [7, 8]]
    with pytest.raises(IndexError):
        dataset[3]


def test_given_boxes_are_used_and_clipped(point_file, edit_coco):
    path, folder = point_file([[(1, 10, 5), (1, 3, 4)]])
    edit_coco(path, lambda c: c["annotations"][1].update(bbox=[-5, 2, 20, 30]))
    dataset = PointDataset(path, folder)
    assert dataset[0][1].boxes.tolist() == [[10, 5, 10, 5], [0, 2, 15, 32]] and not dataset.has_boxes
    edit_coco(path, lambda c: c["annotations"][0].update(bbox=[9, 4, 3, 3]))
    assert PointDataset(path, folder).has_boxes


def test_points_of_an_evaluation_batch_stay_in_original_pixels(point_file):
    dataset = PointDataset(*point_file([[(1, 10, 5)], []]))
    batch = next(iter(eval_loader(dataset, lambda image: image[:, ::2, ::2], batch_size=2)))
    assert batch.images.images.shape == (2, 3, 30, 40)
    assert batch.annotations[0].points.tolist() == [[10, 5]] and batch.annotations[0].original_size == (60, 80)


@pytest.mark.parametrize("point", [[0, 0], [80, 60], [80, 0], [0, 60], [79.5, 59.999]])
def test_points_on_the_border_count(point_file, point):
    dataset = PointDataset(*point_file([[(1, *point)]]))
    assert dataset.problems == [] and dataset[0][1].points[0].tolist() == pytest.approx(point)


def broken(content):
    """One usable annotation (number 9) and one of each kind of trouble."""
    good = {"id": 9, "image_id": 10, "category_id": 1, "point": [1, 2]}
    changes = [
        {"id": 1, "point": [80.01, 5]},
        {"id": 2, "point": [5, -1]},
        {"id": 3, "point": [float("nan"), 5]},
        {"id": 4, "point": [5]},
        {"id": 5, "point": ["5", 5]},
        {"id": 6, "point": None},
        {"id": 7, "category_id": 33},
        {"id": 8, "image_id": 99},
        {"id": 9, "point": [7, 7]},
        {"id": 11, "bbox": [5, 5, 0, 3]},
        {"id": 12, "bbox": [1, 2]},
        {"id": "13"},
        {"id": 14, "category_id": []},
    ]
    content["annotations"] = [good, *({**good, **change} for change in changes), "nothing"]


def test_broken_annotations_are_named_and_left_out(point_file, edit_coco, caplog):
    path, folder = point_file([[(1, 5, 5)], []])
    edit_coco(path, broken)
    with caplog.at_level(logging.WARNING):
        dataset = PointDataset(path, folder)
    assert dataset.annotation_ids(0) == [9] and dataset[0][1].points.tolist() == [[1, 2]]
    reasons = {problem.annotation: str(problem) for problem in dataset.problems}
    assert set(reasons) == {*range(1, 10), 11, 12, 14, "number 12 in the list", "number 14 in the list"}
    assert reasons[1] == "annotation 1 of image 10: its point 80.01, 5 lies outside the 80 x 60 pixels"
    assert "not two finite numbers" in reasons[3] and "not two finite numbers" in reasons[4]
    assert "has no point" in reasons[6] and "no category 33" in reasons[7]
    assert reasons[8] == "annotation 8 of image 99: there is no such image"
    assert "earlier annotation has the same id" in reasons[9]
    assert "no area" in reasons[11] and "four finite numbers" in reasons[12]
    assert f"{path}: left out 14 annotations" in caplog.text and "(14 in all)" in caplog.text


def test_nothing_left_is_an_error(point_file, edit_coco, coco_folder):
    path, folder = point_file([[(1, 500, 5), (2, 5, 500)]])
    with pytest.raises(ValueError, match=r"instances\.json: none .* annotation 1 of image 10: .*annotation 2 of"):
        PointDataset(path, folder)
    path, folder = coco_folder([[(1, *BOX)]])
    with pytest.raises(ValueError, match="annotation 1 of image 10: has no point"):
        PointDataset(path, folder)
    edit_coco(path, lambda c: c.pop("annotations"))
    with pytest.raises(ValueError, match='no list "annotations"'):
        PointDataset(path, folder)
    with pytest.raises(ValueError, match="not given yet"):
        PointDataset(None, None)


def test_images_without_any_points(point_file):
    path, folder = point_file([[], []])
    assert [len(annotations) for _, annotations in PointDataset(path, folder)] == [0, 0]


def test_crowds_are_no_points(point_file, edit_coco):
    path, folder = point_file([[(1, 5, 5), (1, 6, 6)]])
    edit_coco(path, lambda c: c["annotations"][0].update(iscrowd=1))
    dataset = PointDataset(path, folder)
    assert dataset.annotation_ids(0) == [2] and dataset.problems == []


def test_an_image_smaller_than_its_file_says(point_file, caplog):
    path, folder = point_file([[(1, 70, 5), (1, 5, 5)]])
    Image.new("RGB", (40, 30)).save(folder / "000.png")
    with pytest.raises(ValueError, match=r"image id 10 .*: 1 points lie outside its 40 x 30 pixels: annotation 1 at"):
        PointDataset(path, folder)[0]


def test_check(point_file, edit_coco):
    path, folder = point_file([[(1, 5, 5), (2, 5, 5), (1, 6, 6)], [], [(1, 99, 0)], []])
    report = check_points(path)
    assert (report.images, report.images_without_points, report.points, report.with_box) == (4, 3, 3, 0)
    assert report.by_class == {"name1": 2, "name2": 1} and [p.annotation for p in report.problems] == [4]
    Image.new("RGB", (40, 30)).save(folder / "001.png")
    (folder / "003.png").unlink()
    assert [p.image for p in check_points(path, folder).problems] == [12, 11, 13]
    table = check_points(path, folder).table()
    assert "class name1" in table and "40 x 30 pixels, the file says 80 x 60" in table
    with pytest.raises(ValueError, match="does not exist"):
        check_points(path, folder / "nowhere")


def test_split_partitions_images_and_annotations():
    content = scenes()
    split = split_annotations(content, percent=20, seed=3)
    ids = [{image["id"] for image in part["images"]} for part in (split.strong, split.weak, split.truth)]
    assert len(ids[0]) == 8 and ids[0] | ids[1] == set(range(1, 41)) and not ids[0] & ids[1] and ids[1] == ids[2]
    by_id = {a["id"]: a for a in content["annotations"]}
    for part in (split.strong, split.truth):
        assert all({**a, "point": None} == {**by_id[a["id"]], "point": None} for a in part["annotations"])
        assert part["categories"] == content["categories"]
    assert {frozenset(a) for a in split.weak["annotations"]} == {
        frozenset(("id", "image_id", "category_id", "point", "iscrowd"))
    }
    assert [a["id"] for a in split.weak["annotations"]] == [a["id"] for a in split.truth["annotations"]]
    assert len(split.strong["annotations"]) + len(split.weak["annotations"]) == len(by_id)
    assert "point" not in content["annotations"][0]


def test_centre_is_the_one_that_training_targets_have():
    content = scenes(6)
    split = split_annotations(content, percent=50)
    annotations = split.strong["annotations"] + split.weak["annotations"]
    masks = {a["id"]: decode_mask(a["segmentation"], 48, 48) for a in content["annotations"]}
    wanted, _ = centres_of_mass(torch.from_numpy(np.stack([masks[a["id"]] for a in annotations])))
    assert torch.equal(torch.tensor([a["point"] for a in annotations]), wanted)


def test_one_pixel_is_at_its_column_and_row():
    mask = np.zeros((6, 9), dtype=bool)
    mask[5, 3] = True
    assert mask_centre(mask) == random_pixel(mask, np.random.default_rng(0)) == [3, 5]


def test_random_points_are_spread_over_the_mask_and_do_not_depend_on_the_draw():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 1:4] = True
    counts = np.zeros_like(mask, dtype=int)
    for seed in range(600):
        x, y = random_pixel(mask, np.random.default_rng(seed))
        counts[y, x] += 1
    assert counts[~mask].sum() == 0 and counts[mask].min() > 70
    content = scenes()
    few, many = (split_annotations(content, percent=p, seed=1, points="random") for p in (5, 50))
    points = {a["id"]: a["point"] for a in few.weak["annotations"]}
    assert all(points[a["id"]] == a["point"] for a in many.weak["annotations"])
    masks = {a["id"]: decode_mask(a["segmentation"], 48, 48) for a in content["annotations"]}
    assert all(masks[i][y, x] for i, (x, y) in points.items())
    other = split_annotations(content, percent=5, seed=2, points="random")
    assert {a["id"]: a["point"] for a in other.weak["annotations"]} != points


def test_draws_are_nested_and_bounded():
    ids = list(range(100, 300))
    drawn = [draw_images(ids, percent, 7) for percent in (0.01, 1, 5, 50, 99.99)]
    assert [len(chosen) for chosen in drawn] == [1, 2, 10, 100, 199]
    assert all(smaller < larger for smaller, larger in pairwise(drawn))
    assert draw_images(ids[::-1], 5, 7) == drawn[2] and draw_images(ids, 5, 8) != drawn[2]
    for percent in (0, 100, -1, float("nan")):
        with pytest.raises(ValueError, match="percent must lie"):
            draw_images(ids, percent, 0)
    with pytest.raises(ValueError, match="two images at least"):
        draw_images([5], 10, 0)


def test_crowds_and_empty_masks_in_a_split():
    content = scenes(4)
    empty = encode_masks(np.zeros((1, 48, 48), dtype=bool))[0]
    for image_id in range(1, 5):
        same = {"image_id": image_id, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 9, "iscrowd": 0}
        content["annotations"] += [
            {**same, "id": 1000 + image_id, "iscrowd": 1, "segmentation": encode_masks(np.ones((1, 48, 48)))[0]},
            {**same, "id": 2000 + image_id, "segmentation": empty},
            {**same, "id": 3000 + image_id},
        ]
    split = split_annotations(content, percent=50)
    assert {p.annotation: p.reason for p in split.problems}[2001] == "its mask is empty"
    assert len(split.problems) == 8
    assert all(a["id"] < 1000 for a in split.weak["annotations"])
    for part, count in ((split.strong, 2), (split.truth, 2)):
        assert sum(a["iscrowd"] for a in part["annotations"]) == count
        assert all(a["id"] < 2000 and (a["iscrowd"] or "point" in a) for a in part["annotations"])


def test_given_points(point_file, edit_coco):
    path, _ = point_file([[(1, 5, 6), (2, 7, 8)], [(1, 500, 5)], [(2, 1, 2)]])
    edit_coco(path, lambda c: c["annotations"][1].pop("point"))
    content = json.loads(path.read_text())
    split = split_annotations(content, percent=10, seed=0, points="given")
    strong = {image["id"] for image in split.strong["images"]}
    assert {p.annotation for p in split.problems} == {2, 3}
    full = [a["id"] for a in content["annotations"] if a["image_id"] in strong]
    assert [a["id"] for a in split.strong["annotations"]] == full
    assert all(a["id"] in (1, 4) for a in split.weak["annotations"])
    with pytest.raises(ValueError, match=r"no annotation can be used: annotation 1 .*: has no segmentation;"):
        split_annotations(content, percent=10)
    with pytest.raises(ValueError, match="choose from centre"):
        split_annotations(content, percent=10, points="mean")


def test_boxes_of_weak_annotations():
    content = scenes(6)
    content["annotations"][0]["bbox"] = [1, 1, 0, 5]
    split = split_annotations(content, percent=50, boxes=True)
    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    assert all(a["bbox"] == boxes[a["id"]] for a in split.weak["annotations"])
    assert [p.annotation for p in split.problems] == [1]


def test_classes_without_a_strong_label_are_named(caplog):
    content = scenes(20, min_objects=5)
    only = next(a for a in content["annotations"] if a["image_id"] not in draw_images(list(range(1, 21)), 10, 0))
    content["categories"].append({"id": 77, "name": "rare"})
    only["category_id"] = 77
    with caplog.at_level(logging.WARNING):
        split = split_annotations(content, percent=10)
    assert "rare" in split.classes_without_strong_label() and "rare" in caplog.text


def test_written_files_are_datasets(tmp_path):
    export_scenes(tmp_path, train=12, val=0, size=48)
    content = json.loads((tmp_path / "train.json").read_text())
    split = split_annotations(content, percent=25)
    paths = write_split(split, tmp_path / "split")
    assert {name: path.name for name, path in paths.items()} == {
        "strong": "strong.json",
        "weak": "weak.json",
        "truth": "weak_truth.json",
    }
    images = tmp_path / "images" / "train"
    weak, truth = PointDataset(paths["weak"], images), CocoDataset(paths["truth"], images, masks=True)
    assert weak.label_map == truth.label_map and weak.image_ids == truth.image_ids and len(weak) == 9
    for i in range(len(weak)):
        known, wanted = weak[i][1], truth[i][1]
        assert torch.equal(known.points, centres_of_mass(wanted.masks)[0]) and torch.equal(known.labels, wanted.labels)
    assert len(CocoDataset(paths["strong"], images, masks=True)) == len(PointDataset(paths["strong"], images)) == 3
    with pytest.raises(ValueError, match=r"strong\.json.* exist already"):
        write_split(split, tmp_path / "split")
    write_split(split, tmp_path / "split", force=True)


def test_exported_scenes_are_the_generated_ones(tmp_path):
    paths = export_scenes(tmp_path / "a", train=3, val=2, seed=5, size=64, max_objects=3)
    for part, seed in (("train", 5), ("val", 6)):
        generated = SyntheticScenes({"train": 3, "val": 2}[part], seed=seed, size=64, max_objects=3)
        read = CocoDataset(paths[part], tmp_path / "a" / "images" / part, masks=True)
        assert read.label_map == generated.label_map
        for (image, annotations), (wanted_image, wanted) in zip(read, generated, strict=True):
            assert torch.equal(image, wanted_image) and torch.equal(annotations.masks, wanted.masks)
            assert torch.equal(annotations.boxes, wanted.boxes) and torch.equal(annotations.labels, wanted.labels)
    export_scenes(tmp_path / "b", train=3, val=2, seed=5, size=64, max_objects=3)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7 and all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    with pytest.raises(ValueError, match="exist already"):
        export_scenes(tmp_path / "a", train=3, val=0)
    with pytest.raises(ValueError, match="numbers of scenes"):
        export_scenes(tmp_path / "c", train=0, val=0)


def test_at_the_command_line(tmp_path, capsys):
    out, split = str(tmp_path / "scenes"), str(tmp_path / "split")
    assert main(["export-scenes", out, "--train", "20", "--size", "48"]) == 0
    command = ["split-points", f"{out}/train.json", "--percent", "10", "--points", "random", "--boxes", "--out", split]
    assert main(command) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["strong", "2"] in [row[:2] for row in rows] and ["weak", "18"] in [row[:2] for row in rows]
    assert main(command) == 2 and "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    check = ["check-points", f"{split}/weak.json", "--images", f"{out}/images/train"]
    assert main(check) == 0 and "images without points" in capsys.readouterr().out
    (tmp_path / "scenes" / "images" / "train" / "000003.png").write_bytes(b"")
    assert main(check) == 1 and "image 3: cannot read" in capsys.readouterr().out


@pytest.mark.parametrize("tool", ["split_points", "check_points", "export_scenes"])
def test_plain_scripts(tool):
    done = subprocess.run([sys.executable, ROOT / "tools" / f"{tool}.py", "-h"], capture_output=True, text=True)
    assert done.returncode == 0 and f"detkit {tool.replace('_', '-')}" in done.stdout


@pytest.mark.skipif(not PENNFUDAN.is_file(), reason="the Penn-Fudan data is not beside the repository")
def test_a_real_set(tmp_path):
    split = split_annotations(json.loads(PENNFUDAN.read_text()), percent=5, points="random")
    assert (len(split.strong["images"]), len(split.weak["images"]), split.problems) == (6, 124, [])
    dataset = PointDataset(write_split(split, tmp_path)["weak"], PENNFUDAN.parent / "train")
    truth = {a["id"]: a for a in split.truth["annotations"]}
    for i in range(0, len(dataset), 25):
        _, annotations = dataset[i]
        for annotation_id, (x, y) in zip(dataset.annotation_ids(i), annotations.points.long().tolist(), strict=True):
            assert decode_mask(truth[annotation_id]["segmentation"], *annotations.original_size)[y, x]
