"""Running a detector over image files."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from detkit.console import Console
from detkit.files import write_json
from detkit.images import image_size, read_image
from detkit.inference.files import check_outputs, drawing_names, find_images, save_drawing
from detkit.modeling.image_model import ImageModel
from detkit.structures import Detections

logger = logging.getLogger(__name__)

WRITE_EVERY = 10.0  # seconds between two writings of the json files
WRITING_SHARE = 0.05  # the most of the time that these writings take


@dataclass
class Summary:
    """What became of the image files.

    Attributes:
        images, objects: numbers of images used and objects found.
        best_score: the highest score of a detection in any image, also of those left out for their score.
        broken: files that could not be used.
    """

    images: int = 0
    objects: int = 0
    best_score: float | None = None
    broken: list[Path] = field(default_factory=list)

    def note_scores(self, scores: Tensor) -> None:
        """Take the scores of an image into account."""
        if len(scores):
            self.best_score = max(self.best_score or 0.0, float(scores.max()))

    def hint(self, min_score: float) -> str:
        """Why nothing was found; empty where something was."""
        if self.objects or not self.images:
            return ""
        if self.best_score is None:
            return "; the model suggests none at all"
        return f"; no score reaches --min-score {min_score:g}, the best is {self.best_score:.3g}"


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


def predict_files(model: ImageModel, paths: Sequence[Path], out: Path, *, min_score: float = 0.3) -> Summary:
    """Find objects in files and folders of images.

    Writes one drawn image for each file, in the folders of the files, and `predictions.json`: a list of `{"file",
    "drawn", "objects"}`, each object with class name, category id, score and box (x, y, width, height in pixels of the
    upright image, clipped to it; masks as RLE). A file that cannot be used is reported and left out.

    Raises:
        ValueError: no images, or a drawing would replace a file that is none.
    """
    files, summary = find_images(paths), Summary()

    def predict(_: Path, image: Tensor) -> ImageResult:
        found = model.predict(image)[0]
        summary.note_scores(found.scores)
        detections = drop_low_scores(found, min_score).clipped(*image_size(image))
        results = [{k: v for k, v in result.items() if k != "image_id"} for result in detections.to_coco(0)]
        return ImageResult(results, detections.names(), detections.draw(image, min_score=min_score))

    process_files(files, out, summary, predict)
    return summary


def drop_low_scores(detections: Detections, min_score: float) -> Detections:
    """The detections that score at least `min_score`, on the CPU."""
    return detections[detections.scores >= min_score].cpu()


def process_files(
    files: Mapping[Path, Path],
    out: Path,
    summary: Summary,
    predict: Callable[[Path, Tensor], ImageResult],
    *,
    read: Callable[[Path], Tensor] = read_image,
    results_file: Path | None = None,
) -> None:
    """Predict each file and write its drawn image, and `predictions.json` as `predict_files` describes it.

    The json files are written every few seconds and at the end, whatever ends it.

    Args:
        files: as of `find_images`.
        out: folder to write to.
        summary: its counts are raised.
        predict: gives the result of a file and its image. A file for which it raises an error is left out.
        read: reads the image of a file; a file for which it raises a ValueError is left out, with a warning.
        results_file: where to write the COCO result dictionaries of all images.

    Raises:
        ValueError: a drawing would replace a file that is none.
    """
    names = drawing_names(files)
    jsons = [out / "predictions.json", *([results_file] if results_file else [])]
    check_outputs((out / name for name in names.values()), jsons, files)
    out.mkdir(parents=True, exist_ok=True)
    console, records, results = Console(sys.stderr), _Growing(jsons[0]), _Growing(results_file)
    try:
        for number, file in enumerate(files, 1):
            console.progress(number / len(files), f"{number}/{len(files)} {file.name}")
            if (result := _predicted(file, read, predict)) is None:
                summary.broken.append(file)
                continue
            save_drawing(result.drawn, out / names[file])
            objects = [{"name": name, **entry} for name, entry in zip(result.names, result.results, strict=True)]
            records.add([{"file": str(file), "drawn": names[file].as_posix(), **result.more, "objects": objects}])
            results.add(result.results)
            summary.images, summary.objects = summary.images + 1, summary.objects + len(objects)
    finally:
        console.clear()
        records.write()
        results.write()


def _predicted(
    file: Path, read: Callable[[Path], Tensor], predict: Callable[[Path, Tensor], ImageResult]
) -> ImageResult | None:
    """The result of a file; None, with a warning, where it cannot be used."""
    try:
        image = read(file)
    except ValueError as error:
        logger.warning("%s", error)
        return None
    try:
        return predict(file, image)
    except (ValueError, RuntimeError, MemoryError) as error:  # whatever it is, the other images have a right to theirs
        logger.warning("%s is left out: %s", file, str(error) or type(error).__name__)
        return None


class _Growing:
    """A json file with a list that grows; it is written from time to time, so that a death costs seconds of work."""

    def __init__(self, path: Path | None):
        self.path, self.entries = path, []  # type: ignore[var-annotated]
        self._next = time.monotonic() + WRITE_EVERY

    def add(self, entries: Sequence[Any]) -> None:
        self.entries += entries
        if time.monotonic() > self._next:
            started = time.monotonic()
            self.write()
            self._next = time.monotonic() + max(WRITE_EVERY, (time.monotonic() - started) / WRITING_SHARE)

    def write(self) -> None:
        if self.path is not None:
            write_json(self.path, self.entries)
