"""Running a detector over image files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from detkit.files import write_json
from detkit.images import IMAGE_SUFFIXES, load_image
from detkit.modeling.image_model import ImageModel
from detkit.runtime.console import Console
from detkit.structures import Detections

logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """How many `images` were read, how many `objects` were found, and which files could not be used."""

    images: int = 0
    objects: int = 0
    broken: list[Path] = field(default_factory=list)


@dataclass
class Answer:
    """What was found in one image: COCO result dictionaries, the drawing, and more for the image's record."""

    results: list[dict[str, Any]]
    names: list[str]
    drawn: Image
    more: dict[str, Any] = field(default_factory=dict)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The image files among `paths` and in folders among them, folders searched in depth.

    Raises:
        ValueError: a path that does not exist, or no image anywhere.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"{path} does not exist")
    if not found:
        raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(map(str, paths))}")
    return found


def output_names(files: Sequence[Path]) -> Iterator[str]:
    """A file name for each drawn image; equal names of different folders get a number."""
    seen: dict[str, int] = {}
    for file in files:
        number = seen.get(file.stem, 0)
        seen[file.stem] = number + 1
        yield f"{file.stem}_{number}.jpg" if number else f"{file.stem}.jpg"


def predict_files(model: ImageModel, paths: Sequence[Path], out: Path, *, min_score: float = 0.3) -> Summary:
    """Find objects in files and folders of images.

    Writes one drawn image for each file and `predictions.json`: a list of `{"file", "drawn", "objects"}`, each
    object with class name, category id, score and box (x, y, width, height in pixels; masks as RLE). A file that
    cannot be read is reported and left out.
    """

    def find(_: Path, image: Tensor) -> Answer:
        detections = above(model.predict(image)[0], min_score)
        results = [{k: v for k, v in result.items() if k != "image_id"} for result in detections.to_coco(0)]
        return Answer(results, detections.names(), detections.draw(image, min_score=min_score))

    summary = Summary()
    answer_files(find_images(paths), out, summary, find)
    return summary


def above(detections: Detections, min_score: float) -> Detections:
    """Those with at least this score, on the CPU."""
    return detections[detections.scores >= min_score].cpu()


def answer_files(
    files: Sequence[Path],
    out: Path,
    summary: Summary,
    find: Callable[[Path, Tensor], Answer],
    *,
    read: Callable[[Path], Tensor] = load_image,
) -> list[dict[str, Any]]:
    """Write what `find` says of each file, as `predict_files` describes it, and count in `summary`.

    Args:
        read: gives the image of a file; a ValueError leaves it out, with a warning.

    Returns:
        The results of all images.
    """
    out.mkdir(parents=True, exist_ok=True)
    console, records, results = Console(sys.stderr), [], []
    for number, (file, name) in enumerate(zip(files, output_names(files), strict=True), 1):
        console.progress(number / len(files), f"{number}/{len(files)} {file.name}")
        try:
            image = read(file)
        except ValueError as error:
            logger.warning("%s", error)
            summary.broken.append(file)
            continue
        answer = find(file, image)
        answer.drawn.save(out / name)
        objects = [{"name": name, **result} for name, result in zip(answer.names, answer.results, strict=True)]
        records.append({"file": str(file), "drawn": name, **answer.more, "objects": objects})
        summary.images, summary.objects = summary.images + 1, summary.objects + len(objects)
        results += answer.results
    console.clear()
    write_json(out / "predictions.json", records)
    return results
