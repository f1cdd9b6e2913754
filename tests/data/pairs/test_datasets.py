import csv
import json
import logging
import math
import re

import numpy as np
import pytest
import torch
from paths import REAL_DATA as SHARED
from PIL import Image

from detkit.data.loading import eval_loader, train_loader
from detkit.data.pairs.folders import PFPascal, PFWillow, SPair71k
from detkit.data.pairs.keypoints import KeypointPairs
from detkit.data.pairs.synthetic import KINDS, SyntheticPairs
from detkit.images import resize_image
from detkit.registry import build
from detkit.structures import PairBatch


def save_image(path, width, height, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def plain(tmp_path):
    """Three images of two classes, with what tests change before they write it."""
    save_image(tmp_path / "images" / "a.png", 40, 30)
    save_image(tmp_path / "images" / "b.png", 20, 50)
    save_image(tmp_path / "images" / "c.png", 20, 20)
    names = ["nose", "tail", "paw"]
    images = [
        dict(id=4, file_name="a.png", width=40, height=30, category_id=7, bbox=[5, 5, 20, 10]),
        dict(id=2, file_name="b.png", width=20, height=50, category_id=7, bbox=[0, 10, 20, 30]),
        dict(id=3, file_name="c.png", width=20, height=20, category_id=9, bbox=[0, 0, 20, 20]),
    ]
    for image in images:
        image["keypoints"] = [[6.5, 7, 1], [10, 12, 1], [0, 0, 0]]
    images[1]["keypoints"][2] = [3, 4, 2]
    categories = [dict(id=9, name="cat", keypoints=names), dict(id=7, name="ape", keypoints=names)]
    pairs = [dict(src=4, trg=2), dict(src=2, trg=4, kps=[1]), dict(src=4, trg=2, kps=[])]
    return tmp_path, dict(categories=categories, images=images), pairs


def load(plain, **options):
    folder, content, pairs = plain
    (folder / "keypoints.json").write_text(json.dumps(content))
    (folder / "pairs.json").write_text(json.dumps(dict(pairs=pairs)))
    return KeypointPairs(folder / "keypoints.json", folder / "pairs.json", **options)


def test_plain_json(plain, caplog):
    dataset = load(plain)
    assert "1 of 3 pairs have no common key-points" in caplog.text
    assert len(dataset) == 3 and dataset.label_map.names == ("ape", "cat")
    images, pair = dataset[0]
    assert images.source.shape == (3, 30, 40) and images.target.shape == (3, 50, 20)
    assert pair.source_points.tolist() == [[6.5, 7], [10, 12]] and len(pair.target_points) == 2
    assert pair.source_box.tolist() == [5, 5, 25, 15] and pair.label == 0
    assert (pair.source_size, pair.target_size, pair.pair_id) == ((30, 40), (50, 20), 0)
    assert pair.name == "a.png -> b.png"
    assert dataset[1][1].source_points.tolist() == [[10, 12]]
    assert len(dataset[2][1]) == 0
    with pytest.raises(IndexError):
        dataset[3]


def test_the_other_direction_exchanges_the_images(plain):
    images, pair = load(plain, direction="target_to_source")[0]
    assert images.source.shape == (3, 50, 20) and pair.source_size == (50, 20)
    assert pair.target_box.tolist() == [5, 5, 25, 15]


def test_limit_draws_the_same_pairs_every_time(plain):
    kept = [load(plain, limit=2, seed=seed).image_ids for seed in (0, 0, 1, 2, 3)]
    assert kept[0] == kept[1] == sorted(kept[0]) and len({tuple(ids) for ids in kept}) > 1
    with pytest.raises(ValueError, match=r"limit must lie in 1\.\.3"):
        load(plain, limit=4)


def test_outside_points_and_bad_boxes_are_reported(plain, caplog):
    plain[1]["images"][0]["keypoints"][0] = [41, 7, 1]
    plain[1]["images"][0]["bbox"] = [25, 15, -20, -10]
    plain[1]["images"][1]["bbox"] = [3, 3, 0, 8]
    dataset = load(plain)
    _, pair = dataset[0]
    assert pair.source_points.tolist() == [[10, 12]] == pair.target_points.tolist()
    assert pair.source_box.tolist() == [5, 5, 25, 15] and pair.target_box is None
    for text in ("1 points lie outside its", "(41, 7)", "corners exchanged", "is empty"):
        assert text in caplog.text
    caplog.clear()
    dataset[0]
    assert not caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content, pairs: content.pop("images"), 'no list "images"'),
        (lambda content, pairs: content["images"][1].pop("keypoints"), r"images\[1\] lacks 'keypoints'"),
        (lambda content, pairs: content["images"][1].update(id=4), r"repeats ids \[4\]"),
        (lambda content, pairs: content["images"][1].update(width=math.nan), r"images\[1\] \(id 2\) has width nan"),
        (lambda content, pairs: content["images"][1].update(height=-3), r"images\[1\] \(id 2\) has height -3"),
        (lambda content, pairs: content["images"][1].update(id=True), r"images\[1\] has id True"),
        (lambda content, pairs: pairs.clear(), 'no list "pairs", or an empty one'),
        (
            lambda content, pairs: content["images"][1]["keypoints"].pop(),
            "none of its 3 .*image 2 has 2 key-points",
        ),
        (lambda content, pairs: content["images"][1].update(category_id=1), "none of its 3 pairs .*category 1 has no"),
        (
            lambda content, pairs: content["images"][0].update(keypoints=[[0, 0, 0]] * 3),
            "none of its 3 usable pairs has common key-points",
        ),
        (lambda content, pairs: content["images"][1].update(width="20"), r"images\[1\] has width '20'"),
        (lambda content, pairs: content["categories"][1].update(name="cat"), r"repeats names \['cat'\]"),
    ],
)
def test_wrong_files_are_refused(plain, change, message):
    change(plain[1], plain[2])
    with pytest.raises(ValueError, match=message):
        load(plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(trg=8), "pair 1 has trg 8, which is no image of"),
        (dict(trg=[4]), r"pair 1 has trg \[4\], which is no image of"),
        (dict(trg=3), "pair 1 joins images 2 and 3 of two classes"),
        (dict(kps=[5]), r"pair 1 names key-points \[5\]"),
        (dict(kps=[1, 1]), r"pair 1 names key-points twice: \[1, 1\]"),
        (dict(kps=["nose"]), r"pair 1 has kps \['nose'\]"),
    ],
)
def test_a_pair_that_cannot_be_used_is_left_out_alone(plain, caplog, change, message):
    plain[2][1].update(change)
    dataset = load(plain)
    assert dataset.image_ids == [0, 2] and [pair.pair_id for _, pair in dataset] == [0, 2]
    assert re.search("pairs.json: left out 1 of 3 pairs that cannot be used: " + message, caplog.text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"is None, not \[x, y, visible\]"),
        ([6.5, 7], r"is \[6.5, 7\], not \[x, y, visible\]"),
        ([math.nan, 7, 2], r"is at \[nan, 7\], not two finite numbers"),
        ([6, 10**400, 1], "is at .* not two finite numbers"),
        ([6.5, 7, -1], "has the flag -1, none of 0"),
        ([6.5, 7, "1"], "has the flag '1', none of 0"),
        ([6.5, 7, math.nan], "has the flag nan"),
    ],
)
def test_a_key_point_that_cannot_be_used_is_left_out_alone(plain, caplog, value, message):
    plain[1]["images"][1]["keypoints"][0] = value
    dataset = load(plain)
    assert dataset[0][1].source_points.tolist() == [[10, 12]]
    assert re.search(
        "keypoints.json: left out 1 key-points that cannot be used: key-point 0 of image 2 " + message, caplog.text
    )


