"""Where the drawings of predicted images go, and that they replace nothing of the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from detkit.modeling.sources import DRAWING, LONGEST_NAME, is_drawing

LONGEST_SIDE = 65500  # pixels of a JPEG file


def save_drawing(picture: Image.Image, path: Path, *, quality: int = 75) -> None:
    """Write a drawing as JPEG with a comment that says what it is; made smaller where a side is too long for JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if max(picture.size) > LONGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    picture.save(path, format="JPEG", quality=quality, comment=DRAWING)


def drawing_names(files: Mapping[Path, Path]) -> dict[Path, Path]:
    """The name of the drawing of each file, all different: `sub/a.jpg` for the image `sub/a.png`.

    Where two images have one name, the later one keeps its suffix, as `a.png.jpg`, or gets a number.

    Args:
        files: as of `detkit.modeling.sources.find_images`.
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
