import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from small_datasets import save_image

from detkit.data.formats import find_dataset
from detkit.ops.rle import decode_mask


@pytest.fixture
def labelme(tmp_path):
    """A function that writes an image and the json of its shapes and returns the folder."""

    def write(*shapes, **more):
        save_image(tmp_path / "a.jpg", (50, 40))
        content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 40, "imageWidth": 50, **more}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return tmp_path

    return write


def shape(kind, points, label="x", **more):
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, **more}


def annotations(folder):
    return find_dataset(folder).parts["train"].content["annotations"]


def test_polygons_of_a_group_are_one_object(labelme):
    one = shape("polygon", [[1, 1], [5, 1], [5, 5]], group_id=3)
    two = shape("polygon", [[10, 10], [20, 10], [20, 15]], group_id=3)
    alone = shape("polygon", [[30, 30], [35, 30], [35, 35]])
    first, second = annotations(labelme(one, two, alone))
    assert first["bbox"] == [1, 1, 19, 14] and first["area"] == 8 + 25 and len(first["segmentation"]) == 2
    assert second["bbox"] == [30, 30, 5, 5]


def test_circles_and_what_has_no_area(labelme):
    (circle,) = annotations(labelme(shape("circle", [[20, 20], [20, 30]]), shape("point", [[1, 1]])))
    assert circle["bbox"] == [10, 10, 20, 20]


def test_masks(labelme):
    pixels = np.zeros((4, 3), dtype=np.uint8)
    pixels[1:3, 1] = 255
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    (mask,) = annotations(labelme(shape("mask", [[10, 20], [12, 23]], mask=base64.b64encode(data.getvalue()).decode())))
    decoded = decode_mask(mask["segmentation"], 40, 50)
    assert mask["bbox"] == [11, 21, 1, 2] and decoded.sum() == 2 and decoded[21:23, 11].all()


def test_windows_paths(labelme):
    folder = labelme(shape("rectangle", [[1, 1], [5, 5]]), imagePath="..\\pictures\\a.jpg")
    assert find_dataset(folder).parts["train"].content["images"][0]["file_name"] == "a.jpg"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (shape("polygon", [[1, 1], [2, 2]]), "a.json: shape 1: is a polygon of 2 points"),
        (shape("polygon", [[1, 1], [2, float("nan")], [3, 3]]), "shape 1: a coordinate is nan, not a finite number"),
        (shape("polygon", "abc"), "shape 1: its points are not pairs"),
        (shape("star", [[1, 1], [2, 2], [3, 3]]), "shape 1: has the shape_type 'star'"),
        (shape("mask", [[1, 1], [2, 2]], mask="####"), "shape 1: its mask cannot be read"),
        (shape("rectangle", [[1, 1], [2, 2]], label=None), "shape 1: has no label"),
        (7, "shape 1: has no label"),
    ],
)
def test_bad_shapes(labelme, item, message):
    with pytest.raises(ValueError, match=message) as caught:
        find_dataset(labelme(item))
    assert str(caught.value).count("a.json") == 1


def test_an_image_that_is_not_there(labelme, tmp_path):
    folder = labelme(imagePath="/etc/other.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match=r"a.json: its image /etc/other.jpg is not in"):
        find_dataset(folder)


def test_broken_json(labelme, tmp_path):
    labelme()
    (tmp_path / "a.json").write_text('{"shapes":\n [}')
    with pytest.raises(ValueError, match=r"a.json: is not json: line 2, column 3"):
        find_dataset(tmp_path)
