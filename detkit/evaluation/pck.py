"""The percentage of correct key-points (PCK), over any number of ranks.

Published figures follow different conventions. Here these are: `threshold` (the reference length), `frame` (the pixels
that distances are measured in), which mean is read, and `direction` of the dataset. The standard direction transfers
source points and compares them with the target points and the target's box; the CATs family transfers target points to
the source.

Shape letters: n points, a alphas.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
import torch.distributed as dist
from annotated_types import MinLen
from torch import Tensor

from detkit.registry import register
from detkit.registry.ranges import OneOf, Pixels, PositiveFloat
from detkit.structures import Matches, PairAnnotations

THRESHOLDS = ("img", "bbox", "bbox-kp", "bbox-kp-padded")


def reference_length(
    threshold: str, *, frame: tuple[float, float], box: Tensor | None = None, points: Tensor | None = None
) -> float:
    """The reference length: a point is correct if it is at most `alpha` times this length off.

    Args:
        threshold: "img", the longer side of the image; "bbox", the longer side of the object's box; "bbox-kp", that of
            the box around the key-points; "bbox-kp-padded", as DHPF and CATs compute it for PF-WILLOW, whose key-points
            they pad with -1: the largest coordinate + 1.
        frame: (h, w) of the image that the coordinates refer to.
        box: [4] x1 y1 x2 y2, for "bbox".
        points: [n, 2], for "bbox-kp" and "bbox-kp-padded"; n is not 0.

    Raises:
        ValueError: an unknown threshold, or its box is missing.
    """
    if threshold not in THRESHOLDS:
        raise ValueError(f"unknown threshold {threshold!r}; valid: {', '.join(THRESHOLDS)}")
    if threshold == "img":
        return float(max(frame))
    if threshold == "bbox":
        if box is None:
            raise ValueError("the threshold 'bbox' needs boxes; use 'bbox-kp' for the box around the key-points")
        return float((box[2:] - box[:2]).max())
    assert points is not None and len(points)
    least = -1.0 if threshold == "bbox-kp-padded" else points.amin(0)
    return float((points.amax(0) - least).max())


def correct_points(predicted_n2: Tensor, truth_n2: Tensor, length: float, alphas: Sequence[float]) -> Tensor:
    """Which predicted points are at most `alpha * length` from the true ones, bool `[a, n]`."""
    distance = (predicted_n2 - truth_n2).norm(dim=1)
    limits = torch.tensor([length], dtype=distance.dtype) * torch.tensor(alphas, dtype=distance.dtype)
    return distance.cpu() <= limits[:, None]


class _Record(NamedTuple):
    """One pair."""

    label: int
    correct: list[list[bool]]  # [a, n]
    points: list[list[float]]
    confidence: list[float]


@register
class PCKEvaluator:
    """PCK of transferred key-points: the mean over pairs, over all points, and over classes.

    Feed it with `update`, on as many ranks as there are, then call `compute` on all of them. A pair that a distributed
    sampler gave to two ranks counts once; a pair without common points does not count.

    Args:
        dataset: gives `label_map`, and `__len__` for a warning about missing pairs.
        alphas: tolerances relative to the reference length; the first is the main figure.
        threshold: kind of the reference length, see `reference_length`.
        frame: distances are measured after stretching the images to squares of this many pixels, as in published
            figures; None measures in pixels of the upright target.

    Raises:
        ValueError: an unknown or impossible option.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        alphas: Annotated[Sequence[PositiveFloat], MinLen(1)] = (0.1, 0.05, 0.15),
        threshold: Annotated[str, OneOf(THRESHOLDS)] = "bbox",
        frame: Pixels | None = 256,
    ):
        if isinstance(alphas, (int, float)) or not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas must be a list of numbers above 0, got {alphas!r}")
        if threshold not in THRESHOLDS:
            raise ValueError(f"unknown threshold {threshold!r}; valid: {', '.join(THRESHOLDS)}")
        if frame is not None and frame < 1:
            raise ValueError(f"frame must be a number of pixels or None, got {frame!r}")
        self.alphas, self.threshold, self.frame = tuple(alphas), threshold, frame
        self._length, self._names = len(dataset), [str(name) for name in dataset.label_map.names]
        self.reset()

    def reset(self) -> None:
        """Forget all predictions and figures."""
        self._records: dict[int, _Record] = {}
        self._figures: dict[str, float] = {}
        self._per_class: dict[str, float] = {}

    def update(self, predictions: Sequence[Matches], annotations: Sequence[PairAnnotations]) -> None:
        """Add the matches of the source points of some pairs, in pixels of the upright target.

        Raises:
            ValueError: a pair without id or size, or one that came before; another number of points; coordinates that
                are not finite.
        """
        for found, pair in zip(predictions, annotations, strict=True):
            if pair.pair_id is None or pair.pair_id in self._records:
                problem = "has no id" if pair.pair_id is None else "was evaluated before; call reset()"
                raise ValueError(f"pair {pair.pair_id} ({pair.name}) {problem}")
            if len(found) != len(pair):
                raise ValueError(f"pair {pair.pair_id} ({pair.name}): {len(found)} points found for {len(pair)}")
            if not found.points.isfinite().all():
                raise ValueError(f"pair {pair.pair_id} ({pair.name}): found points are NaN or infinite")
            self._records[pair.pair_id] = self._record(found, pair)

    def _record(self, found: Matches, pair: PairAnnotations) -> _Record:
        correct: list[list[bool]] = [[] for _ in self.alphas]
        if len(pair) and not self._lacks_box(pair):
            predicted, truth, length = self._in_frame(found, pair)
            correct = correct_points(predicted, truth, length, self.alphas).tolist()
        return _Record(pair.label, correct, found.points.tolist(), found.confidence.tolist())

    def _lacks_box(self, pair: PairAnnotations) -> bool:
        return self.threshold == "bbox" and pair.target_box is None

    def _in_frame(self, found: Matches, pair: PairAnnotations) -> tuple[Tensor, Tensor, float]:
        """The found and the true points, and the reference length, all in the frame."""
        if pair.target_size is None:
            raise ValueError(f"pair {pair.pair_id} ({pair.name}) does not say how large its target is")
        h, w = pair.target_size
        frame = (h, w) if self.frame is None else (self.frame, self.frame)
        scale = torch.tensor([frame[1] / w, frame[0] / h], dtype=torch.float64)
        predicted, truth = (points.cpu().double() * scale for points in (found.points, pair.target_points))
        box = None if pair.target_box is None else pair.target_box.cpu().double() * scale.repeat(2)
        try:
            return predicted, truth, reference_length(self.threshold, frame=frame, box=box, points=truth)
        except ValueError as error:
            raise ValueError(f"pair {pair.pair_id} ({pair.name}): {error}") from error

    def compute(self) -> dict[str, float]:
        """The figures, the same on every rank; all ranks must call it.

        Pairs without a box do not count where the threshold needs it; a warning has their number.

        Returns:
            For each alpha "PCK@0.1", the mean over pairs, "PCK@0.1/point", the share of all points, and
            "PCK@0.1/class", the mean over classes of the mean over their pairs; 0..1, or -1 where nothing counts.

        Raises:
            ValueError: no pair has the box that the threshold needs.
        """
        self._records = _merge(self._records)
        if len(self._records) < self._length:
            warnings.warn(
                f"{self._length - len(self._records)} of {self._length} pairs were not evaluated", stacklevel=2
            )
        records = [record for record in self._records.values() if record.correct[0]]
        self._report_boxless(len(records), sum(bool(record.points) for record in self._records.values()))
        self._figures, self._per_class = {}, {}
        for i, alpha in enumerate(self.alphas):
            shares = [_mean(record.correct[i]) for record in records]
            classes = self._class_means(shares, [record.label for record in records])
            self._figures |= {
                f"PCK@{alpha:g}": _mean(shares),
                f"PCK@{alpha:g}/point": _mean([point for record in records for point in record.correct[i]]),
                f"PCK@{alpha:g}/class": _mean(list(classes.values())),
            }
            self._per_class |= {f"PCK@{alpha:g}/{name}": share for name, share in classes.items()}
        return dict(self._figures)

    def _report_boxless(self, counted: int, with_points: int) -> None:
        if counted == with_points:
            return
        lacking = f"{with_points - counted} of {with_points} pairs have no box, which the threshold 'bbox' needs"
        if not counted:
            raise ValueError(f"{lacking}; use 'bbox-kp' for the box around the key-points")
        warnings.warn(f"{lacking}: they do not count", stacklevel=3)

    def _class_means(self, shares: Sequence[float], labels: Sequence[int]) -> dict[str, float]:
        """The mean over the pairs of each class that has any."""
        of_label = {label: [s for s, other in zip(shares, labels, strict=True) if other == label] for label in labels}
        return {self._names[label]: _mean(of_label[label]) for label in sorted(of_label)}

    def per_class(self) -> dict[str, float]:
        """ "PCK@0.1/<class name>" of the last `compute`: the mean over the pairs of each class that has any."""
        return dict(self._per_class)

    def results(self) -> list[dict[str, Any]]:
        """`{"pair_id", "points", "confidence"}` of each pair, in pixels of the upright target, ordered by id."""
        return [
            {"pair_id": pair_id, "points": record.points, "confidence": record.confidence}
            for pair_id, record in sorted(self._records.items())
        ]

    def table(self, *, per_class: bool = False) -> str:
        """The last figures as text, in percent; "-" where nothing counts."""
        rows = {name: [f"PCK@{a:g}{end}" for a in self.alphas] for name, end in _MEANS.items()}
        values = {name: [self._figures[key] for key in keys] for name, keys in rows.items()}
        if per_class:
            names = dict.fromkeys(key.partition("/")[2] for key in self._per_class)
            values |= {name: [self._per_class[f"PCK@{a:g}/{name}"] for a in self.alphas] for name in names}
        width = max(map(len, values))
        lines = [" " * width + "".join(f"{f'PCK@{a:g}':>10}" for a in self.alphas)]
        lines += [f"{name:{width}}" + "".join(_percent(v) for v in row) for name, row in values.items()]
        return "\n".join(lines)


_MEANS = {"mean over pairs": "", "share of points": "/point", "mean over classes": "/class"}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else -1.0


def _percent(value: float) -> str:
    return f"{'-':>10}" if value < 0 else f"{100 * value:10.1f}"


def _merge(records: dict[int, _Record]) -> dict[int, _Record]:
    """The records of all ranks; of a pair on two ranks the lower rank's counts."""
    if not (dist.is_available() and dist.is_initialized()):
        return records
    parts: list[dict[int, _Record]] = [{}] * dist.get_world_size()
    dist.all_gather_object(parts, records)
    return {pair_id: record for part in reversed(parts) for pair_id, record in part.items()}
