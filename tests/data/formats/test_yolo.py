import pytest
from small_datasets import save_image

from detkit.data.formats import Problems, find_dataset


@pytest.fixture
def yolo(tmp_path):
    """A function that writes a data.yaml and label files and returns the yaml."""

    def write(settings, labels=(), images=("train/images/a.jpg",), size=(100, 50)):
        for image in images:
            save_image(tmp_path / image, size)
        for file, text in dict(labels).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        (tmp_path / "data.yaml").write_text(settings)
        return tmp_path / "data.yaml"

    return write


def annotations(found, part="train"):
    return found.parts[part].content["annotations"]


def test_boxes_and_polygons(yolo):
    lines = "0 0.5 0.5 0.2 0.4\n\n1 0.1 0.2 0.3 0.2 0.3 0.6\n"
    file = yolo("train: train/images\nnames: {0: a, 1: b c}", {"train/labels/a.txt": lines})
    box, polygon = annotations(find_dataset(file))
    assert box["bbox"] == [40, 15, 20, 20] and "segmentation" not in box
    assert (
        polygon["bbox"] == [10, 10, 20, 20]
        and (box["area"], polygon["area"]) == (400, 200)
        and polygon["segmentation"] == [[10, 10, 30, 10, 30, 30]]
    )
    assert find_dataset(file).names == ["a", "b c"]


@pytest.mark.parametrize(
    "settings",
    [
        "train: ../train/images\nval: ../valid/images\nnames: [x]\nroboflow: {version: 1}",
        "path: .\ntrain: train/images\nval: [valid/images]\nnc: 1",
        "path: /on/another/machine\ntrain: train/images\nval: valid/images\nnames: [x]",
        "train: train.txt\nval: valid/images\nnames: [x]",
    ],
    ids=["Roboflow", "list and nc", "foreign path", "list of files"],
)
def test_where_images_are(yolo, settings):
    images = ("train/images/a.jpg", "valid/images/b.jpg")
    labels = {"train/labels/a.txt": "0 .5 .5 1 1", "valid/labels/b.txt": "", "train.txt": "./train/images/a.jpg\n"}
    found = find_dataset(yolo(settings, labels, images))
    assert {name: len(part.content["images"]) for name, part in found.parts.items()} == {"train": 1, "val": 1}
    assert len(annotations(found)) == 1 and annotations(found, "val") == []


def test_the_picture_of_a_turned_photo_is_upright(yolo, tmp_path):
    """Its boxes are parts of what a viewer shows."""
    file = yolo("train: train/images\nnames: [x]", {"train/labels/a.txt": "0 0.5 0.5 1 0.5"})
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "train/images/a.jpg", (100, 50), exif=exif)
    found = find_dataset(file)
    image = found.parts["train"].content["images"][0]
    assert (image["width"], image["height"]) == (50, 100)
    assert annotations(found)[0]["bbox"] == [0, 25, 50, 50]


def test_boxes_of_key_points(yolo):
    file = yolo("train: train/images\nnames: [x]\nkpt_shape: [1, 3]", {"train/labels/a.txt": "0 .5 .5 1 1 .2 .2 2"})
    assert annotations(find_dataset(file))[0]["bbox"] == [0, 0, 100, 50]


YAML = "train: train/images\nnames: [x, y]"


@pytest.mark.parametrize(
    ("settings", "line", "message"),
    [
        ("train: [\nnames: x", "", r"data.yaml is broken YAML: line 2, column"),
        ("- a", "", r"data.yaml: must be a list of names and values"),
        ("train: train/images\nnames: [x]\nnc: 2", "", "nc is 2, but names has 1 classes"),
        ("train: train/images\nnames: {0: x, 2: y}", "", "numbered from 0 without gaps, got 0, 2"),
        ("train: train/images\nnames: [x, {}]", "", "the name of class 1 is {}"),
        ("train: nowhere\nnames: [x]", "", "train is 'nowhere', but .*nowhere does not exist"),
        ("train: train/labels\nnames: [x]", "", "train is 'train/labels', where no images are"),
        ("names: [x]", "", "names none of train, val and test"),
        (YAML, "0 .5 .5 .1 .1\n2 .5 .5 .1 .1", "a.txt line 2: class 2 is none of the 2 in data.yaml"),
        (YAML, "0.5 .5 .5 .1 .1", "line 1: class 0.5 is none"),
        (YAML, "-1 .5 .5 .1 .1", "line 1: class -1 is none"),
        (YAML, "0 .5 nan .1 .1", "line 1: a value is nan, not a finite number"),
        (YAML, "0 .5 1e999 .1 .1", "line 1: a value is 1e999, not a finite number"),
        (YAML, "cat .5 .5 .1 .1", "line 1: a value is 'cat', not a number"),
        (YAML, "0 .5 .5 .1", "line 1: has 4 numbers"),
        (YAML, "0 320 200 40 40", "line 1: has the coordinate 320; all must be parts of the image"),
    ],
)
def test_bad_files(yolo, settings, line, message):
    with pytest.raises(ValueError, match=message):
        find_dataset(yolo(settings, {"train/labels/a.txt": line}))


def test_problems_are_kept_where_reading_is_not_strict(yolo):
    labels = {"train/labels/a.txt": "7 .5 .5 .1 .1\n0 .5 .5 .1 .1", "train/labels/lost.txt": "0 .5 .5 .1 .1"}
    problems = Problems(strict=False)
    found = find_dataset(yolo(YAML, labels), problems=problems)
    assert len(annotations(found)) == 1
    assert [problem.kind for problem in problems.found] == ["unreadable annotations", "annotations without image"]


def test_lists_do_not_lead_out_of_the_dataset(yolo):
    with pytest.raises(ValueError, match=r"train.txt line 2: ../../secret.jpg lies outside of"):
        find_dataset(yolo("train: train.txt\nnames: [x]", {"train.txt": "train/images/a.jpg\n../../secret.jpg"}))
