"""Image pairs that a matcher has annotated, and their mixture with labelled pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.data.coco_file import load_json
from detkit.data.pairs.dataset import PairDataset, PairOptions, PairSample, PairSamples, Side, upright_side
from detkit.data.pairs.pool import ImagePool
from detkit.data.sampling import SampleKeys
from detkit.data.views import TrainingView
from detkit.files import write_text
from detkit.ops.segmentations import all_finite
from detkit.registry import register
from detkit.registry.ranges import NonNegativeInt, PositiveShare
from detkit.structures import PairAnnotations

MAX_MACHINE_WEIGHT = 0.9999  # a weight of 1 marks a labelled point; losses treat weights below 1 differently (`trim`)
_POINT = "source x, source y, target x, target y, confidence (0 to 1), all finite numbers"
_KEYS = {"pseudo": ("source", "target", "points"), "densified": ("pair", "points")}


def write_points(path: str | Path, pairs: Sequence[dict[str, Any]], *, info: dict[str, Any]) -> None:
    """Write machine annotations as json with the entries "info" and "pairs".

    Args:
        path: the file.
        pairs: each with "points", a list of [source x, source y, target x, target y, confidence]; and either "source"
            and "target", [number in the pool, file name] each, or "pair", the id of a labelled pair.
        info: how the annotations were made.
    """
    lines = ",\n".join(json.dumps(pair) for pair in pairs)
    text = f'{{"info": {json.dumps(info)},\n"pairs": [\n{lines}\n]}}\n'
    write_text(path, text)


def _read_points(path: Path, kind: str) -> list[dict[str, Any]]:
    content = load_json(path)
    pairs: Any = content.get("pairs") if isinstance(content, dict) else None
    if not isinstance(pairs, list) or not all(isinstance(p, dict) and p.keys() >= set(_KEYS[kind]) for p in pairs):
        raise ValueError(f'{path}: is no file of {kind} pairs: "pairs" must be a list of {", ".join(_KEYS[kind])}')
    for number, pair in enumerate(pairs):
        if wrong := [name for name in ("source", "target") if name in _KEYS[kind] and not _is_named(pair[name])]:
            raise ValueError(f"{path}: {wrong[0]} of pair {number} must be [number in the pool, file name]")
        if not isinstance(pair["points"], list) or not all(map(_is_match, pair["points"])):
            raise ValueError(f"{path}: pair {number}: a point must be {_POINT}")
    return pairs


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and [type(item) for item in value] == [int, str] and value[0] >= 0


def _is_match(point: Any) -> bool:
    return (
        isinstance(point, list) and len(point) == 5 and all_finite(point) and 0 <= point[4] < 1.001
    )  # a sum of rounded shares


def _points(pair: dict[str, Any]) -> np.ndarray:
    points = np.array(pair["points"], np.float64).reshape(-1, 5)
    points[:, 4] = points[:, 4].clip(max=MAX_MACHINE_WEIGHT)
    return points


@register
class PseudoPairs(PairDataset):
    """Pairs of images of a pool with machine-made matches; the confidence of a match is the weight of its points.

    Args:
        file: see `write_points`; pairs without points are left out.
        pool: the same images as when the file was written.
        direction, limit, seed: see `PairDataset`.

    Raises:
        ValueError: not a file of `write_points`, one that was written for another pool, or one without any points.
    """

    def __init__(self, file: str | Path, pool: ImagePool, **options: PairOptions):
        self.file, self.pool = Path(file), pool
        self._pairs = [pair for pair in _read_points(self.file, "pseudo") if pair["points"]]
        if not self._pairs:
            raise ValueError(f"{self.file}: no pair has points")
        for pair in self._pairs:
            for number, name in (pair["source"], pair["target"]):
                if number >= len(pool) or pool.sides[number].file.name != name:
                    raise ValueError(f"{self.file}: image {number}, {name}, is another one in the pool")
        super().__init__(pool.label_map, [pool.labels[pair["source"][0]] for pair in self._pairs], **options)

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Two images of the pool with the machine-made points, x y in pixels of each image."""
        entry, points = self._pairs[pair], _points(self._pairs[pair])
        source, target = (
            replace(upright_side(self.pool.sides[entry[name][0]])[0], points=points[:, columns])
            for name, columns in (("source", slice(0, 2)), ("target", slice(2, 4)))
        )
        return source, target

    def read(self, side: Side) -> torch.Tensor:
        """The image as the pool reads it, uint8 [3, h, w]."""
        return self.pool.read(side)

    def __getitem__(self, index: int) -> PairSample:
        """A pair whose points are weighted by the confidence of their match.

        Raises:
            ValueError: a point lies outside of its image, or an image cannot be read.
        """
        images, known = super().__getitem__(index)
        weights = _points(self._pairs[self.image_ids[index]])[:, 4]
        if len(weights) != len(known):
            raise ValueError(f"{self.file}: pair {self.image_ids[index]} ({known.name}) has points outside of an image")
        return images, replace(known, weights=torch.from_numpy(weights).float())


