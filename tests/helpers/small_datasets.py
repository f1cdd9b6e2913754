"""One small dataset, written in each format that detkit reads."""

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 80, 60
NAMES = ["Red Blood Cell", "WBC", "platelet"]  # in alphabetical order by upper and lower case, as VOC numbers them
# (class, x, y, width, height) of each image
OBJECTS = {"a": [(0, 0, 0, 40, 30), (2, 10, 20, 5, 6)], "b": [(1, 79, 59, 1, 1)], "c c": []}

EXPECTED = {f"{stem}.jpg": [(NAMES[label], *box) for label, *box in boxes] for stem, boxes in OBJECTS.items()}


def save_image(path, size=(WIDTH, HEIGHT), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def corners(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def write_dataset_in(kind, folder):
    """Write the dataset in a format into a new folder, which is returned."""
    folder.mkdir(parents=True)
    WRITERS[kind](folder)
    return folder


def objects(part):
    """{name of the image file: (class, x, y, width, height) of its objects}"""
    names = {category["id"]: category["name"] for category in part.content["categories"]}
    found = {image["id"]: [] for image in part.content["images"]}
    for annotation in part.content["annotations"]:
        found[annotation["image_id"]].append((names[annotation["category_id"]], *annotation["bbox"]))
    return {image["file_name"]: found[image["id"]] for image in part.content["images"]}


def write_coco(root):
    images, annotations = [], []
    for i, (stem, objects) in enumerate(OBJECTS.items()):
        save_image(root / f"{stem}.jpg", seed=i)
        images.append({"id": i, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for label, *box in objects:
            number = len(annotations)
            annotations.append({"id": number, "image_id": i, "category_id": label, "bbox": box, "area": 1.0})
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "all.json").write_text(json.dumps(content))


def write_yolo(root):
    (root / "data.yaml").write_text("train: images\nnames: " + json.dumps(NAMES))
    (root / "labels").mkdir()
    for i, (stem, objects) in enumerate(OBJECTS.items()):
        save_image(root / "images" / f"{stem}.jpg", seed=i)
        lines = [
            f"{label} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}"
            for label, x, y, w, h in objects
        ]
        (root / "labels" / f"{stem}.txt").write_text("\n".join(lines))


def write_voc(root):
    (root / "Annotations").mkdir()
    for i, (stem, objects) in enumerate(OBJECTS.items()):
        save_image(root / "JPEGImages" / f"{stem}.jpg", seed=i)
        items = "".join(
            f"<object><name>{NAMES[label]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for label, x, y, w, h in objects
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{stem}.jpg</filename>{size}{items}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)


def write_labelme(root):
    for i, (stem, objects) in enumerate(OBJECTS.items()):
        save_image(root / f"{stem}.jpg", seed=i)
        shapes = [
            {"label": NAMES[label], "shape_type": "rectangle", "points": [[x + w, y], [x, y + h]]}
            for label, x, y, w, h in objects
        ]
        content = {"shapes": shapes, "imagePath": f"{stem}.jpg", "imageWidth": WIDTH, "imageHeight": HEIGHT}
        (root / f"{stem}.json").write_text(json.dumps(content))


def write_cvat(root):
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    images = ""
    for i, (stem, objects) in enumerate(OBJECTS.items()):
        save_image(root / "images" / f"{stem}.jpg", seed=i)
        boxes = "".join(
            f'<box label="{NAMES[label]}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
            for label, x, y, w, h in objects
        )
        images += f'<image id="{i}" name="{stem}.jpg" width="{WIDTH}" height="{HEIGHT}">{boxes}</image>'
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    (root / "annotations.xml").write_text(f"<?xml version='1.0'?>\n<annotations>{meta}{images}</annotations>")


WRITERS = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "labelme": write_labelme,
    "cvat": write_cvat,
}
