import json

import numpy as np
import pytest
import yaml
from paths import REAL_DATA
from PIL import Image
from small_datasets import EXPECTED, NAMES, objects, save_image, write_dataset_in

from detkit.data.formats import find_dataset, write_dataset
from detkit.ops.masks.outlines import polygon_area
from detkit.ops.rle import decode_mask, encode_masks


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("kind", ["coco", "cvat"])
def test_round_trips(kind, to, tmp_path):
    found = find_dataset(write_dataset_in(kind, tmp_path / "data"))
    write_dataset(found, tmp_path / "out", to)
    again = find_dataset(tmp_path / "out")
    assert again.format == to and objects(again.parts["train"]) == EXPECTED
    assert again.names == (sorted(NAMES) if to == "voc" else NAMES)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_real_boxes(to, tmp_path):
    """Boxes of whole pixels come back as they were."""
    found = find_dataset(REAL_DATA / "bccd")
    write_dataset(found, tmp_path / "out", to)
    again = find_dataset(tmp_path / "out")
    assert {name: objects(part) for name, part in again.parts.items()} == {
        name: objects(part) for name, part in found.parts.items()
    }


@pytest.fixture
def masks(tmp_path):
    """A COCO dataset with these segmentations of an image of 60 x 40 pixels."""

    def write(*segmentations, **more):
        save_image(tmp_path / "data" / "a.jpg", (60, 40))
        annotations = [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [1.25, 2, 30, 30], "segmentation": s, **more}
            for i, s in enumerate(segmentations, 1)
        ]
        images = [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
        (tmp_path / "data" / "a.json").write_text(json.dumps(content))
        return find_dataset(tmp_path / "data")

    return write


def yolo_segmentations(found, folder):
    write_dataset(found, folder, "yolo")
    return [a["segmentation"] for a in find_dataset(folder).parts["train"].content["annotations"]]


def test_polygons_in_yolo(masks, tmp_path):
    polygon = [1.37, 2.51, 30.11, 3.33, 20.02, 17.77]
    assert yolo_segmentations(masks([polygon]), tmp_path / "out") == [[polygon]]


OVERLAP = [[5, 5, 20, 5, 20, 20, 5, 20], [10, 10, 30, 10, 30, 30, 10, 30]]


@pytest.mark.parametrize("kind", ["apart", "overlap", "run lengths", "ring"])
def test_other_masks_in_yolo_cover_the_same(kind, masks, tmp_path):
    blob = np.zeros((40, 60), dtype=bool)
    blob[5:30, 8:40] = True
    blob[10:20, 15:25] = kind != "ring"
    blob[30:35, 50:55] = True
    segmentation = {
        "apart": [[5, 5, 10, 12, 10.5, 5], [30, 20, 40, 20, 40.5, 33.3], [1, 30, 9, 30, 9, 39]],
        "overlap": OVERLAP,
        "run lengths": encode_masks(blob[None])[0],
        "ring": encode_masks(blob[None])[0],
    }[kind]
    (written,) = yolo_segmentations(masks(segmentation), tmp_path / "out")
    assert len(written) == 1
    assert abs(polygon_area(written[0])) == pytest.approx(decode_mask(segmentation, 40, 60).sum(), abs=25)
    assert (decode_mask(written, 40, 60) == decode_mask(segmentation, 40, 60)).all()


def test_crowds_are_left_out_and_told(masks, tmp_path, caplog):
    found = masks([[1, 1, 9, 1, 9, 9]], iscrowd=1)
    write_dataset(found, tmp_path / "out", "voc")
    assert find_dataset(tmp_path / "out").parts["train"].content["annotations"] == []
    assert "voc cannot hold them and they are left out: 1 crowd regions, 1 segmentations" in caplog.text


def test_a_broken_mask_becomes_a_box(masks, tmp_path, caplog):
    write_dataset(masks([[1, 1, 9, float("inf"), 9, 9]]), tmp_path / "out", "yolo")
    (annotation,) = find_dataset(tmp_path / "out").parts["train"].content["annotations"]
    assert annotation["bbox"] == [1.25, 2, 30, 30] and "annotation 1 is written as a box" in caplog.text


@pytest.mark.parametrize("stated", [(60, 40), (40, 60)], ids=["stored", "upright"])
def test_photos_that_exif_turns(stated, masks, tmp_path):
    """What YOLO calls an image is upright, whatever the json means."""
    found = masks()
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "data" / "a.jpg", (60, 40), exif=exif)
    image, content = found.parts["train"].content["images"][0], found.parts["train"].content
    image["width"], image["height"] = stated
    # In the left upper corner as stored, that is in the right upper one of the picture.
    box = [0, 0, 6, 4] if stated == (60, 40) else [36, 0, 4, 6]
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}]
    write_dataset(found, tmp_path / "out", "yolo")
    again = find_dataset(tmp_path / "out").parts["train"].content
    assert again["annotations"][0]["bbox"] == [36, 0, 4, 6] and again["images"][0]["width"] == 40


def test_an_image_of_another_size(masks, tmp_path):
    found = masks([[1, 1, 9, 1, 9, 9]])
    save_image(tmp_path / "data" / "a.jpg", (30, 20))
    with pytest.raises(ValueError, match=r"a.jpg \(image id 1\) has 30 x 20 pixels, its annotations say 60 x 40"):
        write_dataset(found, tmp_path / "out", "voc")


def test_names_that_meet(tmp_path):
    """Images of one name in two folders, and two kinds of one stem, have labels of their own."""
    names = ["one/a.jpg", "two/a.jpg", "two/a.png"]
    for seed, name in enumerate(names):
        save_image(tmp_path / "data" / name, seed=seed)
    images = [{"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 10 + i, 5]} for i in range(3)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "data" / "all.json").write_text(json.dumps(content))
    for to in ("coco", "yolo", "voc"):
        write_dataset(find_dataset(tmp_path / "data"), tmp_path / to, to)
        written = objects(find_dataset(tmp_path / to).parts["train"])
        assert sorted(box[0][3] for box in written.values()) == [10, 11, 12], to


def test_the_yaml_has_the_names_as_they_are(tmp_path):
    write_dataset(find_dataset(write_dataset_in("coco", tmp_path / "data")), tmp_path / "out", "yolo")
    settings = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert settings == {"train": "images/train", "names": dict(enumerate(NAMES))}


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    root = write_dataset_in("coco", tmp_path / "data")
    found = find_dataset(root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="full exists and is not an empty folder"):
        write_dataset(found, tmp_path / "full", "yolo")
    (root / "b.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"cannot read image .*b.jpg"):
        write_dataset(found, tmp_path / "out", "yolo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "full"]
