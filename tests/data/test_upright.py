"""A photo with an EXIF orientation gives the same samples and figures as the same photo without it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.data.coco import CocoDataset
from detkit.data.points.dataset import PointDataset
from detkit.data.points.file import check_points
from detkit.ops.orientation import Turn
from detkit.ops.rle import decode_mask, encode_masks

UPRIGHT = (60, 40)
STORE = {  # from the upright picture to what a camera stores
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(orientation=1):
    pixels = np.random.default_rng(0).integers(0, 256, (*UPRIGHT, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return image.transpose(STORE[orientation]) if orientation > 1 else image


def masks(orientation=1):
    """Two objects, in the stored pixels of that orientation."""
    upright = np.zeros((2, *UPRIGHT), dtype=np.uint8)
    upright[0, 5:30, 10:22] = upright[1, 40:57, 3:9] = 1
    if orientation == 1:
        return upright
    return np.stack([np.asarray(Image.fromarray(mask).transpose(STORE[orientation])) for mask in upright])


def write(folder, orientation, annotated, *, size=None):
    """A photo stored with that orientation, and a json whose annotations mean the pixels of orientation `annotated`."""
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(orientation).save(folder / "photo.png", exif=exif)
    annotations = []
    for number, mask in enumerate(masks(annotated), 1):
        ys, xs = np.nonzero(mask)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        x1, y1, x2, y2 = box[0], box[1], box[0] + box[2], box[1] + box[3]
        polygon = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        shape = polygon if number == 1 else encode_masks(mask[None])[0]
        common = dict(id=number, image_id=7, category_id=1, bbox=box, area=int(mask.sum()), iscrowd=0)
        annotations.append({**common, "segmentation": shape, "point": [x1, y1]})
    height, width = masks(annotated).shape[1:]
    images = [dict(id=7, file_name="photo.png", height=height, width=width)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="thing")])
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json", folder


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def contents(files, dataset=CocoDataset, **options):
    data = dataset(*files, **options)
    image, known = data[0]
    return image, known, data.coco()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("annotated", ["upright", "stored"])
def test_samples_and_ground_truth_are_those_of_the_photo_without_a_tag(tmp_path, caplog, orientation, annotated):
    if annotated == "stored" and orientation < 5:
        return
    wanted_image, wanted, wanted_truth = contents(write(tmp_path / "plain", 1, 1), masks=True)
    files = write(tmp_path / "tagged", orientation, orientation if annotated == "stored" else 1)
    image, known, truth = contents(files, masks=True)
    assert torch.equal(image, wanted_image) and known.original_size == UPRIGHT
    assert torch.equal(known.boxes, wanted.boxes) and torch.equal(known.masks, wanted.masks)
    for one, other in zip(truth["annotations"], wanted_truth["annotations"], strict=True):
        assert one["bbox"] == other["bbox"] and one["area"] == other["area"]
        pairs = [decode_mask(a["segmentation"], *UPRIGHT) for a in (one, other)]
        assert (pairs[0] == pairs[1]).all()
    assert [(i["height"], i["width"]) for i in truth["images"]] == [UPRIGHT]
    assert (warnings(caplog) != []) == ("do not tell whether" in caplog.text) == (1 < orientation < 5)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_points_turn_with_the_pixels(tmp_path, orientation):
    image, known, truth = contents(write(tmp_path / "stored", orientation, orientation), PointDataset)
    original = picture(orientation).load()
    stored = json.loads((tmp_path / "stored" / "instances.json").read_text())["annotations"]
    for point, annotation in zip(known.points.int().tolist(), stored, strict=True):
        assert image[:, point[1], point[0]].tolist() == list(original[tuple(annotation["point"])])
    assert [a["point"] for a in truth["annotations"]] == known.points.tolist()


def test_a_photo_whose_size_does_not_tell_is_reported_with_its_id_and_the_way_out(tmp_path, caplog):
    path, folder = write(tmp_path / "half", 3, 1)
    dataset = CocoDataset(path, folder)
    for _ in range(2):
        dataset[0]
    (message,) = warnings(caplog)
    assert "photo.png (image id 7 of " in message and "EXIF orientation 3" in message and "exiftool" in message
    assert "EXIF orientation 3" in check_points(path, folder).table()


def test_files_in_either_frame_have_no_problem(tmp_path):
    for annotated in (1, 6):
        assert check_points(*write(tmp_path / str(annotated), 6, annotated)).problems == []


def test_nothing_moves_without_a_reason():
    boxes = np.array([[1.0, 2, 3, 4]])
    turn = Turn((60, 40))
    assert turn.boxes(boxes) is boxes and turn.points(boxes[:, :2]).tolist() == [[1, 2]] and not turn
