"""What the annotations of one part tell without its images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detkit.data.annotations import id_problem, is_crowd, short, sound_segmentation
from detkit.data.doctor.findings import Finding, Findings
from detkit.data.formats.found import Part
from detkit.ops.segmentations import all_finite

SLACK = 1.0  # pixels that boxes may reach over the border, by rounding
SAME_BOX = 0.95  # intersection over union of two boxes in one place
TINY = 8.0  # pixels at the model's input


class PartCheck:
    """The checks of one part; findings go to `findings`.

    Args:
        name: of the part.
        size: the longer side of images at the model's input, in pixels.
        tokens: the most objects that the model can find in an image.
    """

    def __init__(self, name: str, part: Part, findings: Findings, *, size: int, tokens: int):
        self.name, self.part, self.findings = name, part, findings
        self.size, self.tokens = size, tokens
        self.images = {image["id"]: image for image in part.content["images"]}
        self.classes = {category["id"]: category["name"] for category in part.content["categories"]}
        self._used: set[int] = set()

    def run(self) -> None:
        """Look at all annotations."""
        self._find_images_twice()
        objects = defaultdict(list)
        for position, annotation in enumerate(self.part.content["annotations"]):
            found = self._judge(annotation, position)
            if found is None:
                if not is_crowd(annotation):
                    objects[annotation["image_id"]].append(annotation)
                continue
            kind, what = found
            self._add(kind, annotation, what, position)
        for image_id, group in objects.items():
            self._judge_image(self.images[image_id], group)

    def _judge(self, annotation: Any, position: int) -> tuple[str, str] | None:
        """The kind of an annotation that cannot be used as it is, and why; None for a sound one."""
        if not isinstance(annotation, dict):
            return "unreadable annotations", "is not a dict"
        if reason := id_problem(annotation.get("id")):
            return "unreadable annotations", reason
        if annotation["id"] in self._used:
            return "unreadable annotations", "an earlier annotation has the same id"
        self._used.add(annotation["id"])
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if type(image) is not int or image not in self.images:
            return "orphans", f"there is no image {short(image)}"
        if type(category) is not int or category not in self.classes:
            return "orphans", f"there is no category {short(category)}"
        try:
            is_crowd(annotation)
        except ValueError as error:
            return "unreadable annotations", str(error)
        return self._judge_box(annotation, self.images[image]) or self._judge_mask(annotation, self.images[image])

    def _judge_box(self, annotation: Mapping, image: Mapping) -> tuple[str, str] | None:
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all_finite(box):
            return "unreadable annotations", f"its bbox is {short(box)}, not four finite numbers"
        x, y, width, height = box
        if width <= 0 or height <= 0:
            return "empty boxes", f"its bbox is {short(box)}"
        over = max(-x, -y, x + width - image["width"], y + height - image["height"])
        if over > SLACK:
            what = f"its bbox {short(box)} reaches {over:g} pixels over the border"
            return "boxes outside", what
        return None

    def _judge_mask(self, annotation: Mapping, image: Mapping) -> tuple[str, str] | None:
        if not annotation.get("segmentation"):
            return None
        try:
            sound_segmentation(annotation, image, [])
        except ValueError as error:
            return "unreadable masks", str(error)
        return None

    def _judge_image(self, image: Mapping, objects: Sequence[Mapping]) -> None:
        """Findings on what is together in an image."""
        if len(objects) > self.tokens:
            finding = self._finding(image, f"{len(objects)} objects, {self.tokens} tokens")
            self.findings.add("more objects than tokens", finding)
        boxes = np.array([a["bbox"] for a in objects], dtype=np.float64)
        scale = self.size / max(image["width"], image["height"])
        for annotation, (_, _, width, height) in zip(objects, (boxes * scale).tolist(), strict=True):
            if width * height < TINY**2:
                what = f"has {width:.1f} x {height:.1f} pixels at the model's input"
                self._add("tiny objects", annotation, what)
        for first, second in same_places(boxes, [a["category_id"] for a in objects]):
            twin, other = objects[second], objects[first]
            name = self.classes[other["category_id"]]
            what = f"lies where annotation {other['id']} ({name}) lies"
            self._add("doubled boxes", twin, what, boxes=[other["bbox"], twin["bbox"]])

    def _find_images_twice(self) -> None:
        ids: dict[str, list[int]] = {}
        for image in self.images.values():
            ids.setdefault(os.path.normpath(image["file_name"]), []).append(image["id"])
        for file, found in ids.items():
            if len(found) > 1:
                what = f"{file} has the ids {', '.join(map(str, found[:5]))}"
                self.findings.add("images listed twice", self._finding(self.images[found[0]], what))

    def _finding(self, image: Mapping, what: str, **more: Any) -> Finding:
        where = f"{self.name}: {image['file_name']} (image id {image['id']})"
        path = self.part.image_folder / image["file_name"]
        return Finding(where, what, (path,), **{"ids": {"image_id": image["id"]}, **more})

    def _add(self, kind: str, annotation: Any, what: str, position: int | None = None, boxes: Any = None) -> None:
        """Add a finding on an annotation, which may be broken in any way."""
        content = annotation if isinstance(annotation, dict) else {}
        own, image_id = content.get("id"), content.get("image_id")
        name = f"annotation id {short(own)}" if own is not None else f"annotation number {position}"
        ids = {key: value for key, value in (("annotation_id", own), ("image_id", image_id)) if type(value) is int}
        if type(image_id) is not int or image_id not in self.images:
            self.findings.add(kind, Finding(f"{self.name}: {name}", what, ids=ids))
            return
        boxes = boxes or [content["bbox"]] if _is_box(content.get("bbox")) else []
        finding = self._finding(self.images[image_id], f"{name}: {what}", boxes=boxes, ids=ids)
        self.findings.add(kind, finding)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all_finite(box)


def same_places(boxes: np.ndarray, classes: Sequence[Any]) -> list[tuple[int, int]]:
    """Pairs of boxes `[n, 4]`, x, y, width, height, in one place: of one class nearly, of different classes exactly."""
    if len(boxes) < 2:
        return []
    low, high, area = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
    order = np.argsort(low[:, 0], kind="stable")
    pairs = []
    for place, i in enumerate(order):
        later = order[place + 1 :]
        # Boxes in one place begin at nearly the same x.
        later = later[low[later, 0] <= low[i, 0] + (1 - SAME_BOX) * boxes[i, 2]]
        overlap = (np.minimum(high[i], high[later]) - np.maximum(low[i], low[later])).clip(0).prod(axis=1)
        iou = overlap / (area[i] + area[later] - overlap)
        for j, value in zip(later.tolist(), iou.tolist(), strict=True):
            if value >= (SAME_BOX if classes[i] == classes[j] else 1):
                pairs.append((min(int(i), j), max(int(i), j)))
    return sorted(pairs)
