"""Which image files are predicted, and where their drawings go."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from detkit.files import refuse_url
from detkit.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

COMMENT = b"drawn by detkit predict"  # in the JPEG files of drawings, which are never taken for images of the user
HEAD_BYTES = 4096  # the comment is among the first
LONGEST_NAME = 255  # bytes of a file name
LONGEST_SIDE = 65500  # pixels of a JPEG file


def find_images(paths: Sequence[Path]) -> dict[Path, Path]:
    """The image files among `paths` and in folders among them, folders searched recursively, each file once.

    Drawings of earlier predictions in a folder are left out. So are files of other kinds; a line of the log counts
    them.

    Returns:
        Each file with its path inside of the folder that it was found in, or its name.

    Raises:
        ValueError: a URL, a path that does not exist, or no image anywhere.
    """
    found: dict[Path, Path] = {}
    known: set[Path] = set()
    others: Counter[str] = Counter()
    for path in paths:
        _check_exists(path)
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


def _check_exists(path: Path) -> None:
    refuse_url(path, "image")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise ValueError(f"{path} cannot exist: its name has more than {LONGEST_NAME} bytes")
    if not path.exists():
        raise ValueError(f"{path} does not exist")


def _images_in(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """The images of a folder and those below it, sorted; other files are counted by their kind."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            others[file.suffix.lower() or "no suffix"] += 1
        elif is_drawing(file):
            others["drawings of earlier predictions"] += 1
        else:
            yield file


def is_drawing(path: Path) -> bool:
    """Whether a file is a drawing of `save_drawing`."""
    if path.suffix.lower() != ".jpg":
        return False
    try:
        with path.open("rb") as file:
            return COMMENT in file.read(HEAD_BYTES)
    except OSError:  # reported where the image is read
        return False


def save_drawing(picture: Image.Image, path: Path, *, quality: int = 75) -> None:
    """Write a drawing as JPEG with a comment that says what it is; made smaller where a side is too long for JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if max(picture.size) > LONGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    picture.save(path, format="JPEG", quality=quality, comment=COMMENT)


def drawing_names(files: Mapping[Path, Path]) -> dict[Path, Path]:
    """The name of the drawing of each file, all different: `sub/a.jpg` for the image `sub/a.png`.

    Where two images have one name, the later one keeps its suffix, as `a.png.jpg`, or gets a number.

    Args:
        files: as of `find_images`.
    """
    used = {str(folder).casefold() for place in files.values() for folder in place.parents}
    names = {}
    for file, place in files.items():
        for name in _candidates(place):
            if (key := str(name).casefold()) not in used:
                used.add(key)
                names[file] = name
                break
    return names


def _candidates(place: Path) -> Iterator[Path]:
    number = 1
    yield place.with_name(_shortened(place.stem, ".jpg"))
    yield place.with_name(_shortened(place.name, ".jpg"))
    while True:
        number += 1
        yield place.with_name(_shortened(place.name, f"_{number}.jpg"))


def _shortened(stem: str, suffix: str) -> str:
    """`stem + suffix`, the stem cut so that the name is no longer than file systems allow."""
    return os.fsencode(stem)[: LONGEST_NAME - len(suffix)].decode(errors="ignore") + suffix


def check_outputs(drawings: Iterable[Path], others: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that nothing of the user's would be overwritten.

    Args:
        drawings: files of drawings to be written; they may replace nothing but drawings.
        others: further files to be written; they may replace anything but inputs.
        inputs: files that are read.

    Raises:
        ValueError: something would be; the message names the first such files.
    """
    drawings, taken = list(drawings), {file.resolve() for file in inputs}
    lost = [path for path in [*drawings, *others] if path.exists() and path.resolve() in taken]
    lost += [path for path in drawings if path.exists() and path not in lost and not is_drawing(path)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise ValueError(
            f"{', '.join(map(str, lost[:3]))}{more} would be overwritten, and is no drawing of an earlier prediction: "
            f"choose another folder for --out"
        )
