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

from detkit.console import Console
from detkit.files import write_json
from detkit.images import IMAGE_SUFFIXES, image_size, load_image
from detkit.modeling.image_model import ImageModel
from detkit.structures import Detections

logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """Numbers of `images` read and `objects` found, and the `broken` files that could not be read."""

    images: int = 0
    objects: int = 0
    broken: list[Path] = field(default_factory=list)


@dataclass
class ImageResult:
    """What was found in one image.

    Attributes:
        results: COCO result dictionaries, one for each object.
        names: class name of each object.
        drawn: the image with the objects drawn on it.
        more: further entries for the image's record in predictions.json.
    """

    results: list[dict[str, Any]]
    names: list[str]
    drawn: Image
    more: dict[str, Any] = field(default_factory=dict)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The image files among `paths` and in folders among them, folders searched recursively.

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
    used: dict[str, int] = {}
    for file in files:
        number = used.get(file.stem, 0)
        used[file.stem] = number + 1
        yield f"{file.stem}_{number}.jpg" if number else f"{file.stem}.jpg"


def predict_files(model: ImageModel, paths: Sequence[Path], out: Path, *, min_score: float = 0.3) -> Summary:
    """Find objects in files and folders of images.

    Writes one drawn image for each file and `predictions.json`: a list of `{"file", "drawn", "objects"}`, each
    object with class name, category id, score and box (x, y, width, height in pixels, clipped to the image; masks as
    RLE). A file that cannot be read is reported and left out.
    """

    def predict(_: Path, image: Tensor) -> ImageResult:
        detections = drop_low_scores(model.predict(image)[0], min_score).clipped(*image_size(image))
        results = [{k: v for k, v in result.items() if k != "image_id"} for result in detections.to_coco(0)]
        return ImageResult(results, detections.names(), detections.draw(image, min_score=min_score))

    summary = Summary()
    process_files(find_images(paths), out, summary, predict)
    return summary


def drop_low_scores(detections: Detections, min_score: float) -> Detections:
    """The detections that score at least `min_score`, on the CPU."""
    return detections[detections.scores >= min_score].cpu()


def process_files(
    files: Sequence[Path],
    out: Path,
    summary: Summary,
    predict: Callable[[Path, Tensor], ImageResult],
    *,
    read: Callable[[Path], Tensor] = load_image,
) -> list[dict[str, Any]]:
    """Predict each file and write its drawn image, and `predictions.json` as `predict_files` describes it.

    Args:
        files: image files.
        out: folder to write to.
        summary: its counts are raised.
        predict: gives the result of a file and its image.
        read: reads the image of a file; a file for which it raises a ValueError is left out, with a warning.

    Returns:
        The COCO result dictionaries of all images.
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
        result = predict(file, image)
        result.drawn.save(out / name)
        objects = [{"name": name, **entry} for name, entry in zip(result.names, result.results, strict=True)]
        records.append({"file": str(file), "drawn": name, **result.more, "objects": objects})
        summary.images, summary.objects = summary.images + 1, summary.objects + len(objects)
        results += result.results
    console.clear()
    write_json(out / "predictions.json", records)
    return results
