"""Reading all images of a dataset in several processes, each as what a check needs of it."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from detkit.console import Console
from detkit.data.doctor.findings import Finding, Findings
from detkit.data.formats.files import walk
from detkit.data.formats.found import FoundDataset
from detkit.images import IMAGE_SUFFIXES, Frame, read_photo

CHUNK = 16  # images that a process gets at once
AT_ONCE = 4096  # images that are handed out before the first are asked for


@dataclass(frozen=True)
class Picture:
    """What is kept of an image: how it is stored and a digest of its pixels, or why it cannot be read."""

    frame: Frame | None
    digest: bytes = b""
    error: str = ""


def look_at(path: Path) -> Picture:
    """Decode an image. The digest is of the upright RGB pixels: other files of the same picture have the same."""
    try:
        pixels, frame = read_photo(path)
    except ValueError as error:
        return Picture(None, error=str(error).removeprefix(f"cannot read image {path}: "))
    head = repr(tuple(pixels.shape)).encode()
    return Picture(frame, hashlib.blake2b(pixels.numpy().data, digest_size=16, key=head).digest())


@dataclass(frozen=True)
class Place:
    """Where an image of a dataset stands: its part, id, path and (h, w) as the annotations have it."""

    part: str
    image_id: int
    path: Path
    name: str
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.part}: {self.name} (image id {self.image_id})"


def places(found: FoundDataset) -> list[Place]:
    """All images of a dataset."""
    return [
        Place(name, i["id"], part.image_folder / i["file_name"], i["file_name"], (i["height"], i["width"]))
        for name, part in found.parts.items()
        for i in part.content["images"]
    ]


def check_pictures(found: FoundDataset, findings: Findings, *, processes: int | None = None) -> None:
    """Read all images and compare them with the annotations and with each other.

    Args:
        processes: how many read; by default one for each core.

    Raises:
        ValueError: one of these processes was ended from outside.
    """
    try:
        _check_all(found, findings, processes or os.cpu_count() or 1)
    except BrokenProcessPool as error:
        raise ValueError("a process that reads images was ended from outside, probably for want of memory") from error
    _find_unlisted(found, findings)


def _check_all(found: FoundDataset, findings: Findings, processes: int) -> None:
    first: dict[bytes, Place] = {}
    for place, picture in _look_at_all(places(found), processes):
        if picture.frame is None:
            kind = "unreadable images" if place.path.exists() else "missing images"
            what = picture.error if place.path.exists() else f"there is no {place.path}"
            findings.add(kind, _finding(place, what))
            continue
        _check_frame(place, picture.frame, findings)
        twin = first.setdefault(picture.digest, place)
        if twin.part != place.part or twin.path != place.path:
            kind = "duplicate images" if twin.part == place.part else "images in two parts"
            findings.add(kind, _finding(place, f"is the same picture as {twin}", twin.path))


def _look_at_all(images: list[Place], processes: int) -> Iterator[tuple[Place, Picture]]:
    console = Console(sys.stderr)
    workers = min(processes, len(images) // CHUNK + 1)
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for start in range(0, len(images), AT_ONCE):
            some = images[start : start + AT_ONCE]
            pictures = pool.map(look_at, [place.path for place in some], chunksize=CHUNK)
            for number, pair in enumerate(zip(some, pictures, strict=True), start + 1):
                yield pair
                console.progress(number / len(images), f"images {number}/{len(images)}")
    console.clear()


def _finding(place: Place, what: str, *others: Path) -> Finding:
    return Finding(str(place), what, (place.path, *others), ids={"image_id": place.image_id})


def _check_frame(place: Place, frame: Frame, findings: Findings) -> None:
    if place.size not in (frame.size, frame.stored_size):
        (height, width), (stated_height, stated_width) = frame.size, place.size
        what = f"has {width} x {height} pixels, the annotations say {stated_width} x {stated_height}"
        findings.add("sizes that disagree", _finding(place, what))
    elif frame.is_stored(place.size):
        what = f"the annotations have the size of the stored pixels; EXIF orientation {frame.orientation} turns them"
        findings.add("orientation", _finding(place, what))
    elif doubt := frame.doubt():
        findings.add("orientation", _finding(place, doubt))


def _find_unlisted(found: FoundDataset, findings: Findings) -> None:
    """Images beside those of the dataset that belong to no part."""
    known = {os.path.normpath(place.path) for place in places(found)}
    seen = set()
    for folder in dict.fromkeys(part.image_folder for part in found.parts.values()):
        for path in walk(folder) if folder.is_dir() else ():
            key = os.path.normpath(path)
            if path.suffix.lower() in IMAGE_SUFFIXES and key not in known and key not in seen:
                seen.add(key)
                findings.add("images in no part", Finding(str(path), "is in no annotation file", (path,)))
