"""Every kind of finding is found where it was planted, and nothing where there is nothing."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_datasets import save_image, write_dataset_in

from detkit.data.doctor import examine, write_page
from detkit.data.doctor.findings import KINDS
from detkit.data.doctor.objects import same_places
from detkit.data.formats import FORMATS


class Sick:
    """A COCO dataset of two parts, to be made sick."""

    def __init__(self, root):
        self.root, self.parts = root, {}
        for number, part in enumerate(("train", "val")):
            names = [f"{part}{i}.jpg" for i in range(3)]
            for i, name in enumerate(names):
                save_image(root / part / name, seed=10 * number + i)
            images = [{"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(names)]
            boxes = [[1, 2, 30, 20], [40, 30, 40, 30]]
            annotations = [
                {"id": 2 * i + j + 1, "image_id": i, "category_id": j + 1, "bbox": box}
                for i in range(3)
                for j, box in enumerate(boxes)
            ]
            categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
            self.parts[part] = {"images": images, "annotations": annotations, "categories": categories}

    @property
    def train(self):
        return self.parts["train"]

    def examine(self, **options):
        for part, content in self.parts.items():
            (self.root / f"{part}.json").write_text(json.dumps(content))
        return examine(self.root, processes=1, **options)


@pytest.fixture
def sick(tmp_path):
    return Sick(tmp_path)


def kinds(diagnosis):
    return dict(diagnosis.findings.counts)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_sound_dataset(kind, tmp_path):
    found = kinds(examine(write_dataset_in(kind, tmp_path / "data"), size=800, processes=1))
    assert found == {}


def set_box(*box):
    def plant(sick):
        sick.train["annotations"][0]["bbox"] = list(box)

    return plant


def set_value(key, value):
    def plant(sick):
        sick.train["annotations"][0][key] = value

    return plant


def truncate(sick):
    file = sick.root / "train" / "train1.jpg"
    file.write_bytes(file.read_bytes()[:900])


def turn(sick):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(sick.root / "train" / "train0.jpg", exif=exif)


def upside_down(sick):
    exif = Image.Exif()
    exif[0x0112] = 3
    save_image(sick.root / "train" / "train0.jpg", exif=exif)


def same_picture_as_png(sick):
    with Image.open(sick.root / "train" / "train0.jpg") as image:
        image.save(sick.root / "val" / "val0.png")
    sick.parts["val"]["images"][0]["file_name"] = "val0.png"
    (sick.root / "val" / "val0.jpg").unlink()


def same_file_in_both(sick):
    for part in ("train", "val"):
        for image in sick.parts[part]["images"]:
            image["file_name"] = f"{part}/{image['file_name']}"
    sick.parts["val"]["images"][0]["file_name"] = "train/train0.jpg"
    (sick.root / "val" / "val0.jpg").unlink()


def no_dogs_in_train(sick):
    for annotation in sick.train["annotations"]:
        annotation["category_id"] = 1
        annotation["bbox"] = [annotation["id"], 5, 30, 20 + annotation["id"]]


def add_class(name):
    def plant(sick):
        for content in sick.parts.values():
            content["categories"].append({"id": 9, "name": name})
            content["annotations"].append({"id": 77, "image_id": 2, "category_id": 9, "bbox": [2, 30, 20, 9]})

    return plant


PLANTED = {
    "unreadable images": truncate,
    "missing images": lambda sick: (sick.root / "val" / "val2.jpg").unlink(),
    "file names outside": lambda sick: sick.train["images"][0].update(file_name="../../../train0.jpg"),
    "unreadable annotations": set_box(1, 2, float("nan"), 4),
    "orphans": set_value("image_id", 99),
    "empty boxes": set_box(5, 5, 0, 9),
    "boxes outside": set_box(70, 5, 20, 9),
    "unreadable masks": set_value("segmentation", [[1, 1, 2, 2, float("inf"), 3]]),
    "sizes that disagree": lambda sick: sick.train["images"][0].update(width=160, height=120),
    "images in two parts": same_picture_as_png,
    "duplicate images": lambda sick: shutil.copy(sick.root / "train/train0.jpg", sick.root / "train/train1.jpg"),
    "images listed twice": lambda sick: sick.train["images"][1].update(file_name="./train0.jpg"),
    "doubled boxes": lambda sick: sick.train["annotations"].append({**sick.train["annotations"][0], "id": 50}),
    "class names alike": add_class("Cat "),
    "classes only outside of train": no_dogs_in_train,
    "classes without examples": lambda sick: sick.train["categories"].append({"id": 3, "name": "horse"}),
    "tiny objects": set_box(5, 5, 0.9, 0.9),
    "orientation": turn,
    "images in no part": lambda sick: save_image(sick.root / "train" / "more.jpg", seed=99),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted(kind, sick):
    assert kinds(sick.examine()) == {}
    PLANTED[kind](sick)
    found = kinds(sick.examine())
    extra = {"missing images", "images in no part"} if kind in ("file names outside", "images listed twice") else set()
    assert found[kind] == 1 and found.keys() - {kind} <= extra


@pytest.mark.parametrize(
    "plant",
    [
        set_value("category_id", 5),
        set_value("category_id", "1"),
        set_value("iscrowd", 7),
        set_value("id", None),
        set_value("id", 2),
        set_box(1, 2, 3),
        upside_down,
        lambda sick: sick.train["annotations"].append("text"),
    ],
)
def test_odd_values(plant, sick):
    plant(sick)
    assert len(sick.examine().findings) == 1


def test_one_file_in_two_parts(sick):
    same_file_in_both(sick)
    assert kinds(sick.examine()) == {"images in two parts": 1}


def test_tokens_and_size(sick):
    assert kinds(sick.examine(tokens=1)) == {"more objects than tokens": 6}
    assert kinds(sick.examine(size=20)) == {"tiny objects": 6}
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        sick.examine(size=0)


def test_findings_of_readers(tmp_path):
    root = write_dataset_in("yolo", tmp_path / "data")
    (root / "labels" / "lost.txt").write_text("0 .5 .5 .1 .1")
    (root / "labels" / "c c.txt").write_text("0 .5 .5 .1 .1\n3 .5 .5 .1 .1\n0 .5 .5 .1")
    found = examine(root, size=800, processes=1)
    assert kinds(found) == {"annotations without image": 1, "unreadable annotations": 2}
    assert "c c.txt line 2: class 3 is none of the 3" in found.text()


def test_same_places():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 300, (200, 2)), rng.uniform(5, 60, (200, 2))], axis=1)
    boxes[50], boxes[60], boxes[70] = boxes[3], boxes[4] + 0.01, boxes[5]
    classes = [0] * 70 + [1] * 130
    assert same_places(boxes, classes) == [(3, 50), (4, 60), (5, 70)]
    assert same_places(boxes[:1], [0]) == []


def test_worst_first_with_ids(sick, tmp_path):
    set_box(70, 5, 20, 9)(sick)
    truncate(sick)
    diagnosis = sick.examine(size=20)
    diagnosis.write_json(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    order = [kind["kind"] for kind in report["kinds"]]
    assert order == ["unreadable images", "boxes outside", "tiny objects"] and report["count"] == 7
    assert order == sorted(order, key=list(KINDS).index)
    (outside,) = report["kinds"][1]["findings"]
    assert (outside["annotation_id"], outside["image_id"]) == (1, 0) and outside["files"][0].endswith("train0.jpg")
    assert diagnosis.text().index("unreadable images") < diagnosis.text().index("boxes outside")


def test_page(sick, tmp_path):
    sick.train["categories"][0]["name"] = "<script>alert(1)</script>"
    set_box(70, 5, 20, 9)(sick)
    truncate(sick)
    write_page(sick.examine(), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and "<script>" not in page and "http" not in page


def test_many_findings_are_counted_and_not_all_kept(sick, monkeypatch):
    monkeypatch.setattr("detkit.data.doctor.findings.LISTED", 4)
    diagnosis = sick.examine(size=20)
    assert kinds(diagnosis) == {"tiny objects": 6} and len(diagnosis.findings.kept["tiny objects"]) == 4
