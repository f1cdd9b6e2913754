"""What can be given to `predict`: files, folders, globs, URLs, images in memory, and iterators of all of them."""

from __future__ import annotations

import glob
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from detkit.download.fetch import fetch, is_url
from detkit.download.kinds import IMAGE
from detkit.files import refuse_url
from detkit.images import IMAGE_SUFFIXES, load_image

logger = logging.getLogger(__name__)

DRAWING = b"drawn by detkit predict"  # in the JPEG files of drawings, which are never taken for images of the user
DRAWING_HEAD = 4096  # bytes; the comment is among the first
LONGEST_NAME = 255  # bytes of a file name


@dataclass(frozen=True)
class Source:
    """An image that is to be predicted.

    Attributes:
        name: its path or URL; None for an image in memory.
        load: reads it as uint8 RGB `[3, h, w]`; raises a ValueError where it cannot be used.
    """

    name: str | None
    load: Callable[[], Tensor]


def sources_of(images: Any) -> Iterator[Source]:
    """The images that something given to `predict` means, one after the other and not yet read.

    Args:
        images: a path, a glob, a folder, a URL, a PIL image, an array, a tensor, or an iterable of them.

    Raises:
        ValueError: a path that does not exist, a folder or glob without images, or something that is no image.
    """
    if isinstance(images, (str, Path)):
        yield from _sources_of_path(images)
    elif isinstance(images, (Image.Image, np.ndarray, Tensor)) or not isinstance(images, Iterable):
        yield Source(None, partial(load_image, images))
    elif isinstance(images, Mapping):
        raise ValueError("not an image: dict; give a path, PIL image, array, tensor, or a list of them")
    else:
        for image in images:
            yield from sources_of(image)


def _sources_of_path(path: str | Path) -> Iterator[Source]:
    if is_url(path):
        yield Source(str(path), partial(load_url, str(path)))
    elif is_glob(path) or os.path.isdir(path):
        for file in find_images([path]):
            yield Source(str(file), partial(load_image, file))
    else:
        yield Source(str(path), partial(load_image, path))


def load_url(url: str) -> Tensor:
    """The image of a URL; nothing of it is kept.

    Raises:
        ValueError: it cannot be downloaded, is larger than an image may be, or is no image; the message names it.
    """
    with tempfile.TemporaryDirectory(prefix="detkit-") as folder:
        file = fetch(url, cache=folder, kind=IMAGE)
        try:
            return load_image(file)
        except ValueError as error:
            raise ValueError(f"{error}".replace(str(file), url)) from error


def is_glob(path: str | Path) -> bool:
    """Whether this is a pattern with *, ? or [ rather than a file of such a name."""
    return glob.has_magic(str(path)) and not os.path.lexists(path) and not is_url(path)


def find_images(paths: Sequence[str | Path]) -> dict[Path, Path]:
    """The image files among `paths`, folders searched recursively, each file once.

    Drawings of earlier predictions in a folder are left out. So are files of other kinds; a line of the log counts
    them.

    Args:
        paths: files, folders and globs, in which `**` means any number of folders.

    Returns:
        Each file with its path inside of the folder that it was found in, or its name.

    Raises:
        ValueError: a URL, a path that does not exist, a glob that nothing matches, or no image anywhere.
    """
    found: dict[Path, Path] = {}
    known: set[Path] = set()
    others: Counter[str] = Counter()
    for path in _matching(paths, others):
        for file in _images_in(path, others) if path.is_dir() else [path]:
            if file.resolve() not in known:
                known.add(file.resolve())
                found[file] = file.relative_to(path) if path.is_dir() else Path(file.name)
    counts = ", ".join(f"{kind} ({count})" for kind, count in others.most_common())
    if not found:
        seen = f"; there are files of {counts}" if counts else ""
        raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(map(str, paths))}{seen}")
    if counts:
        logger.info("left out %d files that are no images to predict: %s", others.total(), counts)
    return found


def _matching(paths: Sequence[str | Path], others: Counter[str]) -> Iterator[Path]:
    """The paths themselves, and the images and folders that globs match."""
    for path in paths:
        if not is_glob(path):
            _check_exists(Path(path))
            yield Path(path)
            continue
        matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not matches:
            raise ValueError(f"nothing matches {path}")
        yield from (match for match in matches if match.is_dir() or _is_image(match, others))


def _check_exists(path: Path) -> None:
    refuse_url(path, "image")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise ValueError(f"{path} cannot exist: its name has more than {LONGEST_NAME} bytes")
    if not path.exists():
        raise ValueError(f"{path} does not exist")


def _images_in(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """The images of a folder and those below it, sorted; other files are counted by their kind."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and _is_image(file, others):
            yield file


def _is_image(file: Path, others: Counter[str]) -> bool:
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        others[file.suffix.lower() or "no suffix"] += 1
    elif is_drawing(file):
        others["drawings of earlier predictions"] += 1
    else:
        return True
    return False


def is_drawing(path: Path) -> bool:
    """Whether a file is a drawing of `detkit predict`."""
    if path.suffix.lower() != ".jpg":
        return False
    try:
        with path.open("rb") as file:
            return DRAWING in file.read(DRAWING_HEAD)
    except OSError:  # reported where the image is read
        return False
