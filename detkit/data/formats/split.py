"""Splitting a dataset into training and validation: by class, by group or by time."""

from __future__ import annotations

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from detkit.data.formats.found import FoundDataset, Part
from detkit.data.formats.parts import take_images

BY = ("class", "group", "time")
EXIF_FOLDER, EXIF_TAKEN, EXIF_CHANGED = 0x8769, 0x9003, 0x0132
Images = Sequence[Mapping[str, Any]]
Chosen = tuple[set[int], str]  # ids of the images for validation, and a sentence on how they were chosen


def split_dataset(
    found: FoundDataset, by: str, *, val_share: float = 0.2, seed: int = 0, group: str | None = None
) -> tuple[FoundDataset, str]:
    """Split the images of train and val anew; a part "test" stays.

    Args:
        by: "class": each class has about its share of objects in validation, rare classes first. "group": images of
            one group stay together. "time": the latest images are for validation.
        val_share: the part of the images, 0 to 1, for validation.
        seed: of the draw by class or group.
        group: a field of the images in a COCO json that names their group; by default the group is the folder and the
            name of the file up to its last hyphen, underscore or space.

    Returns:
        The dataset with the new parts, and a sentence on the split.

    Raises:
        ValueError: fewer than two images or groups, or images without the field `group`.
    """
    if by not in BY:
        raise ValueError(f"by must be one of {', '.join(BY)}, got {by!r}")
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must lie between 0 and 1, got {val_share}")
    whole = join_parts([found.parts[name] for name in ("train", "val") if name in found.parts])
    images = whole.content["images"]
    if len(images) < 2:
        raise ValueError(f"{found.root}: {len(images)} images to split, at least two are needed")
    wanted = min(max(1, round(len(images) * val_share)), len(images) - 1)
    chosen, how = {
        "class": lambda: _by_class(whole, wanted, seed),
        "group": lambda: _by_group(images, wanted, seed, group),
        "time": lambda: _by_time(whole, wanted),
    }[by]()
    rest = {image["id"] for image in images} - chosen
    parts = {"train": take_images(whole, rest), "val": take_images(whole, chosen)}
    parts |= {name: part for name, part in found.parts.items() if name == "test"}
    return FoundDataset(found.format, found.root, parts), f"{len(rest)} images to train, {len(chosen)} to val {how}"


def join_parts(parts: Sequence[Part]) -> Part:
    """Parts as one; classes meet by name. Ids stay where none is there twice, else they are given anew."""
    if len(parts) < 2:
        return parts[0] if parts else Part({"images": [], "annotations": [], "categories": []}, Path())
    folder = Path(os.path.commonpath([os.path.abspath(part.image_folder) for part in parts]))
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": _join_categories(parts)}
    numbers = {category["name"]: category["id"] for category in content["categories"]}
    new_images, new_objects = (_repeats(parts, section) for section in ("images", "annotations"))
    for part in parts:
        below = os.path.relpath(os.path.abspath(part.image_folder), folder)
        names = {c["id"]: c["name"] for c in part.content["categories"]}
        ids = {}
        for image in part.content["images"]:
            ids[image["id"]] = len(content["images"]) + 1 if new_images else image["id"]
            file_name = PurePosixPath(below, image["file_name"]).as_posix()
            content["images"].append({**image, "id": ids[image["id"]], "file_name": file_name})
        for a in part.content["annotations"]:
            if isinstance(a, dict) and a.get("image_id") in ids and a.get("category_id") in names:
                own = {"id": len(content["annotations"]) + 1} if new_objects else {}
                own |= {"image_id": ids[a["image_id"]], "category_id": numbers[names[a["category_id"]]]}
                content["annotations"].append({**a, **own})
    return Part(content, folder)


def _join_categories(parts: Sequence[Part]) -> list[dict[str, Any]]:
    first = parts[0].content["categories"]
    tables = [{c["id"]: c["name"] for c in part.content["categories"]} for part in parts]
    if all(table == tables[0] for table in tables) and len(set(tables[0].values())) == len(first):
        return first
    names = dict.fromkeys(table[key] for table in tables for key in sorted(table))
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]


def _repeats(parts: Sequence[Part], section: str) -> bool:
    """Whether an id is there twice."""
    ids = [item.get("id") for part in parts for item in part.content[section] if isinstance(item, dict)]
    return len(set(map(str, ids))) < len(ids)


