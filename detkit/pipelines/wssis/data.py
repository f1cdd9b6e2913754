"""The data stage of PointWSSIS: files of strong annotations (masks) and weak ones (points), from three sources."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detkit.data.annotations import Problem, is_crowd, list_problems
from detkit.data.coco_file import load_json, read_coco_file, read_instances, turn_content
from detkit.data.export import export_scenes
from detkit.data.points.file import read_points
from detkit.data.points.split import point_of, split_annotations, write_split
from detkit.files import refuse_url, write_json
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
        """Read the paths that a complete data stage has written."""
        stored = load_json(folder / "sources.json")
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
    try:
        content = with_points(turn_content(read_coco_file(Path(options["strong"])), options["image_folder"]))
    except ValueError as error:
        raise ValueError(f"data.strong: {options['strong']}: {error}") from error
    write_json(strong, content)
    _warn_of_unseen(content, read_points(options["weak"]).content)
    truth, val, val_folder = (_optional(options[name]) for name in ("truth", "val", "val_image_folder"))
    images = Path(options["image_folder"])
    weak, truth = (_upright_file(path, images, folder) for path in (Path(options["weak"]), truth))
    assert weak is not None
    return Sources(images, strong, weak, truth, val, val_folder)


def _upright_file(path: Path | None, image_folder: Path, folder: Path) -> Path | None:
    """The file itself, or a copy in `folder` whose annotations are turned to the upright pictures of photos."""
    content = None if path is None else read_instances(path)
    if path is None or content is None or (turned := turn_content(content, image_folder)) is content:
        return path
    copy = folder / f"upright_{path.name}"
    write_json(copy, turned)
    return copy


def _split(options: dict[str, Any], folder: Path) -> Sources:
    content = turn_content(read_coco_file(Path(options["annotation_file"])), options["image_folder"])
    drawn = {name: options[name] for name in DRAWN}
    split = split_annotations(content, **drawn, name=options["annotation_file"])
    if split.problems:
        logger.warning("%s: left out %s", options["annotation_file"], list_problems(split.problems))
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
    """Give every annotation of a COCO json a point: by default the centre of its mask.

    Raises:
        ValueError: an annotation without point whose mask is missing, broken or empty.
    """
    images, problems, annotations = {image["id"]: image for image in content["images"]}, [], []
    for annotation in content["annotations"]:
        if "point" not in annotation and not is_crowd(annotation):
            point, reason = point_of(annotation, images[annotation["image_id"]], "centre")
            if reason is not None:
                problems.append(Problem(annotation["id"], annotation["image_id"], reason))
            annotation = {**annotation, "point": point}
        annotations.append(annotation)
    if problems:
        raise ValueError(f"annotations without a point or a mask; take them out: {list_problems(problems)}")
    return {**content, "annotations": annotations}


def _warn_of_unseen(strong: dict[str, Any], weak: dict[str, Any]) -> None:
    shown, wanted = ({a.get("category_id") for a in content["annotations"]} for content in (strong, weak))
    unseen = [c["name"] for c in strong["categories"] if c["id"] in wanted - shown]
    if unseen:
        logger.warning("no strong label shows the classes %s: expect no masks of them", ", ".join(unseen))


def check_sources(sources: Sources) -> None:
    """Check that the files fit each other and the images.

    Raises:
        ValueError: categories differ, an image is in both files, an image file is missing, or a point has no true mask.
    """
    strong, weak = read_coco_file(sources.strong), read_points(sources.weak).content
    wanted = [path for path in (sources.truth, sources.val) if path is not None]
    others = {path: read_coco_file(path, masks=path == sources.truth) for path in wanted}
    for path, content in {sources.weak: weak, **others}.items():
        if differences := _differences(content, strong):
            raise ValueError(f"{path}: its categories differ from those of {sources.strong}: {differences}")
    _check_images(strong, weak, sources.image_folder)
    for path, content, what in ((sources.strong, strong, "objects"), (sources.weak, weak, "points")):
        if all(a.get("iscrowd") for a in content["annotations"]):
            raise ValueError(f"{path}: has no {what}")
    if sources.truth is not None:
        _check_truth(others[sources.truth], weak, sources.truth)


def _check_truth(truth: dict[str, Any], weak: dict[str, Any], path: Path) -> None:
    """Check that each point has a true mask with the same id, class and image."""
    known, points = ({a["id"]: a for a in content["annotations"]} for content in (truth, weak))
    lost = points.keys() - known.keys()
    if lost:
        raise ValueError(f"{path}: has no masks for {len(lost)} points: {sorted(lost)[:10]}")
    for key in ("image_id", "category_id"):
        other = [i for i, point in points.items() if known[i][key] != point[key]]
        if other:
            raise ValueError(f"{path}: {len(other)} annotations have another {key} than their points: {other[:10]}")


def _check_images(strong: dict[str, Any], weak: dict[str, Any], folder: Path) -> None:
    names = [image["file_name"] for content in (strong, weak) for image in content["images"]]
    ids = [image["id"] for content in (strong, weak) for image in content["images"]]
    for what, values in (("image ids", ids), ("file names", names)):
        twice = [str(value) for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{len(twice)} {what} are both strong and weak: {', '.join(twice[:10])}")
    refuse_url(folder, "folder")
    if not folder.is_dir():
        raise ValueError(f"image folder {folder} does not exist")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} images are not in {folder}: {', '.join(missing[:10])}")


def _differences(content: dict[str, Any], other: dict[str, Any]) -> str:
    """The categories that only one of two files has."""
    one, two = ({(c["id"], c["name"]) for c in part["categories"]} for part in (content, other))
    return ", ".join(f"{name!r} (id {i})" for i, name in sorted(one ^ two)[:10])


def _optional(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _relative(path: Path, folder: Path) -> str:
    path = Path(os.path.abspath(path))
    inside = path.is_relative_to(os.path.abspath(folder))
    return str(path.relative_to(os.path.abspath(folder)) if inside else path)
