"""Going through image files: a drawing of each, and the json files of what was found."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from detkit.console import Console
from detkit.files import write_atomically
from detkit.images import read_image
from detkit.inference.files import check_outputs, drawing_names, save_drawing
from detkit.modeling.image_model import RETURN_EVERY
from detkit.modeling.memory import return_free_memory

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
    broken: list[str | Path] = field(default_factory=list)

    def note_scores(self, scores: Tensor) -> None:
        """Take the scores of an image into account."""
        if len(scores):
            self.best_score = max(self.best_score or 0.0, float(scores.max()))

    def hint(self, min_score: float | None) -> str:
        """Why nothing was found; empty where something was.

        Args:
            min_score: None for the thresholds of the checkpoint.
        """
        if self.objects or not self.images:
            return ""
        if self.best_score is None:
            return "; the model suggests none at all"
        limit = (
            "the threshold of its class (--min-score 0 shows all)"
            if min_score is None
            else f"--min-score {min_score:g}"
        )
        return f"; no score reaches {limit}, the best is {self.best_score:.3g}"


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


def process_files(
    files: Mapping[Path, Path],
    out: Path,
    summary: Summary,
    predict: Callable[[Path, Tensor], ImageResult],
    *,
    read: Callable[[Path], Tensor] = read_image,
    results_file: Path | None = None,
    shown: Mapping[Path, str] | None = None,
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
        shown: what to write for a file instead of its path.

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
                summary.broken.append((shown or {}).get(file, file))
                continue
            save_drawing(result.drawn, out / names[file])
            objects = [{"name": name, **entry} for name, entry in zip(result.names, result.results, strict=True)]
            record = {"file": (shown or {}).get(file, str(file)), "drawn": names[file].as_posix(), **result.more}
            records.add([{**record, "objects": objects}])
            results.add(result.results)
            summary.images, summary.objects = summary.images + 1, summary.objects + len(objects)
            if number % RETURN_EVERY == 0:
                return_free_memory()
    finally:
        console.clear()
        records.close()
        results.close()


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
    """A json file with a list that grows; it is written from time to time, so that a death costs seconds of work.

    The entries wait in an unnamed file beside it, so that they take no memory.
    """

    def __init__(self, path: Path | None):
        self.path, self._is_empty = path, True
        self._next = time.monotonic() + WRITE_EVERY
        self._waiting: Any = None if path is None else tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed by `close`)

    def add(self, entries: Sequence[Any]) -> None:
        if self.path is None:
            return
        for entry in entries:
            text = json.dumps(entry, separators=(",", ":"))
            self._waiting.write((text if self._is_empty else f",{text}").encode())
            self._is_empty = False
        if time.monotonic() > self._next:
            started = time.monotonic()
            self.write()
            self._next = time.monotonic() + max(WRITE_EVERY, (time.monotonic() - started) / WRITING_SHARE)

    def write(self) -> None:
        if self.path is not None:
            write_atomically(self.path, self._copy)

    def close(self) -> None:
        """Write the file for the last time."""
        self.write()
        if self._waiting is not None:
            self._waiting.close()

    def _copy(self, path: Path) -> None:
        self._waiting.seek(0)
        with path.open("wb") as file:
            file.write(b"[")
            shutil.copyfileobj(self._waiting, file)
            file.write(b"]")
        self._waiting.seek(0, os.SEEK_END)
