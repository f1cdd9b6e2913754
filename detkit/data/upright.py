"""COCO files whose annotations mean the stored pixels of photos, brought to the pixels of the upright pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detkit.images import read_frame
from detkit.ops.orientation import Turn


def turn_content(content: dict[str, Any], image_folder: str | Path) -> dict[str, Any]:
    """The content of a COCO file with images and annotations in pixels of the upright pictures.

    A photo whose width and height are those of its stored pixels, not those of the upright picture, is turned with its
    boxes, masks and points. Images that cannot be read, and annotations of another form, stay as they are.
    """
    turns = {image["id"]: turn for image in content["images"] if (turn := find_turn(image, image_folder))}
    if not turns:
        return content
    images = [_turned_image(image, turns.get(image["id"])) for image in content["images"]]
    annotations = [_turned(annotation, turns) for annotation in content["annotations"]]
    return {**content, "images": images, "annotations": annotations}


def find_turn(image: dict[str, Any], image_folder: str | Path) -> Turn | None:
    """How to turn what is annotated on an image of a COCO file; None where nothing has to be turned."""
    try:
        frame = read_frame(os.path.join(image_folder, image["file_name"]))
    except ValueError:  # reported where the image is read
        return None
    return Turn.of(frame, (image["height"], image["width"])) or None


def _turned_image(image: dict[str, Any], turn: Turn | None) -> dict[str, Any]:
    return image if turn is None else {**image, "height": turn.size[0], "width": turn.size[1]}


def _turned(annotation: Any, turns: dict[int, Turn]) -> Any:
    try:
        turn = turns.get(annotation.get("image_id"))
        return annotation if turn is None else turn.annotation(annotation)
    except (ValueError, TypeError, AttributeError):  # reported where the annotation is used
        return annotation
