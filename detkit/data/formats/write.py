"""Writing a dataset as COCO json, YOLO or Pascal VOC, its images with it."""

from __future__ import annotations

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from detkit.data.annotations import judge_annotations, sound_segmentation
from detkit.data.formats.found import FoundDataset, Part
from detkit.files import write_json
from detkit.images import read_frame
from detkit.ops.masks.outlines import join_polygons, mask_outlines, polygon_area
from detkit.ops.orientation import Turn
from detkit.ops.rle import decode_mask

logger = logging.getLogger(__name__)
Objects = Mapping[int, Sequence[Mapping[str, Any]]]  # by image id


def write_dataset(found: FoundDataset, out: str | Path, to: str = "coco") -> None:
    """Write a dataset in another format to a new folder: whole, or not at all.

    Images are linked where the file system can (they take no space), else copied. In YOLO and VOC objects are in pixels
    of the upright picture and end at its border; crowd regions are left out. YOLO has a polygon where an object has a
    segmentation. VOC has whole pixels and no segmentations; classes without an object are lost.

    Args:
        found: the dataset.
        out: a folder that does not exist, or is empty.
        to: "coco" (`train.json`, ... and `images/train`, ...), "yolo" (`data.yaml`, `images`, `labels`) or "voc"
            (`Annotations`, `JPEGImages`, `ImageSets/Main`).

    Raises:
        ValueError: the folder holds something, or no annotation of a part can be used; for YOLO and VOC also an image
            that cannot be read or has another size than its annotations say.
    """
    if to not in WRITERS:
        raise ValueError(f"to must be one of {', '.join(WRITERS)}, got {to!r}")
    with _new_folder(Path(out)) as folder:
        WRITERS[to](found, folder)
    _report_losses(found, to)


def _report_losses(found: FoundDataset, to: str) -> None:
    """Warn of what the format cannot say."""
    annotations = [a for part in found.parts.values() for a in part.content["annotations"] if isinstance(a, dict)]
    lost = {"crowd regions": sum(a.get("iscrowd") in (1, True) for a in annotations)} if to != "coco" else {}
    lost |= {"segmentations": sum(bool(a.get("segmentation")) for a in annotations)} if to == "voc" else {}
    if listed := ", ".join(f"{count} {what}" for what, count in lost.items() if count):
        logger.warning("%s cannot hold them and they are left out: %s", to, listed)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when all is written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another one, nothing is overwritten")
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.tmp")
    stage.mkdir()
    try:
        yield stage
        os.replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_coco(found: FoundDataset, folder: Path) -> None:
    for name, part in found.parts.items():
        kept = [image["file_name"] for image in part.content["images"]]
        names = kept if all(map(_is_inside, kept)) and len(set(kept)) == len(kept) else unique_names(kept)
        for old, new in zip(kept, names, strict=True):
            _place_image(part.image_folder / old, folder / "images" / name / new)
        images = [{**image, "file_name": new} for image, new in zip(part.content["images"], names, strict=True)]
        write_json(folder / f"{name}.json", {**part.content, "images": images})


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in PurePosixPath(name).parts


def _write_yolo(found: FoundDataset, folder: Path) -> None:
    import yaml

    numbers = {name: number for number, name in enumerate(found.names)}
    for name, part in found.parts.items():
        objects, labels = _usable_objects(part, found.root), _class_names(part)
        names = unique_names([image["file_name"] for image in part.content["images"]])
        (folder / "labels" / name).mkdir(parents=True)
        for image, new in zip(part.content["images"], names, strict=True):
            source = part.image_folder / image["file_name"]
            turn = _turn(image, source)
            lines = [_yolo_line(a, image, numbers[labels[a["category_id"]]], turn) for a in objects[image["id"]]]
            _place_image(source, folder / "images" / name / new)
            (folder / "labels" / name / new).with_suffix(".txt").write_text("".join(lines))
    settings = {name: f"images/{name}" for name in found.parts} | {"names": dict(enumerate(found.names))}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1000)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _yolo_line(annotation: Mapping[str, Any], image: Mapping[str, Any], number: int, turn: Turn) -> str:
    height, width = turn.size
    if polygons := _polygons(annotation, image, turn):
        values = [_part(value, height if i % 2 else width) for i, value in enumerate(join_polygons(polygons))]
    else:
        x1, y1, x2, y2 = _clipped(turn.annotation({"bbox": annotation["bbox"]})["bbox"], turn.size)
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return f"{number} {' '.join(f'{value:.12g}' for value in values)}\n"


def _polygons(annotation: Mapping[str, Any], image: Mapping[str, Any], turn: Turn) -> list[list[float]]:
    """The upright polygons of an object; none where it has no segmentation, or one that cannot be used."""
    if not annotation.get("segmentation"):
        return []
    try:
        segmentation = turn.segmentation(sound_segmentation(annotation, image, []))
    except ValueError as error:
        logger.warning("annotation %s is written as a box: %s", annotation["id"], error)
        return []
    if isinstance(segmentation, dict):
        return mask_outlines(decode_mask(segmentation, *segmentation["size"]))
    if len(segmentation) == 1:
        return segmentation
    mask = decode_mask(segmentation, *turn.size)
    overlap = (mask != decode_mask([join_polygons(segmentation)], *turn.size)).any()
    return mask_outlines(mask) if overlap else [_one_way_round(polygon) for polygon in segmentation]


