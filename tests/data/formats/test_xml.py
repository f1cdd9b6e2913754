"""Pascal VOC and CVAT."""

import numpy as np
import pytest
from small_datasets import save_image, write_dataset_in

from detkit.data.formats import find_dataset
from detkit.ops.rle import decode_mask

BOMB = '<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "aaaa">]><annotation>&a;</annotation>'
STRANGER = (
    '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'
)


def voc(folder, objects, name="a", filename="a.jpg", size=True):
    save_image(folder / f"{name}.jpg", (50, 40))
    size = "<size><width>50</width><height>40</height></size>" * size
    (folder / f"{name}.xml").write_text(f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>")
    return folder


def box(*corners, name="x", more=""):
    tags = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{tags}</bndbox></object>"


def test_a_box_of_the_whole_image_counts_from_one(tmp_path):
    found = find_dataset(voc(tmp_path, box(1, 1, 50, 40, name="Two Words", more="<difficult>1</difficult>")))
    (annotation,) = found.parts["train"].content["annotations"]
    assert annotation["bbox"] == [0, 0, 50, 40] and annotation["difficult"] == 1 and found.names == ["Two Words"]


def test_the_size_comes_from_the_image_where_the_file_has_none(tmp_path):
    found = find_dataset(voc(tmp_path, box(1, 1, 2, 2), size=False, filename="renamed_since.png"))
    image = found.parts["train"].content["images"][0]
    assert (image["file_name"], image["width"], image["height"]) == ("a.jpg", 50, 40)


def test_parts_are_lists_or_folders(tmp_path):
    root = write_dataset_in("voc", tmp_path / "lists")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    (lists / "trainval.txt").write_text("a\nb\n")
    for name in ("train", "valid"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        voc(tmp_path / "folders" / name, box(1, 1, 2, 2))
    for folder in ("lists", "folders"):
        parts = find_dataset(tmp_path / folder).parts
        assert {name: len(part.content["images"]) for name, part in parts.items()} == {"train": 1, "val": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<object>\n</annotation>", r"a.xml: is broken XML: line 3, column \d+: mismatched tag"),
        (BOMB, "a.xml: holds a document type or entities"),
        (STRANGER, "a.xml: holds a document type or entities"),
        (f"<annotation><filename>b.jpg</filename>{box(1, 1, 2, 2)}</annotation>", "its image b.jpg is not in"),
        (
            "<annotation><filename>other.jpg</filename><size><width>9e99</width><height>1</height></size></annotation>",
            "a.xml: its image other.jpg has width",
        ),
        (f"<annotation><filename>../../b.jpg</filename>{box(1, 1, 2, 2)}</annotation>", "b.jpg is not in"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    save_image(tmp_path / "other.jpg")
    with pytest.raises(ValueError, match=message):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (box(1, 1, "inf", 2), "a.xml: object 2: xmax is inf, not a finite number"),
        (box(1, 1, "wide", 2), "object 2: xmax is 'wide', not a number"),
        (box(1, 1, 2, 2, name=" "), "object 2: has no name"),
        ("<object><name>x</name></object>", "object 2: has no bndbox/xmin"),
    ],
)
def test_bad_objects(tmp_path, item, message):
    with pytest.raises(ValueError, match=message) as caught:
        find_dataset(voc(tmp_path, box(1, 1, 5, 5) + item))
    assert str(caught.value).count("a.xml") == 1


def cvat(folder, *shapes, attributes='subset="Train"', head=""):
    save_image(folder / "images" / "a.jpg", (50, 40))
    image = f'<image id="7" name="a.jpg" width="50" height="40" {attributes}>{"".join(shapes)}</image>'
    (folder / "annotations.xml").write_text(f"<annotations>{head}{image}</annotations>")
    return folder


def only_object(found, part="train"):
    (annotation,) = found.parts[part].content["annotations"]
    return annotation


def test_a_turned_box_has_a_polygon(tmp_path):
    shape = '<box label="x" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
    annotation = only_object(find_dataset(cvat(tmp_path, shape)))
    assert annotation["bbox"] == [15, 5, 10, 20] and len(annotation["segmentation"][0]) == 8


def test_a_mask(tmp_path):
    """Runs along the rows of its box, the background first."""
    shape = '<mask label="x" rle="1, 2, 4, 1" left="5" top="3" width="4" height="2"/>'
    annotation = only_object(find_dataset(cvat(tmp_path, shape, attributes='subset="Validation"')), "val")
    expected = np.zeros((40, 50), dtype=bool)
    expected[3, 6:8] = expected[4, 8] = True
    assert (decode_mask(annotation["segmentation"], 40, 50) == expected).all()


def test_polygons_and_ellipses(tmp_path):
    polygon = '<polygon label="x" points="1.5,2;9,2;9,8"/>'
    ellipse = '<ellipse label="x" cx="20" cy="20" rx="10" ry="5"/><points label="x" points="1,1"/>'
    first, second = find_dataset(cvat(tmp_path, polygon, ellipse)).parts["train"].content["annotations"]
    assert first["bbox"] == [1.5, 2, 7.5, 6] and first["segmentation"] == [[1.5, 2, 9, 2, 9, 8]]
    assert second["bbox"] == [10, 15, 20, 10]


def test_classes_are_in_the_order_of_the_labels(tmp_path):
    head = "<meta><task><labels><label><name>z</name></label><label><name>a</name></label></labels></task></meta>"
    shape = '<box label="a" xtl="1" ytl="1" xbr="3" ybr="2"/>'
    assert find_dataset(cvat(tmp_path, shape, head=head)).names == ["z", "a"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<box label="x" xtl="1" ytl="1" xbr="nan" ybr="2"/>', "image id 7, shape 1: xbr is nan, not a finite number"),
        ('<box label="x" xtl="1"/>', "shape 1: ytl is 'None', not a number"),
        ('<polygon label="x" points="1,2;3,4"/>', "shape 1: is a polygon of 2 points"),
        ('<mask label="x" rle="1,9" left="0" top="0" width="2" height="2"/>', "run lengths do not fit into 2 x 2"),
        ('<mask label="x" rle="0,4" left="49" top="0" width="2" height="2"/>', "does not lie inside of the 50 x 40"),
        ('<box xtl="1" ytl="1" xbr="2" ybr="2"/>', "shape 1: has no label"),
    ],
)
def test_bad_shapes(tmp_path, shape, message):
    with pytest.raises(ValueError, match=message) as caught:
        find_dataset(cvat(tmp_path, shape))
    assert str(caught.value).count("annotations.xml") == 1


def test_video(tmp_path):
    cvat(tmp_path, head='<track id="0" label="x"/>')
    with pytest.raises(ValueError, match="is an export of CVAT for video: export the task as 'CVAT for images'"):
        find_dataset(tmp_path)
