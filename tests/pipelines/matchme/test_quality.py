"""The precision of machine annotations on pairs with known key-points."""

import pytest
import torch
from torch import nn

from detkit.correspondence.annotate import MachinePoints
from detkit.correspondence.neighbours import NearestNeighbourMatcher
from detkit.pipelines.matchme.labels import as_rows, skip_labelled_cells
from detkit.pipelines.matchme.quality import judge
from detkit.structures import PairAnnotations

MATCHER = NearestNeighbourMatcher(nn.Identity(), side=64, grid=8, field=16)


def known(source, target, **fields):
    """A pair of images of 64 x 64 and, twice as large, 128 x 128."""
    points = (torch.tensor(p).float().reshape(-1, 2) for p in (source, target))
    return PairAnnotations(*points, pair_id=0, source_size=(64, 64), target_size=(128, 128), **fields)


def machine(*points):
    table = torch.tensor(points).float().reshape(-1, 5)
    return MachinePoints(table[:, :2], table[:, 2:4], table[:, 4])


def test_key_points_in_reliable_cells_move_with_them():
    # Cells of the target are 16 pixels wide; that around (24, 24) moves to (20, 12) of the source.
    found = machine([20, 12, 24, 24, 0.9], [60, 60, 120, 120, 0.8])
    inside = known([[21, 12], [21, 19]], [[26, 24], [30, 31]], source_box=torch.tensor([0.0, 0, 40, 40]))
    quality = judge(MATCHER, [found], [inside], alpha=0.1)
    # The first lies 2 pixels right of the centre, 1 in the square; it is moved to (21, 12): exactly right.
    # The second is moved to (23, 15.5), 4.03 from where it belongs, and 4 are allowed.
    assert (quality.judged, quality.correct, quality.cells, quality.points) == (2, 1, 2, 2)
    assert judge(MATCHER, [found], [inside], alpha=0.11).correct == 2
    assert judge(MATCHER, [found], [inside], threshold="img", alpha=0.07).correct == 2
    assert quality.to_dict()["precision"] == 0.5 and quality.to_dict()["cells_per_pair"] == 2


def test_key_points_elsewhere_and_pairs_without_any_are_not_judged():
    found = machine([20, 12, 24, 24, 0.9])
    box = torch.tensor([0.0, 0, 40, 40])
    elsewhere, nothing = known([[21, 12]], [[90, 90]], source_box=box), known([], [])
    quality = judge(MATCHER, [found, found, machine()], [elsewhere, nothing, elsewhere])
    assert (quality.pairs, quality.judged, quality.precision) == (3, 0, None)
    with pytest.raises(ValueError, match="boxes"):
        judge(MATCHER, [found], [known([[20, 12]], [[24, 24]])])


def test_the_truth_wins_near_key_points():
    found = machine([1, 1, 24, 24, 0.9], [2, 2, 40, 24, 0.8], [3, 3, 60, 24, 0.7])
    free = skip_labelled_cells(MATCHER, known([[5, 5]], [[24, 26]]), found)
    # 8 pixels of the square on either side are 16 of the target.
    assert free.target[:, 0].tolist() == [60] and free.confidence.tolist() == pytest.approx([0.7])
    assert len(skip_labelled_cells(MATCHER, known([], []), found)) == 3


def test_rows_are_plain_numbers():
    assert as_rows(machine([1.23456, 2, 3, 4, 0.87654321])) == [[1.23, 2.0, 3.0, 4.0, 0.8765]]
