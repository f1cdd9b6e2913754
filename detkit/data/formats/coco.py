"""COCO json files: which of a folder belong together, and where their images are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from detkit.data.coco_file import read_instances
from detkit.data.formats.found import FoundDataset, Part, Problems, part_of_folder, part_of_stem

LOOKED_AT = 200  # file names, to choose the folder of the images


def read_coco(root: Path, files: Sequence[Path], problems: Problems) -> FoundDataset:
    """Read the COCO json files of a dataset, at most one for each part.

    Where some are called "instances...", only these count: COCO's own folder holds captions and key-points beside them.

    Raises:
        ValueError: two files for one part, a file that is not COCO's, or no images beside it.
    """
    instances = [file for file in files if file.name.startswith("instances")]
    chosen: dict[str, Path] = {}
    for file in instances or files:
        part = part_of_stem(file.stem) or part_of_folder(file.parent.name) or "train"
        if part in chosen:
            raise ValueError(
                f"{root} has several COCO files for {part}: {chosen[part]} and {file}; give the one to use as the path"
            )
        chosen[part] = file
    order = [part for part in ("train", "val", "test") if part in chosen]
    return FoundDataset("coco", root, {part: _read_part(chosen[part], part, problems) for part in order})


def _read_part(file: Path, part: str, problems: Problems) -> Part:
    content = read_instances(file)
    names = [image["file_name"] for image in content["images"]]
    scope = os.path.abspath(file.parent.parent)
    for image in content["images"]:
        place = os.path.normpath(os.path.join(os.path.abspath(file.parent), image["file_name"]))
        if os.path.commonpath([scope, place]) != scope:
            what = f"the file_name {image['file_name'][:100]!r} leaves the folder of the dataset"
            problems.error("file names outside", f"{file}: image id {image['id']}", what)
    return Part(content, _find_image_folder(file, part, names))


def _find_image_folder(file: Path, part: str, names: Sequence[str]) -> Path:
    """The folder, among the usual ones, that holds most of the images."""
    step = max(1, len(names) // LOOKED_AT)
    tried = list(dict.fromkeys(_image_folders(file, part)))
    hits = [sum((folder / name).is_file() for name in names[::step]) for folder in tried]
    return tried[hits.index(max(hits))]


def _image_folders(file: Path, part: str) -> Iterator[Path]:
    stem = file.stem.removeprefix("instances_")
    words = [stem, part] + (["valid", "validation"] if part == "val" else [])
    for base in (file.parent, file.parent.parent):
        for word in words:
            for place in (base / word, base / "images" / word, base / word / "images", base / f"{word}_images"):
                if place.is_dir():
                    yield place
        if (base / "images").is_dir():
            yield base / "images"
        yield base
