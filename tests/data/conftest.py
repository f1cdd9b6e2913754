import json

import numpy as np
import pytest
from PIL import Image


def rectangle(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@pytest.fixture
def coco_folder(tmp_path):
    """A function that writes images and a COCO file of them and returns (annotation file, image folder)."""

    def write(boxes, *, category_ids=(1, 2), sizes=None, suffix="png", **sections):
        """`boxes`: for each image a list of (category id, x, y, width, height)."""
        images, annotations = [], []
        for i, objects in enumerate(boxes):
            height, width = sizes[i] if sizes else (60, 80)
            name = f"{i:03d}.{suffix}"
            pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name)
            images.append({"id": 10 + i, "file_name": name, "height": height, "width": width})
            for category, *box in objects:
                annotation = {"id": len(annotations) + 1, "image_id": 10 + i, "category_id": category, "bbox": box}
                annotation |= {"area": box[2] * box[3], "iscrowd": 0, "segmentation": rectangle(*box)}
                annotations.append(annotation)
        categories = [{"id": c, "name": f"name{c}"} for c in category_ids]
        content = {"images": images, "annotations": annotations, "categories": categories} | sections
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path, tmp_path

    return write


@pytest.fixture
def edit_coco():
    """A function that applies another function to the content of a json file."""

    def edit(path, function):
        content = json.loads(path.read_text())
        function(content)
        path.write_text(json.dumps(content))

    return edit
