"""Image pairs with common key-points from two plain json files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.coco_file import load_json
from detkit.data.pairs import PairDataset, Side
from detkit.registry import register
from detkit.structures import LabelMap

logger = logging.getLogger(__name__)

_IMAGE_KEYS = ("id", "file_name", "width", "height", "category_id", "keypoints")
_PAIR_KEYS = ("src", "trg")


@register
class KeypointPairs(PairDataset):
    """Pairs from two json files: images with named key-points, and a list of pairs.

    The first holds "categories" (`id`, `name`, `keypoints`: their names) and "images" (`id`, `file_name`, `width`,
    `height`, `category_id`, `bbox` as x, y, width, height, and `keypoints`: `[x, y, visible]` in the order of the
    names); the second "pairs" (`src`, `trg`: image ids, and `kps`: the numbers of the common key-points). A pair
    without `kps` has all that are visible in both images. Other keys are left alone.

    Args:
        annotations: file of the images.
        pairs: file of the pairs.
        images: folder that the file names start from; by default `images` beside `annotations`.
        direction, limit, seed: see `PairDataset`.

    Raises:
        ValueError: a file that cannot be read, lacks something, or refers to what is not there; the message names it.
    """

    def __init__(self, annotations: str | Path, pairs: str | Path, images: str | Path | None = None, **options: Any):
        self.path = Path(annotations)
        self.folder = self.path.parent / "images" if images is None else Path(images)
        content = load_json(self.path)
        categories = sorted(section(content, "categories", ("id", "name", "keypoints"), self.path), key=_identifier)
        self._images = {image["id"]: image for image in section(content, "images", _IMAGE_KEYS, self.path)}
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

    def _check_pairs(self, path: Path) -> None:
        problems: Counter[str] = Counter()
        for number, pair in enumerate(self._pairs):
            for key in _PAIR_KEYS:
                if pair[key] not in self._images:
                    raise ValueError(f"{path}: pair {number} has {key} {pair[key]}, which is no image of {self.path}")
            source, target = (self._images[pair[key]] for key in _PAIR_KEYS)
            if source["category_id"] != target["category_id"]:
                raise ValueError(f"{path}: pair {number} joins images {pair['src']} and {pair['trg']} of two classes")
            wrong = [k for k in pair.get("kps", ()) if not 0 <= k < len(source["keypoints"])]
            if wrong:
                raise ValueError(
                    f"{path}: pair {number} names key-points {wrong}, there are {len(source['keypoints'])}"
                )
            common = self._common(pair)
            problems["name key-points that are not visible in both images"] += len(common) < len(pair.get("kps", ()))
            problems["have no common key-points"] += not common
        for problem, count in problems.items():
            if count:
                logger.warning("%s: %d of %d pairs %s", path, count, len(self._pairs), problem)

    def _common(self, pair: dict[str, Any]) -> list[int]:
        """The numbers of the key-points that a pair names and that are visible in both images."""
        visible = [[bool(v) for _, _, v in self._images[pair[key]]["keypoints"]] for key in _PAIR_KEYS]
        named = pair.get("kps", range(len(visible[0])))
        return [k for k in named if visible[0][k] and visible[1][k]]

    def sides(self, pair: int) -> tuple[Side, Side]:
        entry = self._pairs[pair]
        numbers = self._common(entry)
        source, target = (self._side(self._images[entry[key]], numbers) for key in _PAIR_KEYS)
        return source, target

    def _side(self, image: dict[str, Any], numbers: list[int]) -> Side:
        points = np.array([image["keypoints"][k][:2] for k in numbers], np.float64).reshape(-1, 2)
        box = np.array(image["bbox"], np.float64) if "bbox" in image else None
        if box is not None:
            box[2:] += box[:2]
        return Side(self.folder / image["file_name"], points, box, (image["height"], image["width"]))


def _identifier(item: dict[str, Any]) -> int:
    return item["id"]


def section(content: Any, name: str, keys: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """A list of a json file, each of whose items has the keys, and another id where they have ids.

    Raises:
        ValueError: there is no such list, or not such items.
    """
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError(f'{path}: has no list "{name}", or an empty one')
    for position, item in enumerate(items):
        missing = [key for key in keys if not isinstance(item, dict) or key not in item]
        if missing:
            raise ValueError(f"{path}: {name}[{position}] lacks {missing[0]!r}")
    repeated = [i for i, count in Counter(item["id"] for item in items if "id" in item).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: {name} repeats ids {repeated[:10]}")
    return items
