"""The precision of machine annotations, measured on labelled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from detkit.correspondence.annotate import MachinePoints
from detkit.correspondence.matcher import Matcher
from detkit.evaluation.pck import reference_length
from detkit.structures import PairAnnotations


@dataclass
class Quality:
    """Counts of machine annotations compared with key-points.

    Attributes:
        pairs: number of pairs.
        cells: number of reliable cells.
        points: number of key-points.
        judged: key-points that lie in a reliable cell.
        correct: judged key-points that the match of their cell moves to within the tolerance of their true place.
    """

    pairs: int = 0
    cells: int = 0
    points: int = 0
    judged: int = 0
    correct: int = 0

    @property
    def precision(self) -> float | None:
        """The share of the judged key-points that are correct; None if none could be judged."""
        return self.correct / self.judged if self.judged else None

    def to_dict(self) -> dict[str, float | None]:
        """The numbers, `precision`, `cells_per_pair` and `coverage`, the share of the key-points that are judged."""
        shares = {"cells_per_pair": self.cells / max(1, self.pairs), "coverage": self.judged / max(1, self.points)}
        return {**vars(self), **shares, "precision": self.precision}


def judge(
    matcher: Matcher,
    found: Sequence[MachinePoints],
    known: Sequence[PairAnnotations],
    *,
    threshold: str = "bbox",
    alpha: float = 0.1,
) -> Quality:
    """Compare machine annotations with the key-points of the same pairs, in pixels of the matcher's square.

    Args:
        matcher: which made the annotations.
        found: machine annotations of each pair.
        known: key-points of each pair, with boxes and sizes, in pixels of the upright images.
        threshold: kind of the reference length, see `detkit.evaluation.pck.reference_length`. It is that of the source,
            because matches point into the source.
        alpha: tolerance of a correct point, relative to the reference length.

    Raises:
        ValueError: no box where the threshold needs one.
    """
    quality = Quality()
    for machine, pair in zip(found, known, strict=True):
        quality.pairs += 1
        quality.cells += len(machine)
        quality.points += len(pair)
        if len(machine) and len(pair):
            errors = _errors(matcher, machine, pair)
            quality.judged += len(errors)
            quality.correct += int((errors <= alpha * _length(matcher, pair, threshold)).sum())
    return quality


def _errors(matcher: Matcher, machine: MachinePoints, pair: PairAnnotations) -> Tensor:
    """Errors of the key-points that lie in a reliable cell, [n] in pixels of the square."""
    assert pair.source_size is not None and pair.target_size is not None
    cells = matcher.to_square(machine.target, pair.target_size)
    shift = matcher.to_square(machine.source, pair.source_size) - cells
    start = matcher.to_square(pair.target_points.float(), pair.target_size)
    truth = matcher.to_square(pair.source_points.float(), pair.source_size)
    distance, nearest = (start[:, None] - cells).abs().amax(2).min(1)
    inside = distance <= 0.5 * matcher.side / matcher.grid + 1e-3
    return (start + shift[nearest] - truth)[inside].norm(dim=1)


def _length(matcher: Matcher, pair: PairAnnotations, threshold: str) -> float:
    assert pair.source_size is not None
    points = matcher.to_square(pair.source_points.float(), pair.source_size)
    box = pair.source_box
    box = None if box is None else matcher.to_square(box.float().view(2, 2), pair.source_size).flatten()
    return reference_length(threshold, frame=(matcher.side, matcher.side), box=box, points=points)
