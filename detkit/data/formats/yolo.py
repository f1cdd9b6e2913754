"""YOLO datasets: a data.yaml, folders of images, and a text file of boxes or polygons for each image.

A line is `class x y width height`, centre and size of a box, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon; all as parts
of the width and height of the upright picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detkit.data.formats.files import finite, walk
from detkit.data.formats.found import ContentBuilder, FoundDataset, Problems, polygon_box, tidy
from detkit.images import IMAGE_SUFFIXES, read_frame

KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
FARTHEST = 10.0  # larger values are meant in pixels


def read_yolo(file: Path, problems: Problems) -> FoundDataset:
    """Read the dataset that a data.yaml describes.

    Raises:
        ValueError: it is broken, or names a folder that does not exist or has no images; and see `Problems`.
    """
    settings = read_settings(file)
    names = _class_names(settings, file)
    root = _root(settings, file)
    parts = {}
    for part, keys in KEYS.items():
        given = next((settings[key] for key in keys if settings.get(key)), None)
        if given is None:
            continue
        images, folder = _find_images(given, part, root, file)
        builder = ContentBuilder()
        for image in images:
            _add_image(builder, image, folder, len(names), bool(settings.get("kpt_shape")), problems)
        _note_orphans(images, problems)
        parts[part] = builder.finish(dict(enumerate(names)), folder)
    if not parts:
        raise ValueError(f"{file}: names none of train, val and test")
    return FoundDataset("yolo", root, parts)


def read_settings(file: Path) -> dict[str, Any]:
    """The content of a data.yaml.

    Raises:
        ValueError: it cannot be read or is no mapping; the message names the line.
    """
    import yaml

    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{file} is broken YAML{line}: {error.problem}") from error
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: must be a list of names and values such as `train: images/train`")
    return settings


def _class_names(settings: dict[str, Any], file: Path) -> list[str]:
    names, count = settings.get("names"), settings.get("nc")
    if names is None and isinstance(count, int):
        names = [f"class_{number}" for number in range(count)]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(
                f"{file}: names must be numbered from 0 without gaps, got {', '.join(map(str, names))[:80]}"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{file}: names must list the classes, such as `names: [cat, dog]`")
    if isinstance(count, int) and count != len(names):
        raise ValueError(f"{file}: nc is {count}, but names has {len(names)} classes")
    for number, name in enumerate(names):
        if isinstance(name, (dict, list)) or not str(name).strip():
            raise ValueError(f"{file}: the name of class {number} is {name!r}, not a text")
    return [str(name) for name in names]


def _root(settings: dict[str, Any], file: Path) -> Path:
    """The folder that the paths in data.yaml begin at: `path` if it is there, else that of the file."""
    given = settings.get("path")
    if given is None or not str(given).strip():
        return file.parent
    for place in (file.parent / str(given), Path(str(given))):
        if place.is_dir():
            return Path(os.path.normpath(place))
    return file.parent  # written on another machine


def _find_images(given: Any, part: str, root: Path, file: Path) -> tuple[list[Path], Path]:
    """The images of a part, and the folder that holds them all."""
    images: list[Path] = []
    folders: list[Path] = []
    for entry in given if isinstance(given, list) else [given]:
        place = _existing(str(entry), root, file)
        if place is None:
            raise ValueError(f"{file}: {part} is {str(entry)!r}, but {root / str(entry)} does not exist")
        if place.is_dir():
            found = [path for path in walk(place) if path.suffix.lower() in IMAGE_SUFFIXES]
            folders.append(place)
        else:
            found = _listed(place, root)
            folders += {path.parent for path in found}
        images += found
    if not images:
        raise ValueError(f"{file}: {part} is {given!r}, where no images are")
    return images, Path(os.path.commonpath(folders))


def _existing(entry: str, root: Path, file: Path) -> Path | None:
    """A path in data.yaml; Roboflow's `../train/images` is meant from the folder of the file."""
    places = [root / entry, file.parent / entry, file.parent / entry.removeprefix("../")]
    return next((Path(os.path.normpath(place)) for place in places if place.exists()), None)


def _listed(file: Path, root: Path) -> list[Path]:
    """The images that a text file lists, one a line, from the folder of the dataset.

    Raises:
        ValueError: one lies outside of it.
    """
    images, scope = [], os.path.abspath(root)
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not (name := line.strip()):
            continue
        place = os.path.normpath(os.path.join(scope, name))
        if os.path.commonpath([scope, place]) != scope:
            raise ValueError(f"{file} line {number}: {name[:100]} lies outside of {root}")
        images.append(root / os.path.relpath(place, scope))
    return images


def label_file(image: Path) -> Path:
    """The text file of an image: under "labels" where the image is under "images", else beside it."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _add_image(
    builder: ContentBuilder, image: Path, folder: Path, classes: int, keypoints: bool, problems: Problems
) -> None:
    try:
        height, width = read_frame(image).size
    except ValueError as error:
        kind = "unreadable images" if image.is_file() else "missing images"
        problems.error(kind, image, str(error).removeprefix(f"cannot read image {image}: "))
        return
    image_id = builder.add_image(image.relative_to(folder).as_posix(), width, height)
    labels = label_file(image)
    for number, words in _lines(labels, problems):
        with problems.guard("unreadable annotations", f"{labels} line {number}"):
            key, box, polygon = _parse(words[:5] if keypoints else words, classes, width, height)
            builder.add_object(image_id, key, box, polygon)


def _lines(file: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    try:
        text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        problems.error("unreadable annotations", file, f"cannot be read: {error}")
        return
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.split():
            yield number, words


def _parse(words: Sequence[str], classes: int, width: int, height: int) -> tuple[int, Any, Any]:
    """Class, box x1, y1, x2, y2 and polygons of a line.

    Raises:
        ValueError: it is none; the message says why.
    """
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise ValueError(f"has {len(words)} numbers; a box has 5 (class x y width height), a polygon 7, 9, 11, ...")
    key, *values = (finite(word, "a value") for word in words)
    if key != int(key) or not 0 <= key < classes:
        raise ValueError(f"class {words[0]} is none of the {classes} in data.yaml, which count from 0 to {classes - 1}")
    if max(map(abs, values)) > FARTHEST:
        raise ValueError(f"has the coordinate {max(values, key=abs):g}; all must be parts of the image, 0 to 1")
    if len(values) == 4:
        x, y, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
        return int(key), (x - w / 2, y - h / 2, x + w / 2, y + h / 2), None
    points = [tidy(value * (height if i % 2 else width)) for i, value in enumerate(values)]
    return int(key), polygon_box(points), [points]


def _note_orphans(images: Sequence[Path], problems: Problems) -> None:
    expected = {label_file(image) for image in images}
    for folder in sorted({file.parent for file in expected}):
        for file in sorted(folder.glob("*.txt")):
            if file not in expected and file.name not in ("classes.txt", "train.txt", "val.txt", "test.txt"):
                problems.note("annotations without image", file, "there is no image of this name")
