"""Reading and checking COCO json files, and turning what they say of photos to the upright pictures."""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.config import missing_data_hint
from detkit.data.annotations import id_problem, judge_annotations, short
from detkit.files import refuse_url
from detkit.images import read_frame
from detkit.ops.orientation import Turn
from detkit.ops.segmentations import MOST_PIXELS
from detkit.registry import suggest

logger = logging.getLogger(__name__)

COCO_KEYS: dict[str, dict[str, Any]] = {
    "images": {"id": (int,), "file_name": (str,), "width": (int, float), "height": (int, float)},
    "annotations": {},
    "categories": {"id": (int,), "name": (str,)},
}


def read_coco_file(path: Path, *, masks: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Read a COCO instances file: its images, its categories and the annotations that can be used.

    Args:
        path: the json file.
        masks: whether each annotation needs a segmentation.
        quiet: do not warn of annotations that are left out or mended.

    Raises:
        ValueError: the file cannot be read or is not json (with the line); an image or category lacks a key or repeats
            an id; none of the annotations can be used. The message names the file and up to ten ids.
    """
    content = read_instances(path)
    images = {image["id"]: image for image in content["images"]}
    judged = judge_annotations(content["annotations"], images, {c["id"] for c in content["categories"]}, masks=masks)
    if not quiet:
        judged.report(path)
        warn_of_doubles(content, path)
    return {**content, "annotations": judged.annotations}


def find_image_folder(path: str | Path) -> Path:
    """The folder with the images of a COCO json: beside it, or in `images`, or in a folder of its name.

    Raises:
        ValueError: the file cannot be used, or its first image is in none of them.
    """
    path = Path(path)
    images = read_instances(path)["images"]
    beside = path.parent
    folders = [beside, beside / "images", beside / path.stem, beside / "images" / path.stem]
    for folder in folders:
        if images and (folder / images[0]["file_name"]).is_file():
            return folder
    name = images[0]["file_name"] if images else "an image"
    raise ValueError(f"{path}: {name} is in none of {', '.join(map(str, folders))}: give the folder with --images")


def read_instances(path: str | Path) -> dict[str, Any]:
    """The content of a COCO json whose images and categories are in order; its annotations are not looked at.

    Raises:
        ValueError: the file cannot be read, is not json, or has broken lists of images or categories.
    """
    path = Path(path)
    content = load_json(path)
    for section in ("images", "categories"):
        check_section(content, section, COCO_KEYS[section], path)
    for position, image in enumerate(content["images"]):
        _check_image(image, f"{path}: images[{position}] (id {image['id']})")
    for position, category in enumerate(content["categories"]):
        if not category["name"].strip():
            raise ValueError(f"{path}: categories[{position}] (id {category['id']}) has an empty name; give it one")
        if not _encodable(category["name"]):
            name = f"categories[{position}] (id {category['id']}) has the name {category['name'][:60]!r}"
            raise ValueError(f"{path}: {name}, which is no text: half of a surrogate pair")
    if not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path}: no list "annotations"; a COCO file has {", ".join(COCO_KEYS)}')
    return content


def warn_of_doubles(content: dict[str, Any], path: str | Path) -> None:
    """Warn of classes of one name and of files that are listed as several images."""
    for section, key, what in (("categories", "name", "name"), ("images", "file_name", "file")):
        ids: dict[str, list[int]] = {}
        for item in content[section]:
            value = posixpath.normpath(item[key]) if key == "file_name" else item[key]
            ids.setdefault(value, []).append(item["id"])
        double = [f"{value} ({', '.join(map(str, found[:5]))})" for value, found in ids.items() if len(found) > 1]
        if double:
            message = "%s: %d times one %s under several ids of %s: %s"
            logger.warning(message, path, len(double), what, section, ", ".join(double[:10]))


def _check_image(image: dict[str, Any], name: str) -> None:
    """Check the file name and the size of an image."""
    if "\0" in image["file_name"] or not _encodable(image["file_name"]):
        raise ValueError(f"{name} has the file_name {image['file_name'][:60]!r}, which cannot be that of a file")
    check_size(image, name)


def _encodable(text: str) -> bool:
    try:
        return bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def check_size(image: dict[str, Any], name: str) -> None:
    """Make the width and the height of an image whole numbers.

    Raises:
        ValueError: they are not whole numbers of pixels from 1, or more than a mask can have.
    """
    for key in ("width", "height"):
        value = image[key]
        if type(value) not in (int, float) or not 1 <= value <= MOST_PIXELS or value != int(value):
            raise ValueError(f"{name} has {key} {short(value)}, not a whole number of pixels from 1")
        image[key] = int(value)
    if image["width"] * image["height"] > MOST_PIXELS:
        size = f"{image['width']} x {image['height']}"
        raise ValueError(f"{name} has {size} pixels, more than the {MOST_PIXELS} of the largest mask")


def select_categories(categories: list[dict], classes: Sequence[str] | None) -> list[dict]:
    """The categories named by `classes` (all for None) in the order of their ids.

    Raises:
        ValueError: a name is unknown, or nothing is selected.
    """
    names = {c["name"] for c in categories}
    for name in classes or ():
        if name not in names:
            raise ValueError(f"no class {name!r}{suggest(name, names)}")
    selected = [c for c in categories if classes is None or c["name"] in classes]
    if not selected:
        raise ValueError("no classes" if classes is None else "classes is empty; leave it out to keep all")
    return sorted(selected, key=lambda c: c["id"])


def load_json(path: Path) -> Any:
    """The content of a json file in UTF-8 (or UTF-16 or UTF-32), with or without byte order mark.

    Raises:
        ValueError: the path is a URL, or the file cannot be read or is not json (with the line).
    """
    refuse_url(path)
    try:
        text = _decode(Path(path).read_bytes())
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not json: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#x} at position {error.start}"
        raise ValueError(f"{path} is not in UTF-8 ({byte}; perhaps Latin-1): save it as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be an annotation file") from error
    except ValueError as error:
        raise ValueError(f"{path} holds a number of thousands of digits") from error
    except OSError as error:
        raise ValueError(f"cannot read annotation file {path}: {error}{missing_data_hint(path)}") from error


def _decode(content: bytes) -> str:
    encoding = json.detect_encoding(content)
    return content.decode(encoding)


def check_section(content: Any, section: str, keys: dict[str, Any], path: Path) -> None:
    """Check that a file has a list of items of that name, each with `keys` of the types given and an id of its own.

    Raises:
        ValueError: one that has not; the message names the file and the items.
    """
    items, name = content.get(section) if isinstance(content, dict) else None, f"{path}: {section}"
    if not isinstance(items, list):
        raise ValueError(f'{path}: no list "{section}"; a COCO file has {", ".join(COCO_KEYS)}')
    for position, item in enumerate(items):
        for key, kinds in keys.items():
            if not isinstance(item, dict) or key not in item:
                known = f" (id {short(item['id'])})" if isinstance(item, dict) and "id" in item else ""
                raise ValueError(f"{name}[{position}]{known} lacks {key!r}")
            if key == "id" and (reason := id_problem(item[key])):
                raise ValueError(f"{name}[{position}] {reason}")
            if key != "id" and type(item[key]) not in kinds:
                known = f" (id {short(item['id'])})" if "id" in item else ""
                raise ValueError(f"{name}[{position}]{known} has {key} {short(item[key])}, which is of the wrong type")
    repeated = [i for i, count in Counter(item["id"] for item in items).items() if count > 1]
    if repeated:
        raise ValueError(f"{name} repeats {len(repeated)} ids: {', '.join(map(str, repeated[:10]))}")


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
