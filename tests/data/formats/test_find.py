import json

import pytest
from paths import REAL_DATA
from small_datasets import EXPECTED, NAMES, objects, save_image, write_dataset_in

from detkit.data.coco import CocoDataset
from detkit.data.formats import FORMATS, find_dataset, write_parts


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind, tmp_path):
    found = find_dataset(write_dataset_in(kind, tmp_path / "data"))
    assert found.format == kind and list(found.parts) == ["train"]
    assert objects(found.parts["train"]) == EXPECTED
    assert found.names == (sorted(NAMES) if kind in ("voc", "labelme") else NAMES)
    assert all((found.parts["train"].image_folder / name).is_file() for name in EXPECTED)


@pytest.mark.parametrize("kind", FORMATS)
def test_written_parts_train(kind, tmp_path):
    written = write_parts(find_dataset(write_dataset_in(kind, tmp_path / "data")), tmp_path / "run", val_share=0.4)
    assert {name: len(CocoDataset(file, folder)) for name, (file, folder) in written.items()} == {"train": 2, "val": 1}


def test_the_seed_draws_the_validation_images(tmp_path):
    found = find_dataset(write_dataset_in("coco", tmp_path / "data"))

    def drawn(seed):
        file, _ = write_parts(found, tmp_path / "run", seed=seed)["val"]
        return [image["file_name"] for image in json.loads(file.read_text())["images"]]

    assert drawn(1) == drawn(1) and len({tuple(drawn(seed)) for seed in range(20)}) == 3


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("name", "parts"), [("bccd", 3), ("pennfudan", 2), ("coco_mini", 2)])
def test_real_folders(name, parts):
    found = find_dataset(REAL_DATA / name)
    folders = {name: part.image_folder for name, part in found.parts.items()}
    assert len(folders) == parts and folders == {part: REAL_DATA / name / part for part in folders}


@pytest.mark.parametrize("place", ["runs/first", "trained"])
def test_what_a_training_wrote_below_the_folder_is_no_data(place, tmp_path):
    root = write_dataset_in("voc", tmp_path / "data")
    write_parts(find_dataset(root), root / place / "data")
    save_image(root / place / "samples" / "step_4.png")
    for name in ("config.json", "config.py"):
        (root / place / name).touch()
    found = find_dataset(root)
    assert found.format == "voc" and objects(found.parts["train"]) == EXPECTED


@pytest.mark.parametrize("kind", ["json", "yaml", "xml"])
def test_a_file_instead_of_its_folder(kind, tmp_path):
    format = {"json": "coco", "yaml": "yolo", "xml": "cvat"}[kind]
    root = write_dataset_in(format, tmp_path / "data")
    assert objects(find_dataset(next(root.glob(f"*.{kind}"))).parts["train"]) == EXPECTED


LAYOUTS = {
    "Roboflow": ["train/_annotations.coco.json:train/", "valid/_annotations.coco.json:valid/"],
    "COCO": ["annotations/instances_train2017.json:train2017/", "annotations/instances_val2017.json:val2017/"],
    "beside": ["instances_train.json:train/", "instances_val.json:val/"],
    "images": ["train.json:images/", "val.json:images/"],
    "images of each part": ["train.json:images/train/", "val.json:images/val/"],
    "names with folders": ["annotations/train.json:", "annotations/val.json:"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_coco(layout, tmp_path):
    for entry in LAYOUTS[layout]:
        file, _, folder = entry.partition(":")
        stem = "train" if "train" in file else "val"
        names = [f"{stem}/x.jpg", f"{stem}/y.jpg"] if not folder else [f"{stem}_x.jpg", f"{stem}_y.jpg"]
        write_small_json(tmp_path / file, names, tmp_path / folder)
    (tmp_path / "annotations").mkdir(exist_ok=True)
    captions = {"images": [], "annotations": [{"caption": "x"}]}
    if layout == "COCO":
        (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(captions))
    found = find_dataset(tmp_path)
    assert {name: len(part.content["images"]) for name, part in found.parts.items()} == {"train": 2, "val": 2}


def write_small_json(file, names, folder):
    images = [{"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(names)]
    for name in names:
        save_image(folder / name)
    annotations = [{"id": 1, "image_id": 0, "category_id": 3, "bbox": [0, 0, 5, 5]}]
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "x"}]}
    file.write_text(json.dumps(content))


def test_doubt_names_the_formats(tmp_path):
    root = write_dataset_in("coco", tmp_path / "data")
    (root / "data.yaml").write_text("train: .\nnames: [x]")
    with pytest.raises(ValueError, match=r"several formats: coco \(all.json\), yolo \(data.yaml\).*--format coco"):
        find_dataset(root)
    assert find_dataset(root, "coco").format == "coco"
    assert find_dataset(root, "yolo").names == ["x"]


def test_two_files_for_one_part(tmp_path):
    for name in ("a.json", "b.json"):
        write_small_json(tmp_path / name, [f"{name}.jpg"], tmp_path)
    with pytest.raises(ValueError, match=r"several COCO files for train: .*a.json and .*b.json; give the one"):
        find_dataset(tmp_path)
    assert len(find_dataset(tmp_path / "a.json").parts["train"].content["images"]) == 1
