"""Writing the parts of a dataset as COCO json files, with a validation part where it has none."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

from detkit.data.formats.found import FoundDataset, Part
from detkit.files import write_json


def write_parts(
    found: FoundDataset, folder: str | Path, val_share: float = 0.2, seed: int = 0
) -> dict[str, tuple[Path, Path]]:
    """Write `train.json`, `val.json` and, where there is one, `test.json`; files of these names are replaced.

    Args:
        found: where it has no part "val", one is drawn from "train".
        folder: for the files; it is made.
        val_share: the part of the images, 0 to 1, that is drawn.
        seed: of the draw; the same seed draws the same images.

    Returns:
        For each part its annotation file and the folder of its images.

    Raises:
        ValueError: there are no images to train on, or too few to draw from.
    """
    parts = with_validation(found, val_share, seed)
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = {}
    for name, part in parts.items():
        file = Path(folder) / f"{name}.json"
        write_json(file, part.content)
        written[name] = (file, part.image_folder)
    return written


def with_validation(found: FoundDataset, val_share: float = 0.2, seed: int = 0) -> dict[str, Part]:
    """The parts of a dataset, with a part "val" drawn from "train" where there is none.

    Raises:
        ValueError: there are no images to train on, or too few to draw from.
    """
    if "train" not in found.parts:
        raise ValueError(f"{found.root} has no part to train on, only {', '.join(found.parts)}")
    if "val" in found.parts:
        return found.parts
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must lie between 0 and 1, got {val_share}")
    whole = found.parts["train"]
    ids = [image["id"] for image in whole.content["images"]]
    if len(ids) < 2:
        raise ValueError(f"{found.root} has one image: at least two are needed, one of them for validation")
    count = min(max(1, round(len(ids) * val_share)), len(ids) - 1)
    drawn = set(random.Random(seed).sample(sorted(ids), count))
    train, val = take_images(whole, set(ids) - drawn), take_images(whole, drawn)
    rest = {name: part for name, part in found.parts.items() if name != "train"}
    return {"train": train, "val": val, **rest}


def take_images(part: Part, ids: Collection[int]) -> Part:
    """The part with the images of these ids and what is annotated on them."""
    content: dict[str, Any] = dict(part.content)
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [a for a in content["annotations"] if isinstance(a, dict) and a.get("image_id") in ids]
    return Part(content, part.image_folder)
