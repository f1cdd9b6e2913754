"""Which images an exported model is compared on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from detkit.data.pairs.synthetic import SyntheticPairs
from detkit.data.synthetic import SyntheticScenes
from detkit.images import load_image
from detkit.modeling.sources import find_images
from detkit.registry import ConfigError
from detkit.runtime.components import build_dataset
from detkit.structures import ImagePair

logger = logging.getLogger(__name__)

WANTED = 8
GENERATED = (SyntheticScenes, SyntheticPairs)


def photos(config: dict[str, Any], folder: str | Path | None, *, pairs: bool) -> tuple[list[Any], str]:
    """Eight images `[3, h, w]` uint8 or, for a matcher, pairs of images; and in words what they are.

    They are those of `folder`, otherwise of the validation data of `config`. Where these are missing or fewer than
    eight, generated scenes are taken, with a warning.

    Raises:
        ValueError: `folder` has fewer than eight images.
    """
    if folder is not None:
        files = [*find_images([Path(folder)])]
        if len(files) < WANTED:
            raise ValueError(f"{folder} has {len(files)} images: at least {WANTED} are needed to compare on")
        found: list[Any] = [load_image(file) for file in _spread(files)]
        return (_neighbours(found) if pairs else found), f"images of {folder}"
    found, problem = _validation(config, pairs)
    if len(found) == WANTED and problem is None:
        return found, "validation images"
    logger.warning(
        "%s: compared on generated scenes, which is no proof for photographs; give some with --images FOLDER",
        problem or f"there are only {len(found)} validation images",
    )
    scenes: Any = SyntheticPairs(WANTED) if pairs else SyntheticScenes(WANTED)
    return found + [scenes[i][0] for i in range(len(found), WANTED)], "generated scenes"


def _validation(config: dict[str, Any], pairs: bool) -> tuple[list[Any], str | None]:
    """Up to eight validation images, and why they are no real ones."""
    data = config.get("data", {}).get("val")
    if data is None:
        return [], "the checkpoint names no validation data"
    try:
        dataset = build_dataset(data, "data.val")
        found = list(_readable(dataset, pairs))
    except (ConfigError, ValueError, OSError) as error:
        return [], f"the validation data cannot be read ({str(error).splitlines()[0]})"
    return found, "the validation images are generated ones" if isinstance(dataset, GENERATED) else None


def _readable(dataset: Any, pairs: bool) -> Iterator[Any]:
    for index in _spread(range(len(dataset))):
        image = dataset[index][0]
        if isinstance(image, ImagePair) != pairs:
            raise ValueError(f"a {type(dataset).__name__} does not give what the model takes")
        yield image


def _spread(values: Sequence[Any]) -> list[Any]:
    """At most eight of them, evenly spread."""
    count = min(WANTED, len(values))
    return [values[i * len(values) // count] for i in range(count)]


def _neighbours(images: Sequence[Tensor]) -> list[ImagePair]:
    return [ImagePair(image, images[(i + 1) % len(images)]) for i, image in enumerate(images)]
