"""The first stage of PointWSSIS: strong and weak annotations as files, from wherever they come."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detkit.data.coco_file import load_json, read_coco_file
from detkit.data.export import export_scenes
from detkit.data.point_file import read_points, summary
from detkit.data.point_split import mask_centre, split_annotations, write_split
from detkit.files import write_json
from detkit.ops.rle import decode_mask
from detkit.pipelines.training import coco_data

logger = logging.getLogger(__name__)

DRAWN = ("percent", "seed", "points", "boxes")  # what decides a split


@dataclass
class Sources:
    """The files that all later stages read.

    Attributes:
        strong: COCO instances json whose annotations also have points.
        weak: json of points.
        truth: json of the weak images with masks, under the ids of the points, or None.
        val: COCO instances json, or None.
    """

    image_folder: Path
    strong: Path
    weak: Path
    truth: Path | None = None
    val: Path | None = None
    val_image_folder: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> Sources:
        """Of a complete data stage."""
        stored = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
        paths: Any = {name: None if path is None else folder / path for name, path in stored.items()}
        return cls(**paths)

    def write(self, folder: Path) -> None:
        """Store the paths, those below `folder` relative to it, so that it can be moved."""
        stored = {name: None if path is None else _relative(path, folder) for name, path in asdict(self).items()}
        write_json(folder / "sources.json", stored)

    def val_data(self) -> dict[str, Any] | None:
        """The config of the validation dataset."""
        if self.val is None:
            return None
        return coco_data(self.val, self.val_image_folder or self.image_folder, drop_empty=False)


def make_data(section: dict[str, Any], folder: Path) -> None:
    """Write the sources into `folder`, from the one section of `data`, `split` and `scenes` that is given.

    Raises:
        ValueError: something is wrong with the files; the message names the file and the ids.
    """
    ((kind, options),) = section.items()
    sources = {"data": _given, "split": _split, "scenes": _scenes}[kind](options, folder)
    check_sources(sources)
    sources.write(folder)


def _given(options: dict[str, Any], folder: Path) -> Sources:
    strong = folder / "strong.json"
    write_json(strong, with_points(read_coco_file(Path(options["strong"]))))
    _warn_of_unseen(load_json(strong), load_json(Path(options["weak"])))
    truth, val, val_folder = (_optional(options[name]) for name in ("truth", "val", "val_image_folder"))
    return Sources(Path(options["image_folder"]), strong, Path(options["weak"]), truth, val, val_folder)


def _split(options: dict[str, Any], folder: Path) -> Sources:
    content = read_coco_file(Path(options["annotation_file"]))
    drawn = {name: options[name] for name in DRAWN}
    split = split_annotations(content, **drawn)
    if split.problems:
        logger.warning("%s: left out %s", options["annotation_file"], summary(split.problems))
    files = write_split(split, folder, force=True)
    val, val_folder = (_optional(options[name]) for name in ("val", "val_image_folder"))
    return Sources(Path(options["image_folder"]), files["strong"], files["weak"], files["truth"], val, val_folder)


def _scenes(options: dict[str, Any], folder: Path) -> Sources:
    lengths = {"train": options["images"], "val": options["val_images"]}
    files = export_scenes(folder, **lengths, seed=options["seed"], force=True, **options["options"])
    drawn = {name: options[name] for name in DRAWN}
    images = {"image_folder": folder / "images" / "train", "val_image_folder": folder / "images" / "val"}
    return _split({"annotation_file": files["train"], "val": files.get("val"), **images, **drawn}, folder)


def with_points(content: dict[str, Any]) -> dict[str, Any]:
    """A COCO json whose annotations all have a point: the centre of the mask where none is given.

    Raises:
        ValueError: an annotation without point whose mask is missing, broken or empty.
    """
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in content["images"]}
    annotations = []
    for annotation in content["annotations"]:
        if "point" not in annotation and not annotation.get("iscrowd"):
            try:
                mask = decode_mask(annotation.get("segmentation") or [], *sizes[annotation["image_id"]])
            except ValueError as error:
                raise ValueError(f"segmentation of strong annotation {annotation['id']}: {error}") from error
            if not mask.any():
                raise ValueError(f"the mask of strong annotation {annotation['id']} is empty; take it out")
            annotation = {**annotation, "point": mask_centre(mask)}
        annotations.append(annotation)
    return {**content, "annotations": annotations}


def _warn_of_unseen(strong: dict[str, Any], weak: dict[str, Any]) -> None:
    shown, wanted = ({a.get("category_id") for a in content["annotations"]} for content in (strong, weak))
    unseen = [c["name"] for c in strong["categories"] if c["id"] in wanted - shown]
    if unseen:
        logger.warning("no strong label shows the classes %s: expect no masks of them", ", ".join(unseen))


def check_sources(sources: Sources) -> None:
    """Check that the files fit each other and the images.

    Raises:
        ValueError: other categories, images in both files, missing image files, or points without truth.
    """
    strong, weak = read_coco_file(sources.strong), read_points(sources.weak)[0]
    for path in (sources.weak, sources.truth, sources.val):
        if path is not None and _categories(load_json(path)) != _categories(strong):
            raise ValueError(f"{path}: its categories differ from those of {sources.strong}")
    _check_images(strong, weak, sources.image_folder)
    if sources.truth is not None:
        lost = {a["id"] for a in weak["annotations"]} - {a["id"] for a in load_json(sources.truth)["annotations"]}
        if lost:
            raise ValueError(f"{sources.truth}: has no masks for {len(lost)} points: {sorted(lost)[:10]}")


def _check_images(strong: dict[str, Any], weak: dict[str, Any], folder: Path) -> None:
    names = [image["file_name"] for content in (strong, weak) for image in content["images"]]
    ids = [image["id"] for content in (strong, weak) for image in content["images"]]
    for what, values in (("image ids", ids), ("file names", names)):
        twice = [str(value) for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{len(twice)} {what} are both strong and weak: {', '.join(twice[:10])}")
    if not folder.is_dir():
        raise ValueError(f"image folder {folder} does not exist")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} images are not in {folder}: {', '.join(missing[:10])}")


def _categories(content: dict[str, Any]) -> dict[int, str]:
    return {category["id"]: category["name"] for category in content["categories"]}


def _optional(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _relative(path: Path, folder: Path) -> str:
    path = Path(os.path.abspath(path))
    inside = path.is_relative_to(os.path.abspath(folder))
    return str(path.relative_to(os.path.abspath(folder)) if inside else path)
