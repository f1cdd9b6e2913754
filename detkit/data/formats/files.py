"""The files of a dataset: which images there are, and XML that does nothing but hold data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from detkit.images import IMAGE_SUFFIXES


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder, sorted; hidden ones and runs left out, linked folders entered once."""
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not _is_left_out(Path(folder, name))) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def _is_left_out(folder: Path) -> bool:
    """Whether a folder is hidden, or holds what a training wrote: annotation files and pictures of its own."""
    is_run = (folder / "config.json").is_file() and (folder / "config.py").is_file()
    return folder.name.startswith(".") or folder.name == "runs" or is_run


class ImageIndex:
    """The images below a folder, found by what an annotation file calls them.

    Nothing outside of the folder is ever found, whatever the annotation says.
    """

    def __init__(self, root: Path):
        self.root = root
        self._by_stem: dict[str, list[str]] = {}
        for path in walk(root):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_stem.setdefault(path.stem, []).append(path.relative_to(root).as_posix())

    def find(self, name: str, near: Path) -> str | None:
        """The image called `name` in a file in the folder `near`, relative to the root; None if there is none.

        Of several with one name that one is taken whose folders are most like those in `name`, then the nearest.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        found = self._by_stem.get(wanted.stem, []) or self._by_stem.get(wanted.name, [])
        exact = [path for path in found if PurePosixPath(path).name == wanted.name]
        place = near.relative_to(self.root).parts
        alike = [(_alike(_folders(path), wanted.parent.parts, place), path) for path in exact or found]
        return max(alike, key=lambda pair: pair[0])[1] if alike else None


def _folders(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parent.parts


def _alike(folders: tuple[str, ...], wanted: tuple[str, ...], place: tuple[str, ...]) -> tuple[int, int, int]:
    ends = _common(folders[::-1], wanted[::-1])
    begins = _common(folders, place)
    return ends, begins, -len(folders)


def _common(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def read_xml(path: Path) -> Element:
    """The root element of an XML file; document type definitions and entities are refused.

    Raises:
        ValueError: it cannot be read or is no such XML; the message names the file and the line.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        root = parse(path, forbid_dtd=True).getroot()
    except ParseError as error:
        line, column = error.position
        raise ValueError(
            f"{path} is broken XML: line {line}, column {column + 1}: {str(error).split(':')[0]}"
        ) from error
    except DefusedXmlException as error:
        raise ValueError(f"{path} holds a document type or entities, which are not read: remove them") from error
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if root is None:
        raise ValueError(f"{path} is empty")
    return root


def finite(text: Any, what: str) -> float:
    """A finite number from text.

    Raises:
        ValueError: it is none; the message begins with `what`.
    """
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} is {str(text)[:40]!r}, not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{what} is {str(text)[:40]}, not a finite number")
    return value
