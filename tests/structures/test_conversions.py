import json

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.ops.rle import decode_mask
from detkit.structures import Detections, LabelMap

NAMES = LabelMap(("cat", "small dog"), (3, 7))


def detections(**more):
    boxes = torch.tensor([[10.0, 20, 30, 40], [-5, 0, 20, 10.5]])
    return Detections(boxes, torch.tensor([0.9, 0.25]), torch.tensor([1, 0]), label_map=NAMES, **more)


def masks():
    found = torch.zeros(2, 50, 100, dtype=torch.bool)
    found[0, 20:40, 10:30] = True
    return found


def test_dicts_are_plain_values():
    dicts = json.loads(json.dumps(detections(masks=masks()).to_dicts()))
    assert dicts[0]["name"] == "small dog" and dicts[0]["label"] == 1 and dicts[0]["box"] == [10, 20, 30, 40]
    assert dicts[1]["score"] == 0.25
    assert decode_mask(dicts[0]["mask"], 50, 100).sum() == 400
    assert "mask" not in detections().to_dicts()[0]


def test_yolo_lines_are_relative_and_inside():
    lines = detections().to_yolo((50, 100)).splitlines()
    assert lines == ["1 0.200000 0.600000 0.200000 0.400000", "0 0.100000 0.105000 0.200000 0.210000"]
    assert detections(size=(50, 100)).to_yolo(scores=True).splitlines()[0].endswith(" 0.900000")
    assert detections(masks=masks()).to_yolo().splitlines() == lines
    with pytest.raises(ValueError, match=r"give it as size=\(height, width\)"):
        detections().to_yolo()
    assert detections()[:0].to_yolo((50, 100)) == ""


def test_supervision():
    pytest.importorskip("supervision")
    found = detections(masks=masks()).to_supervision()
    assert found.data["class_name"].tolist() == ["small dog", "cat"] and found.class_id.tolist() == [1, 0]
    assert found.xyxy.shape == (2, 4) and found.mask.sum() == 400 and len(detections()[:0].to_supervision()) == 0


def test_pandas():
    pytest.importorskip("pandas")
    table = detections(source="a.jpg").to_pandas()
    assert list(table.columns) == ["source", "name", "label", "score", "x1", "y1", "x2", "y2"]
    assert table.source.tolist() == ["a.jpg"] * 2 and table.x1.tolist() == [10, -5]
    assert len(detections()[:0].to_pandas()) == 0


@pytest.mark.parametrize("package", ["supervision", "pandas"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}: pip install {package}"):
        getattr(detections(), f"to_{package}")()


def test_crops_are_inside_and_never_empty():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)
    found = detections()
    found.boxes = torch.cat([found.boxes, torch.tensor([[200.0, 60, 210, 70]])])
    first, second, outside = found.crops(Image.fromarray(pixels))
    assert np.array_equal(np.asarray(first), pixels[20:40, 10:30])
    assert second.size == (20, 10) and outside.size == (1, 1)


def test_repr_is_short():
    assert repr(detections()) == "Detections(2 objects: 1 small dog (0.90), 1 cat (0.25))"
    assert repr(detections(source="a.jpg", masks=masks())).endswith("1 cat (0.25), with masks, in a.jpg)")
    assert repr(detections()[:0]) == "Detections(0 objects)"
    many = Detections(torch.zeros(900, 4), torch.linspace(1, 0, 900), torch.arange(900) % 90)
    assert repr(many).endswith("and 85 more classes)") and len(repr(many)) < 200


def test_selecting_keeps_source_and_size():
    found = detections(source="a.jpg", size=(50, 100))[torch.tensor([True, False])]
    assert found.source == "a.jpg" and found.size == (50, 100) and len(found) == 1
