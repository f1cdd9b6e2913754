import os
from collections import Counter

import pytest
from PIL import Image
from small_datasets import save_image

from detkit.data.formats import FoundDataset, Part, find_dataset, write_dataset
from detkit.data.formats.split import join_parts, split_dataset


def part(folder, images, first_id=1, names=("a", "b", "rare")):
    """`images`: {file name: classes of its objects}"""
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(names)]}
    for image_id, (name, classes) in enumerate(images.items(), first_id):
        content["images"].append({"id": image_id, "file_name": name, "width": 10, "height": 10})
        for category in classes:
            number = first_id * 100 + len(content["annotations"])
            annotation = {"id": number, "image_id": image_id, "category_id": category, "bbox": [0, 0, 5, 5]}
            content["annotations"].append(annotation)
    return Part(content, folder)


def found(tmp_path, **parts):
    return FoundDataset("coco", tmp_path, parts)


def names(part):
    return {image["file_name"] for image in part.content["images"]}


def counts(part):
    return Counter(annotation["category_id"] for annotation in part.content["annotations"])


def test_by_class_rare_classes_get_their_share(tmp_path):
    images = {f"{i:03d}.jpg": [0] * (1 + i % 3) + [1] * (i % 4 == 0) + [2] * (i in (17, 63)) for i in range(100)}
    images |= {f"empty{i}.jpg": [] for i in range(20)}
    dataset = found(tmp_path, train=part(tmp_path, images))
    for seed in range(5):
        parts = split_dataset(dataset, "class", val_share=0.2, seed=seed)[0].parts
        assert len(names(parts["val"])) == 24 and names(parts["train"]) | names(parts["val"]) == images.keys()
        val = counts(parts["val"])
        assert val[1] == 5 and 38 <= val[0] <= 42 and val[2] <= 1 and counts(parts["train"])[2] >= 1
        assert 3 <= sum(name.startswith("empty") for name in names(parts["val"])) <= 5
    again = split_dataset(dataset, "class", seed=4)[0].parts
    assert names(again["val"]) == names(parts["val"])


def test_by_group_keeps_groups_together(tmp_path):
    images = {f"cam{camera}/night_{frame:02d}.jpg": [0] for camera in range(10) for frame in range(4)}
    dataset, how = split_dataset(found(tmp_path, train=part(tmp_path, images)), "group", val_share=0.25)
    cameras = [{name[:4] for name in names(dataset.parts[key])} for key in ("train", "val")]
    assert not cameras[0] & cameras[1] and len(cameras[1]) == 2 and "2 of 10 groups" in how


def test_by_group_of_a_field(tmp_path):
    whole = part(tmp_path, {f"{i}.jpg": [0] for i in range(12)})
    for image in whole.content["images"]:
        image["patient"] = image["id"] % 3
    dataset, _ = split_dataset(found(tmp_path, train=whole), "group", val_share=0.4, group="patient")
    assert len({image["patient"] for image in dataset.parts["val"].content["images"]}) == 1
    with pytest.raises(ValueError, match=r"image id 1 \(0.jpg\) has no 'place' that names a group"):
        split_dataset(found(tmp_path, train=whole), "group", group="place")
    with pytest.raises(ValueError, match="each image would be a group of its own"):
        split_dataset(found(tmp_path, train=whole), "group")


def test_by_time_the_latest_are_for_validation(tmp_path):
    taken = {"json.jpg": 2020, "exif.jpg": 2022, "old.jpg": 2001, "file.jpg": 2010}
    whole = part(tmp_path, {name: [0] for name in taken})
    for name, year in taken.items():
        exif = Image.Exif()
        if name == "exif.jpg":
            exif.get_ifd(0x8769)[0x9003] = f"{year}:05:01 10:00:00"
        save_image(tmp_path / name, (10, 10), exif=exif)
        os.utime(tmp_path / name, (0, 0))
    whole.content["images"][0]["date_captured"] = "2020-01-01T00:00:00+00:00"
    whole.content["images"][2]["date_captured"] = "2001-01-01 00:00:00"
    os.utime(tmp_path / "file.jpg", (1.28e9, 1.28e9))
    dataset, how = split_dataset(found(tmp_path, train=whole), "time", val_share=0.5)
    assert names(dataset.parts["val"]) == {"json.jpg", "exif.jpg"}
    assert "from 2020-01-01" in how
    assert "2 from date_captured, 1 from EXIF, 1 from the time of the last change of the file" in how


def test_train_and_val_are_split_anew_and_test_stays(tmp_path):
    one = part(tmp_path / "train", {f"{i}.jpg": [0, 1] for i in range(6)})
    two = part(tmp_path / "val", {f"{i}.jpg": [1] for i in range(4)}, names=("b", "c"))
    three = part(tmp_path / "test", {"t.jpg": []})
    dataset, _ = split_dataset(found(tmp_path, train=one, val=two, test=three), "class", val_share=0.3)
    assert {name: len(names(part)) for name, part in dataset.parts.items()} == {"train": 7, "val": 3, "test": 1}
    assert dataset.names == ["a", "b", "rare", "c"] and dataset.parts["test"] is three


def test_joining_keeps_ids_that_are_there_once(tmp_path):
    one, two = part(tmp_path / "x", {"1.jpg": [0]}), part(tmp_path / "y", {"1.jpg": [2]}, first_id=7)
    joined = join_parts([one, two])
    assert [i["id"] for i in joined.content["images"]] == [1, 7] and counts(joined) == {0: 1, 2: 1}
    assert [i["file_name"] for i in joined.content["images"]] == ["x/1.jpg", "y/1.jpg"]
    assert joined.image_folder == tmp_path
    assert [i["id"] for i in join_parts([one, one]).content["images"]] == [1, 2]


def test_a_split_is_written_with_its_images(tmp_path):
    images = {f"{i}.jpg": [0] for i in range(5)}
    for seed, name in enumerate(images):
        save_image(tmp_path / "data" / name, (10, 10), seed=seed)
    dataset, _ = split_dataset(found(tmp_path, train=part(tmp_path / "data", images)), "class")
    write_dataset(dataset, tmp_path / "out")
    parts = find_dataset(tmp_path / "out").parts
    assert {name: len(names(part)) for name, part in parts.items()} == {"train": 4, "val": 1}


def test_too_little(tmp_path):
    with pytest.raises(ValueError, match="1 images to split"):
        split_dataset(found(tmp_path, train=part(tmp_path, {"a.jpg": [0]})), "class")
    with pytest.raises(ValueError, match=r"val_share must lie between 0 and 1, got 1\.5"):
        split_dataset(found(tmp_path, train=part(tmp_path, {"a.jpg": [0], "b.jpg": []})), "time", val_share=1.5)
