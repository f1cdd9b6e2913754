import json

import pytest
from paths import REAL_DATA
from small_datasets import EXPECTED, NAMES, save_image, write_dataset_in

from detkit.cli import files, main
from detkit.data.coco import CocoDataset
from detkit.data.formats import FORMATS
from detkit.data.formats.split import BY
from detkit.data.formats.write import WRITERS


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "labelme", "cvat"])
def test_convert(kind, tmp_path, capsys):
    """What is written trains: file names, class names and boxes in pixels."""
    root = write_dataset_in(kind, tmp_path / "data")
    assert main(["data", "convert", str(root), "--out", str(tmp_path / "out")]) == 0
    assert f"{kind}, 3 classes; train 3 images with 3 objects" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert {c["name"] for c in content["categories"]} == set(NAMES)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    boxes = sorted((names[a["image_id"]], *a["bbox"]) for a in content["annotations"])
    assert boxes == sorted((file, *box) for file, objects in EXPECTED.items() for _, *box in objects)
    assert len(CocoDataset(tmp_path / "out" / "train.json", tmp_path / "out" / "images" / "train")) == 3


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_convert_to(to, tmp_path):
    root, out = write_dataset_in("cvat", tmp_path / "data"), tmp_path / "out"
    assert main(["data", "convert", str(root), "--out", str(out), "--to", to]) == 0
    assert main(["data", "convert", str(out), "--out", str(tmp_path / "again"), "--format", to]) == 0


def test_doctor(tmp_path, capsys):
    root = write_dataset_in("coco", tmp_path / "data")
    assert main(["data", "doctor", str(root), "--size", "800"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    save_image(root / "more.jpg", seed=9)
    files = {option: tmp_path / f"report.{option}" for option in ("json", "page")}
    options = [word for option, file in files.items() for word in (f"--{option}", str(file))]
    assert main(["data", "doctor", str(root), "--tokens", "1", *options]) == 1
    assert "2 findings, worst first" in capsys.readouterr().out
    kinds = [kind["kind"] for kind in json.loads(files["json"].read_text())["kinds"]]
    assert kinds == ["more objects than tokens", "images in no part"] and files["page"].exists()


def test_stats(tmp_path, capsys):
    root = write_dataset_in("voc", tmp_path / "data")
    assert main(["data", "stats", str(root)]) == 0
    rows = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines()[1:])
    figures = {key.strip(): value for key, value in rows.items()}
    assert figures["images"] == "3" and figures["images without objects"] == "1"
    assert figures["class Red Blood Cell"] == "1" and figures["small objects (under 32 pixels)"] == "2"


@pytest.mark.parametrize("by", ["class", "time"])
def test_split(by, tmp_path, capsys):
    root = write_dataset_in("labelme", tmp_path / "data")
    words = ["data", "split", str(root), "--out", str(tmp_path / "out"), "--by", by, "--val-share", "0.4"]
    assert main(words) == 0
    assert f"2 images to train, 1 to val by {by}" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "val.json").read_text())["images"]) == 1


def error(capsys, *words):
    """The only line that a command writes which ends with exit code 2."""
    assert main(["data", *map(str, words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def empty(folder):
    pass


def text_file(folder):
    (folder / "notes.txt").write_text("nothing")


def no_images(folder):
    (folder / "a.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}')


def broken_json(folder):
    (folder / "a.json").write_text('{"images": [\n{"id": 1,}], "annotations": []}')


def lost_images(folder):
    write_dataset_in("coco", folder / "data")
    for name in EXPECTED:
        (folder / "data" / name).unlink()


def labels_alone(folder):
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 .5 .5 1 1")


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (empty, "holds no dataset that is known (coco: a json with images, annotations and categories; yolo: "),
        (text_file, "holds no dataset that is known"),
        (labels_alone, "holds no dataset that is known"),
        (no_images, "has no images"),
        (broken_json, "a.json is not json: line 2, column 10"),
        (lost_images, "3 of 3 images of train are not in"),
    ],
)
@pytest.mark.parametrize("command", ["convert", "stats"])
def test_nothing_to_read(command, plant, message, tmp_path, capsys):
    plant(tmp_path)
    out = ["--out", tmp_path / "out"] if command == "convert" else []
    line = error(capsys, command, tmp_path, *out)
    assert message in line and str(tmp_path) in line and not (tmp_path / "out").exists()


def test_the_doctor_cannot_read_it(tmp_path, capsys):
    broken_json(tmp_path)
    assert "a.json is not json" in error(capsys, "doctor", tmp_path)
    assert "nowhere does not exist" in error(capsys, "doctor", tmp_path / "nowhere")


def test_misspelt(tmp_path, capsys):
    assert error(capsys, "docter", tmp_path) == "error: unknown command 'docter', did you mean 'doctor'?"
    assert error(capsys, "doctor", "--tokns", "3") == "error: unknown option '--tokns', did you mean '--tokens'?"
    assert "--group is for --by group" in error(
        capsys, "split", tmp_path, "--out", tmp_path / "o", "--by", "time", "--group", "x"
    )


def test_the_choices_are_those_of_the_library():
    assert (FORMATS, tuple(WRITERS), BY) == (files.FORMATS, files.WRITTEN_FORMATS, files.BY)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs ../shared/data")
def test_real_data(capsys):
    """Two boxes of BCCD have one pixel."""
    assert main(["data", "doctor", str(REAL_DATA / "bccd")]) == 1
    assert "2 findings, worst first" in capsys.readouterr().out
