"""Pascal VOC datasets: an XML file for each image.

Boxes count pixels from 1 and both ends belong to them: xmin 1 and xmax 10 are ten pixels, x from 0 to 10.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from detkit.data.formats.files import ImageIndex, finite, read_xml
from detkit.data.formats.found import ContentBuilder, FoundDataset, Problems, part_of_path
from detkit.images import read_frame

FLAGS = ("difficult", "truncated")


def read_voc(root: Path, files: Sequence[Path], problems: Problems) -> FoundDataset:
    """Read the XML files of a dataset; the parts are those of ImageSets/Main, or folders named train, val, test.

    Classes are numbered in the order of their names: VOC has no list of them.

    Raises:
        ValueError: see `Problems`.
    """
    index, listed = ImageIndex(root), _read_lists(root)
    builders: dict[str, ContentBuilder] = {}
    for file in files:
        part = listed.get(file.stem) if listed else part_of_path(file, root)
        if part is None:
            problems.note("annotations in no part", file, "is in none of the lists in ImageSets/Main")
            continue
        with problems.guard("unreadable annotations", file):
            _add_file(builders.setdefault(part, ContentBuilder()), file, index, problems)
    keys = sorted({a["category_id"] for builder in builders.values() for a in builder.annotations})
    names = {key: key for key in keys}
    order = [part for part in ("train", "val", "test") if part in builders]
    return FoundDataset("voc", root, {part: builders[part].finish(names, root) for part in order})


def _read_lists(root: Path) -> dict[str, str]:
    """The part of each file that ImageSets/Main names; trainval is train where there is no list of train."""
    folder = next((place for place in (root / "ImageSets" / "Main", root / "ImageSets") if place.is_dir()), None)
    parts: dict[str, str] = {}
    if folder is None:
        return parts
    first = "train" if (folder / "train.txt").is_file() else "trainval"
    for stem, part in ((first, "train"), ("val", "val"), ("test", "test")):
        file = folder / f"{stem}.txt"
        if file.is_file():
            for line in file.read_text(encoding="utf-8-sig").splitlines():
                if name := re.sub(r"\s+-?[01]$", "", line.strip()):  # lists of one class say 1 or -1 behind the name
                    parts.setdefault(Path(name).name.removesuffix(".xml"), part)
    return parts


def _add_file(builder: ContentBuilder, file: Path, index: ImageIndex, problems: Problems) -> None:
    element = read_xml(file)
    if element.tag != "annotation":
        raise ValueError(f"has the root <{element.tag[:40]}>, not <annotation>")
    name = (element.findtext("filename") or "").strip()
    found = (index.find(name, file.parent) if name else None) or index.find(f"{file.stem}.jpg", file.parent)
    if found is None:
        problems.error("missing images", file, f"its image {name or file.stem} is not in {index.root}")
        return
    width, height = _size(element, index.root / found)
    image_id = builder.add_image(found, width, height)
    for number, item in enumerate(element.findall("object"), 1):
        with problems.guard("unreadable annotations", f"{file}: object {number}"):
            _add_object(builder, image_id, item)


def _add_object(builder: ContentBuilder, image_id: int, item: Element) -> None:
    key = (item.findtext("name") or "").strip()
    if not key:
        raise ValueError("has no name")
    flags = {flag: 1 for flag in FLAGS if (item.findtext(flag) or "").strip() == "1"}
    builder.add_object(image_id, key, _box(item), **flags)


def _size(element: Element, image: Path) -> tuple[int, int]:
    """Width and height in the file; those of the image where it says none or 0."""
    texts = [element.findtext(f"size/{key}") for key in ("width", "height")]
    if all(texts):
        width, height = (int(finite(text, "the size")) for text in texts)
        if width > 0 and height > 0:
            return width, height
    height, width = read_frame(image).size
    return width, height


def _box(item: Element) -> tuple[float, float, float, float]:
    values = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = item.findtext(f"bndbox/{key}")
        if text is None:
            raise ValueError(f"has no bndbox/{key}")
        values.append(finite(text, key))
    x1, y1, x2, y2 = values
    return x1 - 1, y1 - 1, x2, y2
