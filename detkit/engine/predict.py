"""Running a model over image files."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detkit.engine.console import Console
from detkit.engine.weights import write_atomically
from detkit.images import IMAGE_SUFFIXES, load_image
from detkit.model import ImageModel

logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """How many `images` were read, how many `objects` were found, and which files could not be read."""

    images: int = 0
    objects: int = 0
    broken: list[Path] = field(default_factory=list)


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
    files = find_images(paths)
    out.mkdir(parents=True, exist_ok=True)
    console, summary, records = Console(sys.stderr), Summary(), []
    for number, (file, name) in enumerate(zip(files, output_names(files), strict=True), 1):
        console.progress(number / len(files), f"{number}/{len(files)} {file.name}")
        try:
            image = load_image(file)
        except ValueError as error:
            logger.warning("%s", error)
            summary.broken.append(file)
            continue
        detections = model.predict(image)[0]
        detections = detections[detections.scores >= min_score].cpu()
        detections.draw(image, min_score=min_score).save(out / name)
        objects = [
            {"name": name, **{k: v for k, v in result.items() if k != "image_id"}}
            for name, result in zip(detections.names(), detections.to_coco(0), strict=True)
        ]
        records.append({"file": str(file), "drawn": name, "objects": objects})
        summary.images, summary.objects = summary.images + 1, summary.objects + len(objects)
    console.clear()
    write_atomically(out / "predictions.json", lambda path: path.write_text(json.dumps(records, indent=1)))
    return summary