def test_a_wrong_box_is_left_out_alone(plain, caplog):
    plain[1]["images"][1]["bbox"] = [1, 2, math.inf, 4]
    assert load(plain)[0][1].target_box is None
    assert "left out 1 boxes that cannot be used: image 2 has bbox [1, 2, inf, 4], not four finite" in caplog.text


def test_odd_pairs_are_reported(plain, caplog):
    plain[2][2] = plain[2][0]
    plain[2].append(dict(src=4, trg=4))
    load(plain)
    assert "1 of 4 pairs repeat an earlier pair" in caplog.text
    assert "1 of 4 pairs are an image with itself" in caplog.text


def test_an_image_of_another_size_than_annotated_is_refused(plain):
    plain[1]["images"][0]["width"] = 80
    with pytest.raises(ValueError, match=r"a\.png has 40 x 30 pixels, its annotations are for 80 x 30"):
        load(plain)[0]


def test_key_points_that_are_not_common_are_reported(plain, caplog):
    plain[2][0]["kps"] = [0, 2]
    assert len(load(plain)[0][1]) == 1
    assert "1 of 3 pairs name key-points that are not visible in both images" in caplog.text


@pytest.mark.parametrize(("name", "splits"), [("pf_willow", (290, 18, 138)), ("coco_person_kps", (1072, 34, 500))])
def test_real_pairs(name, splits, caplog):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    for split, length in zip(("trn", "val", "test"), splits, strict=True):
        dataset = KeypointPairs(folder / "keypoints.json", folder / f"pairs_{split}.json")
        assert len(dataset) == length
        images, pair = dataset[length // 2]
        assert images.source.shape[1:] == pair.source_size and len(pair) >= 6
    assert not caplog.text


@pytest.mark.parametrize("separator", [":", "-"])
def test_spair(tmp_path, separator):
    for name in ("cat", "aeroplane"):
        save_image(tmp_path / "JPEGImages" / name / "a.jpg", 40, 30)
        save_image(tmp_path / "JPEGImages" / name / "b.jpg", 20, 50)
    lines = ["000001-a-b:cat", "000002-b-a:aeroplane"]
    (tmp_path / "Layout" / "large").mkdir(parents=True)
    (tmp_path / "Layout" / "large" / "trn.txt").write_text("\n".join(lines) + "\n")
    annotation = dict(
        src_imname="a.jpg", trg_imname="b.jpg", src_imsize=[40, 30, 3], trg_imsize=[20, 50, 3], category="cat",
        src_bndbox=[1, 2, 30, 20], trg_bndbox=[0, 0, 20, 50], src_kps=[[3, 4], [5, 6]], trg_kps=[[7, 8], [9, 10]],
    )  # fmt: skip
    folder = tmp_path / "PairAnnotation" / "trn"
    folder.mkdir(parents=True)
    (folder / f"{lines[0].replace(':', separator)}.json").write_text(json.dumps(annotation))
    dataset = build(dict(type="SPair71k", root=str(tmp_path), split="trn"))
    assert dataset.label_map.names == ("aeroplane", "cat") and dataset.labels == [1, 0]
    images, pair = dataset[0]
    assert images.target.shape == (3, 50, 20) and pair.target_points.tolist() == [[7, 8], [9, 10]]
    assert pair.source_box.tolist() == [1, 2, 30, 20]
    with pytest.raises(ValueError, match="cannot read annotation file"):
        dataset[1]
    with pytest.raises(ValueError, match="split must be one of"):
        SPair71k(tmp_path, "train")
    with pytest.raises(ValueError, match="cannot read list of pairs"):
        SPair71k(tmp_path, "val")


def test_pf_pascal(tmp_path):
    from scipy.io import savemat

    folder = tmp_path / "Annotations" / "bicycle"
    folder.mkdir(parents=True)
    for name, size, points in (("a", (40, 30), [[1, 2], [np.nan, np.nan], [5, 6]]), ("b", (20, 50), [[3, 4]] * 3)):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg", *size)
        savemat(folder / f"{name}.mat", dict(kps=np.array(points), bbox=np.array([[1, 2, 11, 22]])))
    rows = "source_image,target_image,class,flip\nx/JPEGImages/a.jpg,x/JPEGImages/b.jpg,2,0\nx/a.jpg,x/b.jpg,2,1\n"
    (tmp_path / "trn_pairs.csv").write_text(rows)
    plain, mirrored = PFPascal(tmp_path, "trn")
    assert plain[1].source_points.tolist() == [[1, 2], [5, 6]] and plain[1].target_points.tolist() == [[3, 4], [3, 4]]
    assert PFPascal(tmp_path, "trn").label_map.names[plain[1].label] == "bicycle"
    assert torch.equal(mirrored[0].source, plain[0].source.flip(2))
    assert mirrored[1].source_points.tolist() == [[39, 2], [35, 6]]
    assert mirrored[1].source_box.tolist() == [29, 2, 39, 22]
    (tmp_path / "val_pairs.csv").write_text(rows.replace("class", "klass"))
    with pytest.raises(ValueError, match="no column 'class', did you mean 'klass'"):
        PFPascal(tmp_path, "val")


def test_cells_and_files_of_pf_pascal_that_cannot_be_right(tmp_path, caplog):
    from scipy.io import savemat

    folder = tmp_path / "Annotations" / "aeroplane"
    folder.mkdir(parents=True)
    for name, points in (("a", [[1, 2]] * 3), ("b", [[3, 4]] * 3), ("fewer", [[3, 4]] * 2)):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg", 40, 30)
        savemat(folder / f"{name}.mat", dict(kps=np.array(points), bbox=np.array([[1, 2, 11, 22]])))
    (folder / "empty.mat").write_bytes(b"")

    def dataset(row):
        text = f"\ufeffsource_image,target_image,class,flip\n{row}\n"
        (tmp_path / "trn_pairs.csv").write_text(text, encoding="utf-8")
        return PFPascal(tmp_path, "trn")

    assert not dataset("a.jpg,b.jpg,1,0.0").sides(0)[0].mirrored and dataset("a.jpg,b.jpg,1,1").sides(0)[0].mirrored
    for row, message in (
        ("a.jpg,b.jpg,1,no", "trn_pairs.csv: .* pair 0: column 'flip' must hold numbers, got 'no'"),
        ("a.jpg,b.jpg,1,2", "column 'flip' must hold 0 or 1, got '2'"),
        ("a.jpg,b.jpg,cat,0", "column 'class' must hold numbers, got 'cat'"),
        ("a.jpg,b.jpg,21,0", r"classes must lie in 1\.\.20, got 21"),
        ("a.jpg,b.jpg", "row 'a.jpg',... ends before column 'class'"),
        ("a.jpg,fewer.jpg,1,0", "a.jpg and fewer.jpg have 3 and 2 points"),
        ("a.jpg,empty.jpg,1,0", "cannot read key-points from .*empty.mat"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset(row)[0]
    found = dataset("a.jpg,b.jpg,cat,0\na.jpg,b.jpg,1,0")
    assert found.image_ids == [1] and len(found[0][1]) == 3
    assert "left out 1 of 2 pairs that cannot be used: pair 0: column 'class' must hold numbers" in caplog.text
    savemat(folder / "flat.mat", dict(kps=np.ones((2, 3)), bbox=np.array([[1, 2, 11, 22]])))
    with pytest.raises(ValueError, match=r"flat.mat: .*kps has shape \(2, 3\), expected \[n, 2\]"):
        dataset("a.jpg,flat.jpg,1,0")[0]


def test_sides_that_do_not_belong_together_are_refused(tmp_path, caplog):
    (tmp_path / "JPEGImages" / "cat").mkdir(parents=True)
    (tmp_path / "Layout" / "large").mkdir(parents=True)
    layout = tmp_path / "Layout" / "large" / "trn.txt"
    layout.write_text("1-a-b:cat\n")
    (tmp_path / "PairAnnotation" / "trn").mkdir(parents=True)
    whole = dict(
        src_imname="a.jpg", trg_imname="b.jpg", src_imsize=[40, 30, 3], trg_imsize=[20, 50, 3], category="cat",
        src_bndbox=[1, 2, 30, 20], trg_bndbox=[0, 0, 20, 50], src_kps=[[3, 4], [5, 6]], trg_kps=[[7, 8], [9, 10]],
    )  # fmt: skip
    for change, message in (
        (dict(trg_kps=[[7, 8]]), "pair 0 has different numbers of points, 2 in .*a.jpg and 1 in .*b.jpg"),
        (dict(src_bndbox=[1, 2, 3]), "1-a-b:cat.json.*a box has 4 numbers"),
        (dict(src_bndbox=None), "1-a-b:cat.json.*a box has 4 numbers"),
        (dict(src_kps={"0": [3, 4]}), "1-a-b:cat.json.*key-points are a dict, not a list"),
        (dict(src_imsize=["40", 30, 3]), "1-a-b:cat.json.*src_imsize is .*not width, height, channels"),
    ):
        (tmp_path / "PairAnnotation" / "trn" / "1-a-b:cat.json").write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=message):
            SPair71k(tmp_path, "trn")[0]
    save_image(tmp_path / "JPEGImages" / "cat" / "a.jpg", 40, 30)
    save_image(tmp_path / "JPEGImages" / "cat" / "b.jpg", 20, 50)
    path, unclear = tmp_path / "PairAnnotation" / "trn" / "1-a-b:cat.json", [[3, 4, 1], [math.nan, 6], None, [7, 8]]
    path.write_text(json.dumps(whole | dict(src_kps=unclear, trg_kps=[[9, 10]] * 4)))
    layout.write_text("1-a-b:cat\n2-a-b:dog\n")
    dataset = SPair71k(tmp_path, "trn")
    assert dataset[0][1].source_points.tolist() == [[7, 8]] and len(dataset) == 1
    assert "left out 1 of 2 pairs that cannot be used: pair 2-a-b:dog: class dog has no folder" in caplog.text
    assert "a.jpg: 3 points lie outside its 40 x 30 pixels" in caplog.text
    layout.write_text("")
    with pytest.raises(ValueError, match=r"trn\.txt: no pairs"):
        SPair71k(tmp_path, "trn")


def test_pf_willow(tmp_path, caplog):
    columns = ["imageA", "imageB"] + [f"{axis}{which}{i}" for which in "AB" for axis in "XY" for i in range(1, 11)]
    numbers = [*range(10), *range(10, 20), *range(5, 15), *range(10)]
    with open(tmp_path / "test_pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerow(["root/duck(S)/a.png", "root/duck(S)/b.png", *numbers])
    save_image(tmp_path / "duck(S)" / "a.png", 40, 30)
    save_image(tmp_path / "duck(S)" / "b.png", 20, 50)
    dataset = PFWillow(tmp_path)
    images, pair = dataset[0]
    assert images.source.shape == (3, 30, 40) and dataset.label_map.names[pair.label] == "duck(S)"
    assert pair.source_points[:2].tolist() == [[0, 10], [1, 11]] and pair.target_points[9].tolist() == [14, 9]
    assert pair.target_box.tolist() == [5, 0, 14, 9]
    with open(tmp_path / "test_pairs.csv", "a", newline="") as file:
        csv.writer(file).writerow(["root/goose(S)/a.png", "root/duck(S)/b.png", *numbers])
        csv.writer(file).writerow(["root/duck(S)/a.png", "root/duck(S)/b.png", "nan", *numbers[1:]])
    assert len(PFWillow(tmp_path)) == 1
    assert "left out 2 of 3 pairs" in caplog.text and "pair 1: the path root/goose(S)/a.png" in caplog.text
    assert "pair 2: column 'XA1' must hold numbers, got 'nan'" in caplog.text


def test_synthetic_pairs_are_deterministic_and_vary():
    dataset = SyntheticPairs(12, seed=3, images=40, size=64)
    first, again = dataset[5], SyntheticPairs(12, seed=3, images=40, size=64)[5]
    assert torch.equal(first[0].source, again[0].source)
    assert torch.equal(first[1].target_points, again[1].target_points)
    assert not torch.equal(first[0].source, first[0].target)
    assert not torch.equal(first[0].source, SyntheticPairs(12, seed=4, images=40, size=64)[5][0].source)
    assert len({dataset[i][1].label for i in range(12)}) > 1


def test_synthetic_points_lie_on_their_parts():
    """Without changes of pose and colour two objects of a kind are the same, with the same points."""
    dataset = SyntheticPairs(8, images=8, size=64, pose=0, appearance=0)
    for i in range(8):
        images, pair = dataset[i]
        assert torch.allclose(pair.source_points, pair.target_points)
        x, y = pair.source_points.long().clamp(0, 63).T
        assert (images.source[:, y, x].float() - images.target[:, y, x].float()).abs().mean() < 3
        inside = (pair.source_points >= pair.source_box[:2]) & (pair.source_points <= pair.source_box[2:])
        assert inside.all() and len(pair) >= len(KINDS[dataset.label_map.names[pair.label]])


def test_synthetic_options_are_checked():
    for options in (dict(length=0), dict(length=4, images=4), dict(length=4, size=8), dict(length=4, pose=-1)):
        with pytest.raises(ValueError, match="must be at least"):
            SyntheticPairs(**options)


def test_loaders_make_pair_batches(plain):
    dataset = load(plain)
    (batch,) = eval_loader(dataset, lambda image: resize_image(image, (16, 16)), batch_size=3)
    assert isinstance(batch, PairBatch) and batch.count_objects() == 3
    assert batch.source.images.shape == (3, 3, 16, 16)
    assert batch.annotations[0].source_points.tolist() == [[6.5, 7], [10, 12]]
    keys = train_loader(dataset, batch_size=2)
    (batch,) = keys
    assert batch.source.images.shape[0] == 2 and batch.target.sizes[0] in ((30, 40), (50, 20))


def test_an_unreadable_pair_is_reported_and_passed_over(plain, caplog):
    dataset = load(plain)
    (plain[0] / "images" / "b.png").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        assert list(eval_loader(dataset, lambda image: image, batch_size=3)) == []
    assert "cannot read" in caplog.text and "b.png" in caplog.text
