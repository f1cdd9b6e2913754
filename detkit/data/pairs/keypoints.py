"""Image pairs with common key-points from two plain json files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.annotations import short
from detkit.data.coco_file import check_size, load_json
from detkit.data.pairs.dataset import PairDataset, PairOptions, Side
from detkit.data.pairs.judging import VISIBLE, box_corners, keypoint_problem, report, usable
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


@register
class KeypointPairs(PairDataset):
    """Pairs from two json files: images with named key-points, and a list of pairs.

    The first holds "categories" (`id`, `name`, `keypoints`: their names) and "images" (`id`, `file_name`, `width`,
    `height`, `category_id`, `bbox` as x, y, width, height, and `keypoints`: `[x, y, visible]` in the order of the
    names); the second "pairs" (`src`, `trg`: image ids, and `kps`: the numbers of the common key-points). A pair
    without `kps` has all key-points that are visible in both images. Other keys are ignored.

    Key-points, boxes and pairs that cannot be used are left out and reported; a pair keeps its number in the file.

    Args:
        annotations: file of the images.
        pairs: file of the pairs.
        images: folder that the file names start from; by default `images` beside `annotations`.
        direction, limit, seed: see `PairDataset`.

    Raises:
        ValueError: a file cannot be read, has no list of categories, images or pairs, or none of its pairs can be used;
            the message names the file and the entry.
    """

    def __init__(
        self, annotations: str | Path, pairs: str | Path, images: str | Path | None = None, **options: PairOptions
    ):
        self.path = Path(annotations)
        self.folder = self.path.parent / "images" if images is None else Path(images)
        content = load_json(self.path)
        categories = read_categories(content, self.path, keypoints=list)
        items = section(content, "images", IMAGE_KEYS | {"keypoints": list}, self.path)
        self._images, self._boxes = {image["id"]: image for image in items}, read_boxes(items, self.path)
        self._unusable = self._judge_images({c["id"]: len(c["keypoints"]) for c in categories})
        path, numbers = Path(pairs), {category["id"]: i for i, category in enumerate(categories)}
        self._pairs = items_of(load_json(path), "pairs", path)
        labels = usable(path, "pairs", self._pairs, lambda number, pair: numbers[self._read_pair(number, pair)])
        self._report_pairs(path, [pair for pair, label in zip(self._pairs, labels, strict=True) if label is not None])
        super().__init__(LabelMap(tuple(c["name"] for c in categories), tuple(numbers)), labels, **options)

    def _judge_images(self, lengths: dict[int, int]) -> dict[Any, str]:
        """Why images cannot be used, by id. Key-points that cannot be used become invisible, and are reported."""
        unusable, problems = {}, []
        for image_id, image in self._images.items():
            if lengths.get(image["category_id"]) != len(image["keypoints"]):
                expected = lengths.get(image["category_id"], "no")
                unusable[image_id] = (
                    f"image {image_id} has {len(image['keypoints'])} key-points, its category {image['category_id']} "
                    f"has {expected}"
                )
                continue
            wrong = {k: why for k, value in enumerate(image["keypoints"]) if (why := keypoint_problem(value))}
            problems += [f"key-point {k} of image {image_id} {why}" for k, why in wrong.items()]
            image["keypoints"] = [[0, 0, 0] if k in wrong else value for k, value in enumerate(image["keypoints"])]
        report(self.path, f"left out {len(problems)} key-points that cannot be used", problems)
        report(self.path, f"{len(unusable)} images cannot be used", list(unusable.values()))
        return unusable

    def _read_pair(self, number: int, pair: Any) -> int:
        """The category of a pair.

        Raises:
            ValueError: it cannot be used.
        """
        if missing := [key for key in ("src", "trg") if not isinstance(pair, dict) or key not in pair]:
            raise ValueError(f"pair {number} lacks {missing[0]!r}")
        for key in ("src", "trg"):
            if not isinstance(pair[key], (int, str)) or pair[key] not in self._images:
                raise ValueError(f"pair {number} has {key} {short(pair[key])}, which is no image of {self.path}")
            if pair[key] in self._unusable:
                raise ValueError(f"pair {number}: {self._unusable[pair[key]]}")
        source, target = (self._images[pair[key]] for key in ("src", "trg"))
        if source["category_id"] != target["category_id"]:
            raise ValueError(f"pair {number} joins images {pair['src']} and {pair['trg']} of two classes")
        _check_numbers(pair.get("kps", []), len(source["keypoints"]), f"pair {number}")
        return source["category_id"]

    def _report_pairs(self, path: Path, pairs: list[dict[str, Any]]) -> None:
        """Warn of usable pairs that are odd.

        Raises:
            ValueError: none has a common key-point.
        """
        common = [len(self._common(pair)) for pair in pairs]
        if not any(common):
            raise ValueError(f"{path}: none of its {len(pairs)} usable pairs has common key-points")
        found = [(pair["src"], pair["trg"], str(pair.get("kps"))) for pair in pairs]
        counts = {
            "name key-points that are not visible in both images": sum(
                count < len(pair.get("kps", ())) for pair, count in zip(pairs, common, strict=True)
            ),
            "have no common key-points": common.count(0),
            "are an image with itself": sum(pair["src"] == pair["trg"] for pair in pairs),
            "repeat an earlier pair": len(found) - len(set(found)),
        }
        for problem, count in counts.items():
            if count:
                logger.warning("%s: %d of %d pairs %s", path, count, len(pairs), problem)

    def _common(self, pair: dict[str, Any]) -> list[int]:
        """The indices of a pair's key-points that are visible in both images."""
        visible = [[VISIBLE[v] for _, _, v in self._images[pair[key]]["keypoints"]] for key in ("src", "trg")]
        named = pair.get("kps", range(len(visible[0])))
        return [k for k in named if visible[0][k] and visible[1][k]]

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target with the key-points that both show, x y in pixels, and their boxes where they are known."""
        entry = self._pairs[pair]
        numbers = self._common(entry)
        source, target = (self._side(self._images[entry[key]], numbers) for key in ("src", "trg"))
        return source, target

    def _side(self, image: dict[str, Any], numbers: list[int]) -> Side:
        points = np.array([image["keypoints"][k][:2] for k in numbers], np.float64).reshape(-1, 2)
        size = (image["height"], image["width"])
        return Side(self.folder / image["file_name"], points, self._boxes[image["id"]], size)


def _check_numbers(numbers: Any, length: int, name: str) -> None:
    """Check the `kps` of a pair."""
    if not isinstance(numbers, list) or any(type(k) is not int for k in numbers):
        raise ValueError(f"{name} has kps {numbers!r}, which must be a list of numbers of key-points")
    if wrong := [k for k in numbers if not 0 <= k < length]:
        raise ValueError(f"{name} names key-points {wrong}, there are {length}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} names key-points twice: {numbers}")


def read_boxes(images: list[dict[str, Any]], path: Path) -> dict[Any, np.ndarray | None]:
    """The box x1 y1 x2 y2 of each image, by its id; None where there is none, or, with a warning, one that is wrong."""
    boxes: dict[Any, np.ndarray | None] = {}
    problems = []
    for image in images:
        try:
            boxes[image["id"]] = box_corners(image.get("bbox"))
        except ValueError as error:
            boxes[image["id"]] = None
            problems.append(f"image {image['id']} {error}")
    report(path, f"left out {len(problems)} boxes that cannot be used", problems)
    return boxes


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
    items = items_of(content, name, path)
    for position, item in enumerate(items):
        missing = [key for key in keys if not isinstance(item, dict) or key not in item]
        if missing:
            raise ValueError(f"{path}: {name}[{position}] lacks {missing[0]!r}")
        if wrong := [key for key, kind in keys.items() if not is_a(item[key], kind)]:
            value = short(item[wrong[0]])
            raise ValueError(f"{path}: {name}[{position}] has {wrong[0]} {value}, which is of the wrong type")
        if "width" in keys:
            check_size(item, f"{path}: {name}[{position}] (id {short(item['id'])})")
    repeated = [i for i, count in Counter(item["id"] for item in items if "id" in item).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: {name} repeats ids {repeated[:10]}")
    return items


def items_of(content: Any, name: str, path: Path) -> list[Any]:
    """The list `name` of a json file.

    Raises:
        ValueError: it is missing or empty.
    """
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError(f'{path}: has no list "{name}", or an empty one')
    return items


def is_a(value: Any, kind: Any) -> bool:
    """`isinstance`, except that a bool is no number."""
    return isinstance(value, kind) and not isinstance(value, bool)
