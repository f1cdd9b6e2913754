"""Finding out which format a dataset has, and reading it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from detkit.data.formats.coco import read_coco
from detkit.data.formats.cvat import read_cvat
from detkit.data.formats.files import walk
from detkit.data.formats.found import FoundDataset, Problems
from detkit.data.formats.labelme import read_labelme
from detkit.data.formats.voc import read_voc
from detkit.data.formats.yolo import read_yolo
from detkit.files import refuse_url

FORMATS = ("coco", "yolo", "voc", "labelme", "cvat")
HEAD_BYTES = 65536  # that tell what a json or XML file is
LISTED_MISSING = 5
Files = dict[str, list[Path]]  # by format


def find_dataset(path: str | Path, format: str | None = None, *, problems: Problems | None = None) -> FoundDataset:
    """Find and read a dataset for detection, whatever its format.

    Args:
        path: a folder; a data.yaml of YOLO; a json of COCO or LabelMe; an XML file of CVAT or Pascal VOC.
        format: one of `FORMATS`, where a folder holds several.
        problems: where to put what is wrong; by default the first error is raised and notes are logged. With problems
            that are not strict, images may be missing.

    Raises:
        ValueError: there is no such path, no dataset or more than one in it, no images, or a problem with one of its
            files; the message names file, line or id.
    """
    refuse_url(path, "dataset")
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if format is not None and format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    own = Problems() if problems is None else problems
    candidates = _sort_files(path)
    chosen = _choose(path, candidates, format)
    root = path if path.is_dir() else path.parent
    found = READERS[chosen](root, candidates[chosen], own)
    _refuse_empty(found, path, own)
    if own.strict:
        _refuse_missing(found)
        own.log()
    return found


def _sort_files(path: Path) -> Files:
    """The files that describe a dataset, by their format."""
    found: Files = {}
    for file in walk(path) if path.is_dir() else [path]:
        if (kind := _kind(file)) is not None:
            found.setdefault(kind, []).append(file)
    if "yolo" in found:
        found["yolo"] = [_choose_yaml(found["yolo"], path)]
    return found


def _kind(file: Path) -> str | None:
    """The format that a file belongs to, by its suffix and its first bytes; None for other files."""
    suffix = file.suffix.lower()
    if suffix not in (".json", ".xml", ".yaml", ".yml"):
        return None
    head = _head(file)
    if suffix in (".yaml", ".yml"):
        is_yolo = re.search(rb"(?m)^(names|nc)\s*:", head) and re.search(rb"(?m)^(train|val)\s*:", head)
        return "yolo" if is_yolo or file.name == "data.yaml" else None
    if suffix == ".xml":
        if b"<annotations" in head:
            return "cvat"
        return "voc" if b"<annotation" in head else None
    if re.search(rb'"(shapes|imagePath|imageData)"\s*:', head):
        return "labelme"
    is_coco = re.search(rb'"(images|annotations|categories)"\s*:\s*\[', head)
    return "coco" if is_coco and head.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{" else None


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(HEAD_BYTES)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error


def _choose_yaml(files: list[Path], path: Path) -> Path:
    """The one nearest to the top; data.yaml before others."""
    depth = {file: (len(file.parts), file.name != "data.yaml") for file in files}
    best = min(depth.values())
    first = [file for file in files if depth[file] == best]
    if len(first) > 1:
        raise ValueError(f"{path} has several datasets: {', '.join(map(str, first[:5]))}; give one as the path")
    return first[0]


def _choose(path: Path, candidates: Files, format: str | None) -> str:
    if format is not None:
        if format not in candidates and path.is_file() and format != "yolo":
            candidates[format] = [path]  # as the user says; its reader tells what is wrong
        if format not in candidates:
            raise ValueError(f"{path} holds no {format}: {LOOKED_FOR[format]} is missing")
        return format
    if len(candidates) > 1:
        listed = ", ".join(f"{kind} ({os.path.relpath(files[0], path)})" for kind, files in candidates.items())
        raise ValueError(f"{path} holds several formats: {listed}; say which with --format {next(iter(candidates))}")
    if not candidates:
        wanted = "; ".join(f"{kind}: {what}" for kind, what in LOOKED_FOR.items())
        raise ValueError(f"{path} holds no dataset that is known ({wanted})")
    return next(iter(candidates))


def _refuse_empty(found: FoundDataset, path: Path, problems: Problems) -> None:
    empty = [name for name, part in found.parts.items() if not part.content["images"]]
    if len(empty) == len(found.parts):
        reason = f" that can be used; {problems.found[0]}" if problems.found else ""
        raise ValueError(f"{path} has no images{reason}")
    for name in empty:
        del found.parts[name]


def _refuse_missing(found: FoundDataset) -> None:
    for name, part in found.parts.items():
        images = part.content["images"]
        missing = [i["file_name"] for i in images if not (part.image_folder / i["file_name"]).is_file()]
        if missing:
            some = ", ".join(name[:100] for name in missing[:LISTED_MISSING]) + ", ..." * (
                len(missing) > LISTED_MISSING
            )
            lost = f"{len(missing)} of {len(images)} images of {name} are not in {part.image_folder}: {some}"
            raise ValueError(f"{found.root}: {lost}")


LOOKED_FOR = {
    "coco": "a json with images, annotations and categories",
    "yolo": "a data.yaml with names and train",
    "voc": "XML files with <annotation>",
    "labelme": "json files with shapes and imagePath",
    "cvat": "an XML file with <annotations>",
}
READERS: dict[str, Callable[[Path, list[Path], Problems], FoundDataset]] = {
    "coco": read_coco,
    "yolo": lambda root, files, problems: read_yolo(files[0], problems),
    "voc": read_voc,
    "labelme": read_labelme,
    "cvat": read_cvat,
}
