"""The images that a training by `detkit train FOLDER` learns from."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.data.formats import find_dataset, write_parts
from detkit.files import write_text
from detkit.registry import ConfigError

SUFFIXES = (".json", ".xml", ".yaml", ".yml")
SOURCE = "source.txt"  # beside the json files: where they are from
SHARE_OF_OBJECTS = 0.25  # the smaller quarter of the objects decides on the size of the images


@dataclass(frozen=True)
class TrainingData:
    """A dataset that was found, as two json files in COCO's format.

    Attributes:
        source: what the user named.
        format: "coco", "yolo", "voc", "labelme" or "cvat".
        names: of the classes.
        files: "train" and "val": the json and the folder of its images.
        images, objects: counts of each part.
        has_masks: whether every object to learn from has a mask.
        most_objects: in one image.
        sides: of each object of the training part: the square root of the area of its box, in pixels, with the shorter
            and the longer side of its image.
    """

    source: Path
    format: str
    names: list[str]
    files: dict[str, tuple[Path, Path]]
    images: dict[str, int]
    objects: dict[str, int]
    has_masks: bool
    most_objects: int
    sides: list[tuple[float, float, float]]

    def summary(self) -> str:
        """The dataset in one line."""
        shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        classes = f"{len(self.names)} class{'es' * (len(self.names) != 1)} ({shown})"
        counts = f"{self.images['train']} training and {self.images['val']} validation images with " + (
            f"{self.objects['train']} and {self.objects['val']} objects"
        )
        return f"{self.source}: {self.format}, {classes}, {counts}, {'with' if self.has_masks else 'no'} masks"

    def dataset(self, part: str, *, masks: bool) -> dict[str, Any]:
        """The config of a dataset of "train" or "val"."""
        file, folder = self.files[part]
        return dict(type="CocoDataset", annotation_file=str(file), image_folder=str(folder), masks=masks)

    def small_side(self, shortest: int, longest: int) -> float:
        """How large the objects are at the model's input, in pixels: three quarters of them are larger.

        Args:
            shortest, longest: sides that images are resized to, see `detkit.modeling.base.InputRule`.
        """
        scaled = sorted(side * min(shortest / short, longest / long) for side, short, long in self.sides)
        return scaled[int(len(scaled) * SHARE_OF_OBJECTS)] if scaled else math.inf


def is_data(source: Any) -> bool:
    """Whether this names data rather than a config: a folder, or a file of annotations."""
    if not isinstance(source, (str, Path)):
        return False
    return Path(source).is_dir() or Path(source).suffix.lower() in SUFFIXES


def name_of(source: str | Path) -> str:
    """A name for a run on these data: that of the folder, or of the json."""
    path = Path(source).resolve()
    return path.parent.name if path.suffix.lower() in (".yaml", ".yml") else path.stem


def prepare(source: str | Path, folder: Path, *, format: str | None = None) -> TrainingData:
    """Find out what the data are, and write them as train.json and val.json into `folder`.

    Args:
        source: see `detkit.data.formats.find_dataset`.
        folder: for the files.
        format: of the data, where it is in doubt.

    Raises:
        ValueError: no data, or such that cannot be read; the message names the file.
    """
    found = find_dataset(source, format)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SOURCE, f"{Path(source).resolve()}\n")
    files = {part: (file.resolve(), images.resolve()) for part, (file, images) in write_parts(found, folder).items()}
    contents = {part: json.loads(files[part][0].read_text(encoding="utf-8")) for part in ("train", "val")}
    learned = [a for a in contents["train"]["annotations"] if not a.get("iscrowd")]
    return TrainingData(
        source=Path(source),
        format=found.format,
        names=found.names,
        files=files,
        images={part: len(content["images"]) for part, content in contents.items()},
        objects={part: len(content["annotations"]) for part, content in contents.items()},
        has_masks=bool(learned) and all(a.get("segmentation") for a in learned),
        most_objects=max(Counter(a["image_id"] for a in learned).values(), default=0),
        sides=_sides(contents["train"]["images"], learned),
    )


def refuse_other_source(source: str | Path, folder: Path) -> None:
    """Check that the files which `prepare` wrote into `folder` are of this source.

    Raises:
        ConfigError: they are of another one.
    """
    if not (folder / SOURCE).is_file():
        return
    before = (folder / SOURCE).read_text(encoding="utf-8").rstrip("\n")
    if before != str(Path(source).resolve()):
        raise ConfigError(f"the run in {folder.parent} learns from {before}, not from {source}: name another --out")


def _sides(images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]) -> list[tuple[float, float, float]]:
    sizes = {image["id"]: sorted((float(image["width"]), float(image["height"]))) for image in images}
    boxes = [(a["image_id"], a["bbox"][2] * a["bbox"][3]) for a in annotations if len(a.get("bbox") or ()) == 4]
    return [(area**0.5, *sizes[image]) for image, area in boxes if image in sizes and area > 0]
