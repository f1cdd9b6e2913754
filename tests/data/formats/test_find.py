import pytest
from paths import REAL_DATA

from detkit.data.coco import CocoDataset
from detkit.data.formats import FORMATS, find_dataset, write_parts

EXPECTED = {
    "a.jpg": [("Red Blood Cell", 0, 0, 40, 30), ("platelet", 10, 20, 5, 6)],
    "b.jpg": [("WBC", 79, 59, 1, 1)],
    "c c.jpg": [],
}


def objects(part):
    """{name of the image file: (class, x, y, width, height) of its objects}"""
    names = {category["id"]: category["name"] for category in part.content["categories"]}
    found = {image["id"]: [] for image in part.content["images"]}
    for annotation in part.content["annotations"]:
        found[annotation["image_id"]].append((names[annotation["category_id"]], *annotation["bbox"]))
    return {image["file_name"].rpartition("/")[2]: found[image["id"]] for image in part.content["images"]}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(dataset, kind):
    found = find_dataset(dataset(kind))
    assert found.format == kind and list(found.parts) == ["train"]
    assert objects(found.parts["train"]) == EXPECTED
    assert sorted(found.names) == ["Red Blood Cell", "WBC", "platelet"]


@pytest.mark.parametrize("kind", FORMATS)
def test_written_parts_train(dataset, kind, tmp_path):
    written = write_parts(find_dataset(dataset(kind)), tmp_path / "run", val_share=0.4)
    assert list(written) == ["train", "val"]
    sizes = {name: len(CocoDataset(file, folder)) for name, (file, folder) in written.items()}
    assert sizes == {"train": 2, "val": 1}


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("name", "parts"), [("bccd", 3), ("pennfudan", 2), ("coco_mini", 2)])
def test_real_folders(name, parts):
    found = find_dataset(REAL_DATA / name)
    assert len(found.parts) == parts
    assert {part: part_.image_folder for part, part_ in found.parts.items()} == {
        part: REAL_DATA / name / part for part in found.parts
    }


def test_doubt_names_the_formats(dataset):
    root = dataset("coco")
    (root / "data.yaml").write_text("train: .\nnames: [x]")
    with pytest.raises(ValueError, match=r"several formats: coco \(all.json\), yolo \(data.yaml\).*--format coco"):
        find_dataset(root)
    assert find_dataset(root, "coco").format == "coco"
    assert find_dataset(root, "yolo").names == ["x"]
