"""Unlabelled images, of which only the class is known, and pairs of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detkit.data.coco_file import load_json
from detkit.data.pairs.dataset import PairDataset, Side, read_side
from detkit.data.pairs.judging import listed, report
from detkit.data.pairs.keypoints import IMAGE_KEYS, read_boxes, read_categories, section
from detkit.registry import register
from detkit.structures import LabelMap

logger = logging.getLogger(__name__)

_NO_POINTS = np.zeros((0, 2))


class ImagePool:
    """A list of images with their classes.

    Attributes:
        label_map: the classes.
        labels: class of each image, contiguous from 0.
        sides: file of each image, with its box where it is known, and without points.
    """

    def __init__(self, label_map: LabelMap, labels: Iterable[int], sides: Iterable[Side]):
        self.label_map, self.labels, self.sides = label_map, list(labels), list(sides)

    def __len__(self) -> int:
        return len(self.sides)

    def read(self, side: Side) -> Tensor:
        """The image of a side, uint8 [3, h, w]."""
        return read_side(side)


@register
class ImageList(ImagePool):
    """Images from a json file with their classes.

    The file has "categories" (`id`, `name`) and "images" (`id`, `file_name`, `width`, `height`, `category_id`, and
    optionally `bbox` as x, y, width, height). Other keys, such as key-points, are left alone.

    Args:
        annotations: the file.
        images: folder that the file names start from; by default `images` beside `annotations`.

    Raises:
        ValueError: the file cannot be read, lacks something, or has no image of a category that it knows.
    """

    def __init__(self, annotations: str | Path, images: str | Path | None = None):
        path = Path(annotations)
        folder = path.parent / "images" if images is None else Path(images)
        content = load_json(path)
        categories, items = read_categories(content, path), section(content, "images", IMAGE_KEYS, path)
        numbers = {category["id"]: i for i, category in enumerate(categories)}
        items = _of_known(items, numbers, path)
        boxes = read_boxes(items, path)
        label_map = LabelMap(tuple(c["name"] for c in categories), tuple(numbers))
        sides = [Side(folder / i["file_name"], _NO_POINTS, boxes[i["id"]], (i["height"], i["width"])) for i in items]
        super().__init__(label_map, [numbers[i["category_id"]] for i in items], sides)


def _of_known(images: list[dict[str, Any]], categories: Collection[int], path: Path) -> list[dict[str, Any]]:
    """The images of known categories; the others are reported."""
    unknown = [image for image in images if image["category_id"] not in categories]
    problems = [f"image {image['id']} is of category {image['category_id']}" for image in unknown]
    if len(unknown) == len(images):
        raise ValueError(f"{path}: all images are of categories that it does not have: {listed(problems)}")
    report(path, f"left out {len(unknown)} images of categories that it does not have", problems)
    return [image for image in images if image["category_id"] in categories]


@register
class PairImages(ImagePool):
    """All images of a dataset of pairs, each once, without their key-points.

    Args:
        pairs: the dataset.
        boxes: keep the boxes.
        without: datasets of pairs whose images are left out, such as validation pairs that share images.

    Raises:
        ValueError: no image is left.
    """

    def __init__(self, pairs: PairDataset, *, boxes: bool = True, without: Sequence[PairDataset] = ()):
        self.pairs = pairs
        unwanted = {side.file for other in without for number in other.image_ids for side in other.sides(number)}
        found: dict[Path, tuple[int, Side]] = {}
        for number, label in zip(pairs.image_ids, pairs.labels, strict=True):
            for side in _readable_sides(pairs, number):
                if not side.mirrored and side.file not in unwanted:
                    box = side.box if boxes else None
                    found.setdefault(side.file, (label, Side(side.file, _NO_POINTS, box, side.size)))
        if not found:
            raise ValueError("no image of the pairs is left for the pool")
        labels, sides = zip(*found.values(), strict=True)
        super().__init__(pairs.label_map, labels, sides)

    def read(self, side: Side) -> Tensor:
        """The image as the dataset of pairs reads it, uint8 [3, h, w]."""
        return self.pairs.read(side)


def _readable_sides(pairs: PairDataset, number: int) -> Sequence[Side]:
    try:
        return pairs.sides(number)
    except ValueError as error:
        logger.warning("the pool is without pair %d: %s", number, error)
        return ()


class PoolPairs(PairDataset):
    """Pairs of images of a pool, without points.

    Args:
        pool: the images.
        pairs: numbers of source and target in the pool.
    """

    def __init__(self, pool: ImagePool, pairs: Sequence[tuple[int, int]]):
        self.pool, self.pairs = pool, list(pairs)
        super().__init__(pool.label_map, [pool.labels[source] for source, _ in self.pairs])

    def sides(self, pair: int) -> tuple[Side, Side]:
        """The two images of the pool, without points."""
        source, target = self.pairs[pair]
        return self.pool.sides[source], self.pool.sides[target]

    def read(self, side: Side) -> Tensor:
        """The image as the pool reads it, uint8 [3, h, w]."""
        return self.pool.read(side)


def draw_pairs(
    pool: ImagePool, number: int, *, seed: Any, forbidden: Collection[tuple[Path, Path]] = ()
) -> list[tuple[int, int]]:
    """Draw random pairs of images of one class, in both directions, and equally many of each class as far as possible.

    Args:
        pool: the images.
        number: most pairs to draw; both directions count.
        seed: of numpy's generator.
        forbidden: (source file, target file) of pairs to leave out.

    Returns:
        (source, target) indices into the pool, no pair twice; fewer than `number` where the pool has no more.
    """
    rng = np.random.default_rng(seed)
    labels = np.array(pool.labels)
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    waiting = [_unordered(members, rng) for members in of_class if len(members) > 1]
    files, unwanted = [side.file for side in pool.sides], set(forbidden)
    pairs: list[tuple[int, int]] = []
    while waiting and len(pairs) < number:
        for of_one in list(waiting):
            first, second = next(of_one, (None, None))
            if first is None or second is None:
                waiting.remove(of_one)
                continue
            both = [(first, second), (second, first)]
            pairs += [(a, b) for a, b in both if (files[a], files[b]) not in unwanted]
    return pairs[:number]


def _unordered(members: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """All pairs of two different members in random order, each pair in one random direction."""
    n = len(members)
    for code in rng.permutation(n * (n - 1) // 2).tolist():
        high = int((1 + (1 + 8 * code) ** 0.5) / 2)  # code = high * (high - 1) / 2 + low, low < high
        low = code - high * (high - 1) // 2
        pair = [int(members[low]), int(members[high])]
        yield (pair[0], pair[1]) if rng.random() < 0.5 else (pair[1], pair[0])


def check_apart(pool: ImagePool, held_out: ImagePool, name: str, *, by_name: bool = False) -> None:
    """Check that no image of the pool is also in a held-out set: by path and, for files on disk, by content.

    Args:
        pool: the unlabelled images.
        held_out: the images that matchers are measured on.
        name: of the held-out set, for the message.
        by_name: also take files of the same name for the same image.

    Raises:
        ValueError: some images are in both; the message names them.
    """
    known = {key for side in held_out.sides for key in _identities(side, by_name)}
    shared = [str(side.file) for side in pool.sides if not known.isdisjoint(_identities(side, by_name))]
    if shared:
        raise ValueError(
            f"{len(shared)} of {len(pool)} images of the pool are also in {name}: {', '.join(shared[:5])}; a matcher "
            "that has learned from them cannot be measured there. Take them out of the pool"
        )


def _identities(side: Side, by_name: bool) -> set[str]:
    keys = {str(side.file.resolve())}
    if by_name:
        keys.add(side.file.name)
    if side.file.is_file():
        with side.file.open("rb") as file:
            keys.add(hashlib.file_digest(file, "sha256").hexdigest())
    return keys