def _one_way_round(polygon: list[float]) -> list[float]:
    """The polygon with its corners in the order that gives it a positive area."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    return polygon if polygon_area(polygon) >= 0 else [value for corner in corners[::-1] for value in corner]


def _part(value: float, side: int) -> float:
    return min(max(value / side, 0.0), 1.0)


def _write_voc(found: FoundDataset, folder: Path) -> None:
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    olds = {name: [image["file_name"] for image in part.content["images"]] for name, part in found.parts.items()}
    news = iter(unique_names([f"{name}/{old}" for name, names in olds.items() for old in names]))
    for name, part in found.parts.items():
        objects, labels, stems = _usable_objects(part, found.root), _class_names(part), []
        for image in part.content["images"]:
            new, source = next(news), part.image_folder / image["file_name"]
            tree = _voc_tree(image, new, _turn(image, source), objects[image["id"]], labels)
            _place_image(source, folder / "JPEGImages" / new)
            stems.append(Path(new).stem)
            tree.write(folder / "Annotations" / f"{stems[-1]}.xml", encoding="utf-8")
        text = "".join(f"{stem}\n" for stem in stems)
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text, encoding="utf-8")


def _voc_tree(
    image: Mapping[str, Any],
    file_name: str,
    turn: Turn,
    objects: Sequence[Mapping[str, Any]],
    labels: Mapping[int, str],
) -> ElementTree:
    root = Element("annotation")
    _add(root, folder="JPEGImages", filename=file_name)
    _add(SubElement(root, "size"), width=turn.size[1], height=turn.size[0], depth=3)
    _add(root, segmented=0)
    for annotation in objects:
        item = SubElement(root, "object")
        flags = {flag: int(bool(annotation.get(flag))) for flag in ("truncated", "difficult")}
        _add(item, name=labels[annotation["category_id"]], pose="Unspecified", **flags)
        box = _clipped(turn.annotation({"bbox": annotation["bbox"]})["bbox"], turn.size)
        x1, y1, x2, y2 = (int(value + 0.5) for value in box)
        x1, y1 = min(x1, turn.size[1] - 1), min(y1, turn.size[0] - 1)
        _add(SubElement(item, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=max(x2, x1 + 1), ymax=max(y2, y1 + 1))
    indent(root)
    return ElementTree(root)


def _add(element: Element, **texts: Any) -> None:
    for tag, text in texts.items():
        SubElement(element, tag).text = str(text)


def _clipped(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The corners x1, y1, x2, y2 of a box x, y, width, height inside of an image of (h, w) `size`."""
    x, y, width, height = box
    return max(x, 0.0), max(y, 0.0), min(x + width, float(size[1])), min(y + height, float(size[0]))


def _turn(image: Mapping[str, Any], file: Path) -> Turn:
    """How annotations get to the upright picture, whose size it has.

    Raises:
        ValueError: the image cannot be read, or has another size than the annotations say.
    """
    frame, stated = read_frame(file), (image["height"], image["width"])
    if stated not in (frame.size, frame.stored_size):
        size = f"{frame.size[1]} x {frame.size[0]} pixels, its annotations say {stated[1]} x {stated[0]}"
        raise ValueError(f"{file} (image id {image['id']}) has {size}: correct it, `detkit data doctor` lists all such")
    return Turn.of(frame, stated)


def _class_names(part: Part) -> dict[int, str]:
    return {category["id"]: category["name"] for category in part.content["categories"]}


def _usable_objects(part: Part, root: Path) -> Objects:
    """The annotations of each image that can be used; the others are reported."""
    content = part.content
    images = {image["id"]: image for image in content["images"]}
    judged = judge_annotations(content["annotations"], images, set(_class_names(part)))
    judged.report(root)
    objects = defaultdict(list)
    for annotation in judged.annotations:
        if not annotation["iscrowd"]:
            objects[annotation["image_id"]].append(annotation)
    return objects


def unique_names(paths: Sequence[str]) -> list[str]:
    """A name for each of some paths, with a stem of its own: `a.jpg`, or with its folders where there are several."""
    used: set[str] = set()
    names = []
    for path in map(PurePosixPath, paths):
        folders = [part for part in path.parts[:-1] if part not in ("/", "..")]
        for stem in _stems(folders, path.stem):
            if stem.casefold() not in used:
                used.add(stem.casefold())
                names.append(stem + path.suffix)
                break
    return names


def _stems(folders: Sequence[str], stem: str) -> Iterator[str]:
    yield stem
    yield "_".join([*folders, stem])
    number = 1
    while True:
        number += 1
        yield f"{stem}_{number}"


def _place_image(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(real, target)


WRITERS: dict[str, Callable[[FoundDataset, Path], None]] = {
    "coco": _write_coco,
    "yolo": _write_yolo,
    "voc": _write_voc,
}