@register
class DensifiedPairs(PairDataset):
    """Labelled pairs with additional machine-made points, weighted by their confidence.

    Args:
        pairs: the labelled pairs; their own points have weight 1.
        file: see `write_points`; pairs that are not in it have their own points only.

    Raises:
        ValueError: not a file of `write_points`, or it names pairs that are not in `pairs`.
    """

    def __init__(self, pairs: PairDataset, file: str | Path):
        self.pairs, self.label_map = pairs, pairs.label_map
        self.image_ids, self.labels = pairs.image_ids, pairs.labels
        self._more = {pair["pair"]: _points(pair) for pair in _read_points(Path(file), "densified")}
        if unknown := sorted(self._more.keys() - set(self.image_ids)):
            raise ValueError(f"{file}: names pairs that the labelled ones do not have: {unknown[:10]}")

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target of the labelled pair, with its labelled points only."""
        return self.pairs.sides(pair)

    def read(self, side: Side) -> torch.Tensor:
        """The image as the labelled dataset reads it, uint8 [3, h, w]."""
        return self.pairs.read(side)

    def __getitem__(self, index: int) -> PairSample:
        """The labelled pair with the machine-made points appended to its own; own points have weight 1."""
        images, known = self.pairs[index]
        more = torch.from_numpy(self._more.get(self.image_ids[index], np.zeros((0, 5)))).float()
        return images, replace(
            known,
            source_points=torch.cat([known.source_points, more[:, 0:2]]),
            target_points=torch.cat([known.target_points, more[:, 2:4]]),
            weights=torch.cat([torch.ones(len(known)), more[:, 4]]),
        )


class MixedKeys(SampleKeys):
    """Batches with labelled and machine-annotated samples in turn, each kind in random order."""

    def order(self) -> np.ndarray:
        """The samples of the epoch: labelled ones (even numbers) and machine-annotated ones (odd numbers) in turn.

        With `shuffle` each kind is permuted at random by seed and epoch.
        """
        order = np.arange(self.length)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            order[0::2], order[1::2] = rng.permutation(order[0::2]), rng.permutation(order[1::2])
        return order


class MixedView(TrainingView):
    """Samples of `MixedPairs`; the weights of machine annotations rise over the first epochs."""

    dataset: MixedPairs

    def __getitem__(self, key: int) -> Any:
        """The transformed sample of a key; the weights of a machine-annotated one are those of its epoch."""
        images, known = super().__getitem__(key)
        assert isinstance(known, PairAnnotations)
        if known.pair_id is None or known.pair_id % 2 == 0 or known.weights is None:
            return images, known
        weight = self.dataset.weight * min(1.0, (key // len(self.dataset) + 1) / (self.dataset.ramp + 1))
        return images, replace(known, weights=known.weights * weight)


@register
class MixedPairs(PairSamples):
    """Labelled pairs at even indices and machine-annotated pairs at odd ones: half and half in each batch.

    An epoch has twice as many samples as the larger of the two datasets; the smaller one is repeated.

    Args:
        labelled, pseudo: the two datasets, of the same classes.
        weight: the weight of a machine-made point is its confidence times this; a labelled point has weight 1.
        ramp: epochs over which `weight` rises from nearly 0 to its value; 0 for the full value from the start.

    Raises:
        ValueError: the classes differ, or a number is out of its range.
    """

    training_view = MixedView
    sample_keys = MixedKeys

    def __init__(
        self, labelled: PairDataset, pseudo: PairDataset, *, weight: PositiveShare = 1.0, ramp: NonNegativeInt = 0
    ):
        if labelled.label_map != pseudo.label_map:
            raise ValueError(
                f"the classes of labelled and pseudo pairs differ: {labelled.label_map} and {pseudo.label_map}"
            )
        if not 0 < weight <= 1 or ramp < 0:
            raise ValueError(f"weight must lie in 0..1 and above 0, ramp be at least 0, got {weight} and {ramp}")
        self.parts, self.weight, self.ramp = (labelled, pseudo), weight, ramp
        self.label_map = labelled.label_map
        self.image_ids = list(range(2 * max(len(labelled), len(pseudo))))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> PairSample:
        """A labelled pair at an even index, a machine-annotated one at an odd one; its id becomes `index`."""
        part = self.parts[index % 2]
        images, known = part[index // 2 % len(part)]
        return images, replace(known, pair_id=index)
