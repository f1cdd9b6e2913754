"""Image pairs with common key-points from two plain json files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.coco_file import load_json
from detkit.data.pairs.dataset import PairDataset, PairOptions, Side
from detkit.registry import register
from detkit.structures import LabelMap

logger = logging.getLogger(__name__)

_ID, _LENGTH = (int, str), (int, float)
IMAGE_KEYS: dict[str, Any] = {
    "id": _ID,
    "file_name": str,
    "width": _LENGTH,
    "height": _LENGTH,
    "category_id": int,
}
_PAIR_KEYS: dict[str, Any] = {"src": _ID, "trg": _ID}


@register
class KeypointPairs(PairDataset):
    """Pairs from two json files: images with named key-points, and a list of pairs.

    The first holds "categories" (`id`, `name`, `keypoints`: their names) and "images" (`id`, `file_name`, `width`,
    `height`, `category_id`, `bbox` as x, y, width, height, and `keypoints`: `[x, y, visible]` in the order of the
    names); the second "pairs" (`src`, `trg`: image ids, and `kps`: the numbers of the common key-points). A pair
    without `kps` has all key-points that are visible in both images. Other keys are ignored.

    Args:
        annotations: file of the images.
        pairs: file of the pairs.
        images: folder that the file names start from; by default `images` beside `annotations`.
        direction, limit, seed: see `PairDataset`.

    Raises:
        ValueError: a file cannot be read, lacks a key, or refers to an unknown image, category or key-point; the
            message names the file and the entry.
    """

    def __init__(
        self, annotations: str | Path, pairs: str | Path, images: str | Path | None = None, **options: PairOptions
    ):
        self.path = Path(annotations)
        self.folder = self.path.parent / "images" if images is None else Path(images)
        content = load_json(self.path)
        categories = read_categories(content, self.path, keypoints=list)
        items = section(content, "images", IMAGE_KEYS | {"keypoints": list}, self.path)
        self._images = {image["id"]: image for image in items}
        self._check_images({c["id"]: len(c["keypoints"]) for c in categories})
        self._pairs = section(load_json(Path(pairs)), "pairs", _PAIR_KEYS, Path(pairs))
        self._check_pairs(Path(pairs))
        numbers = {category["id"]: i for i, category in enumerate(categories)}
        label_map = LabelMap(tuple(c["name"] for c in categories), tuple(numbers))
        labels = [numbers[self._images[pair["src"]]["category_id"]] for pair in self._pairs]
        super().__init__(label_map, labels, **options)

    def _check_images(self, lengths: dict[int, int]) -> None:
        for image_id, image in self._images.items():
            if lengths.get(image["category_id"]) != len(image["keypoints"]):
                expected = lengths.get(image["category_id"], "no")
                raise ValueError(
                    f"{self.path}: image {image_id} has {len(image['keypoints'])} key-points, its category "
                    f"{image['category_id']} has {expected}"
                )
            if wrong := [k for k in image["keypoints"] if not _is_keypoint(k)]:
                raise ValueError(f"{self.path}: image {image_id} has key-point {wrong[0]!r}, not [x, y, visible]")
            box_corners(image, self.path)

    def _check_pairs(self, path: Path) -> None:
        problems: Counter[str] = Counter()
        for number, pair in enumerate(self._pairs):
            for key in _PAIR_KEYS:
                if pair[key] not in self._images:
                    raise ValueError(f"{path}: pair {number} has {key} {pair[key]}, which is no image of {self.path}")
            source, target = (self._images[pair[key]] for key in _PAIR_KEYS)
            if source["category_id"] != target["category_id"]:
                raise ValueError(f"{path}: pair {number} joins images {pair['src']} and {pair['trg']} of two classes")
            _check_numbers(pair.get("kps", []), len(source["keypoints"]), f"{path}: pair {number}")
            common = self._common(pair)
            problems["name key-points that are not visible in both images"] += len(common) < len(pair.get("kps", ()))
            problems["have no common key-points"] += not common
        for problem, count in problems.items():
            if count:
                logger.warning("%s: %d of %d pairs %s", path, count, len(self._pairs), problem)

    def _common(self, pair: dict[str, Any]) -> list[int]:
        """The indices of a pair's key-points that are visible in both images."""
        visible = [[bool(v) for _, _, v in self._images[pair[key]]["keypoints"]] for key in _PAIR_KEYS]
        named = pair.get("kps", range(len(visible[0])))
        return [k for k in named if visible[0][k] and visible[1][k]]

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target with the key-points that both show, x y in pixels, and their boxes where they are known."""
        entry = self._pairs[pair]
        numbers = self._common(entry)
        source, target = (self._side(self._images[entry[key]], numbers) for key in _PAIR_KEYS)
        return source, target

    def _side(self, image: dict[str, Any], numbers: list[int]) -> Side:
        points = np.array([image["keypoints"][k][:2] for k in numbers], np.float64).reshape(-1, 2)
        size = (image["height"], image["width"])
        return Side(self.folder / image["file_name"], points, box_corners(image, self.path), size)


def _is_keypoint(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)


def _check_numbers(numbers: Any, length: int, name: str) -> None:
    """Check the `kps` of a pair."""
    if not isinstance(numbers, list) or any(type(k) is not int for k in numbers):
        raise ValueError(f"{name} has kps {numbers!r}, which must be a list of numbers of key-points")
    if wrong := [k for k in numbers if not 0 <= k < length]:
        raise ValueError(f"{name} names key-points {wrong}, there are {length}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} names key-points twice: {numbers}")


def box_corners(image: dict[str, Any], path: Path) -> np.ndarray | None:
    """The `bbox` of an image as x1 y1 x2 y2, or None where it has none.

    Raises:
        ValueError: not four numbers.
    """
    if image.get("bbox") is None:
        return None
    try:
        x, y, width, height = map(float, image["bbox"])
    except (TypeError, ValueError):
        raise ValueError(f"{path}: image {image['id']} has bbox {image['bbox']!r}, not x, y, width, height") from None
    return np.array([x, y, x + width, y + height])


def read_categories(content: Any, path: Path, **keys: Any) -> list[dict[str, Any]]:
    """The categories of a json file, ordered by id.

    Args:
        content: of the json file.
        path: of the file, for messages.
        keys: required keys besides `id` and `name`, with their types.

    Raises:
        ValueError: a category lacks a key, or two have the same name.
    """
    found = sorted(section(content, "categories", {"id": int, "name": str, **keys}, path), key=lambda c: c["id"])
    repeated = [name for name, count in Counter(c["name"] for c in found).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: categories repeats names {repeated[:10]}")
    return found


def section(content: Any, name: str, keys: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """A list of a json file, checked.

    Args:
        content: of the json file.
        name: key of the list.
        keys: required keys of each item, with their types.
        path: of the file, for messages.

    Raises:
        ValueError: the list is missing or empty, an item lacks a key or has one of another type, or ids repeat.
    """
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError(f'{path}: has no list "{name}", or an empty one')
    for position, item in enumerate(items):
        missing = [key for key in keys if not isinstance(item, dict) or key not in item]
        if missing:
            raise ValueError(f"{path}: {name}[{position}] lacks {missing[0]!r}")
        if wrong := [key for key, kind in keys.items() if not isinstance(item[key], kind)]:
            value = item[wrong[0]]
            raise ValueError(f"{path}: {name}[{position}] has {wrong[0]} {value!r}, which is of the wrong type")
    repeated = [i for i, count in Counter(item["id"] for item in items if "id" in item).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: {name} repeats ids {repeated[:10]}")
    return items