def _by_class(part: Part, wanted: int, seed: int) -> Chosen:
    """Fill validation class by class, the rarest first, each with its share of objects; empty images are a class."""
    images = _shuffled([image["id"] for image in part.content["images"]], seed)
    objects: dict[int, Counter[Any]] = {image_id: Counter() for image_id in images}
    for annotation in part.content["annotations"]:
        if isinstance(annotation, dict) and annotation.get("image_id") in objects:
            objects[annotation["image_id"]][str(annotation.get("category_id"))] += 1
    for counts in objects.values():
        if not counts:
            counts[""] = 1
    totals = sum(objects.values(), Counter[Any]())
    missing = {key: count * wanted / len(images) for key, count in totals.items()}
    chosen: set[int] = set()

    def choose(image_id: int) -> None:
        chosen.add(image_id)
        for key, count in objects[image_id].items():
            missing[key] -= count

    for key, _ in sorted(totals.items(), key=lambda item: (item[1], item[0])):
        for image_id in images:
            fits = all(count <= missing[k] + 0.5 for k, count in objects[image_id].items())
            if objects[image_id][key] and fits and image_id not in chosen and len(chosen) < wanted:
                choose(image_id)
    while len(chosen) < wanted:  # what comes nearest
        rest = (image_id for image_id in images if image_id not in chosen)
        choose(min(rest, key=lambda i: sum(max(0.0, count - missing[k]) for k, count in objects[i].items())))
    return chosen, "by class"


def _by_group(images: Images, wanted: int, seed: int, field: str | None) -> Chosen:
    """Take groups, in the order of a draw, as long as they fit."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for image in images:
        groups[_group_of(image, field)].append(image["id"])
    if len(groups) < 2 or len(groups) == len(images):
        by = f"by the field {field!r}" if field else "by the beginnings of their names (up to the last hyphen, ...)"
        what = "all images would be one group" if len(groups) < 2 else "each image would be a group of its own"
        raise ValueError(f"{what}, {by}: name a field of the images with --group FIELD")
    order = _shuffled(sorted(groups, key=str), seed)
    taken: list[Any] = []
    room = wanted
    for group in order:
        if len(groups[group]) <= room:
            taken.append(group)
            room -= len(groups[group])
    taken = taken or [min(order, key=lambda group: len(groups[group]))]
    return {i for group in taken for i in groups[group]}, f"by group: {len(taken)} of {len(groups)} groups to val"


def _group_of(image: Mapping[str, Any], field: str | None) -> Any:
    if field is None:
        path = PurePosixPath(image["file_name"])
        return str(path.parent / re.sub(r"[-_ ][^-_ ]*$", "", path.stem))
    value = image.get(field)
    if value is None or isinstance(value, (dict, list)):
        raise ValueError(f"image id {image['id']} ({image['file_name']}) has no {field!r} that names a group")
    return value


def _by_time(part: Part, wanted: int) -> Chosen:
    times = {image["id"]: _time_of(image, part.image_folder) for image in part.content["images"]}
    order = sorted(times, key=lambda image_id: (times[image_id][0], image_id))
    border = times[order[-wanted]][0]
    sources = ", ".join(f"{count} from {name}" for name, count in Counter(name for _, name in times.values()).items())
    return set(order[-wanted:]), f"by time, from {border:%Y-%m-%d %H:%M:%S} on (times: {sources})"


def _time_of(image: Mapping[str, Any], folder: Path) -> tuple[datetime, str]:
    """When an image was taken, and what tells it."""
    path = folder / image["file_name"]
    readers: dict[str, Callable[[], datetime | None]] = {
        "date_captured": lambda: _parsed(image.get("date_captured")),
        "EXIF": lambda: _exif_time(path),
    }
    for name, read in readers.items():
        if (time := read()) is not None:
            return time, name
    return datetime.fromtimestamp(path.stat().st_mtime), "the time of the last change of the file"


def _parsed(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=None)
    except (AttributeError, ValueError):
        return None


def _exif_time(path: Path) -> datetime | None:
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            text = exif.get_ifd(EXIF_FOLDER).get(EXIF_TAKEN) or exif.get(EXIF_CHANGED)
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except Exception:  # no EXIF data, or damaged ones
        return None


def _shuffled(values: Sequence[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(values, len(values))
