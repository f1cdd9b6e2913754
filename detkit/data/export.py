"""Writing generated data as files, so that tools for files can be tried without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from detkit.data.synthetic import SyntheticScenes
from detkit.files import refuse_to_overwrite, write_json

SCENE_PARTS = ("train", "val")


def export_scenes(
    out: str | Path, *, train: int, val: int, seed: int = 0, force: bool = False, **options: Any
) -> dict[str, Path]:
    """Write generated scenes as PNG images (`images/train`, `images/val`) and COCO instances files with masks.

    The same arguments give the same files.

    Args:
        out: folder that gets `train.json`, `val.json` and `images`.
        train, val: numbers of scenes, 0 for none of them.
        seed: of the training scenes; those of validation have `seed + 1`.
        force: replace files that are there.
        options: of `SyntheticScenes`.

    Returns:
        The json files written, by part.

    Raises:
        ValueError: a json file exists and `force` is not set, no scenes at all, or an option out of range.
    """
    lengths = dict(zip(SCENE_PARTS, (train, val), strict=True))
    if min(lengths.values()) < 0 or not any(lengths.values()):
        raise ValueError(f"the numbers of scenes must not be negative or all 0, got train {train} and val {val}")
    scenes = {
        part: SyntheticScenes(length, seed=seed + i, **{**options, "masks": True})
        for i, (part, length) in enumerate(lengths.items())
        if length
    }
    paths = {part: Path(out) / f"{part}.json" for part in scenes}
    if not force:
        refuse_to_overwrite(paths.values())
    for part, path in paths.items():
        export_dataset(scenes[part], path, Path(out) / "images" / part)
    return paths


def export_dataset(dataset: Any, annotation_file: Path, image_folder: Path) -> None:
    """Write a dataset's images as PNG and, last, its `coco()` as json; files of the same names are replaced."""
    image_folder.mkdir(parents=True, exist_ok=True)
    content = dataset.coco()
    names = {image_id: f"{image_id:06d}.png" for image_id in dataset.image_ids}
    for index, image_id in enumerate(dataset.image_ids):
        image, _ = dataset[index]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(image_folder / names[image_id])
    images = [{**image, "file_name": names[image["id"]]} for image in content["images"]]
    write_json(annotation_file, {**content, "images": images})
