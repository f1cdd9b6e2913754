"""Which matches of a matcher are kept as annotations."""

import pytest
import torch
from tiny_matchers import pair, tiny_cats

from detkit.correspondence.annotate import Rules, annotate
from detkit.correspondence.matcher import Matcher
from detkit.structures import PairBatch

EVERYTHING = Rules(relative=10, absolute=1000, confidence=0, boxes=False, minimum=1)


class ShiftMatcher(Matcher):
    """Is sure that each place of the target shows what is `cells` further right in the source."""

    def __init__(self, cells=1, doubtful=(), **options):
        super().__init__(side=64, grid=8, **options)
        self.cells, self.doubtful = cells, doubtful

    def correlation(self, source, target):
        corr, n = torch.zeros(len(source), 64, 64), self.grid
        # The source is the image with the brighter mean; the other way round the shift is the opposite.
        sign = 1 if source.mean() > target.mean() else -1
        for cell in range(64):
            x = min(max(cell % n + sign * self.cells, 0), n - 1)
            corr[:, cell // n * n + x, cell] = 0.0 if cell in self.doubtful and sign == 1 else 1.0
        return corr


def bright_and_dark(size=(64, 64), other=(64, 64), **fields):
    images, known = pair(size=size, other=other, **fields)
    images.source = torch.full_like(images.source, 200)
    images.target = torch.full_like(images.target, 50)
    return images, known


def test_consistent_matches_are_kept_and_those_over_the_border_are_not():
    batch = PairBatch.collate([bright_and_dark()])
    (found,) = annotate(ShiftMatcher().eval(), batch, Rules(confidence=0.9, absolute=0.5, minimum=1))
    assert len(found) == 8 * 7
    assert torch.allclose(found.source, found.target + torch.tensor([8.0, 0.0]), atol=1e-3)
    assert found.target[:, 0].max() == 52  # in the last column the way there and back do not agree
    assert (found.confidence > 0.9).all()


def test_points_are_in_pixels_of_images_of_any_size():
    batch = PairBatch.collate([bright_and_dark(size=(128, 32), other=(64, 640))])
    (found,) = annotate(ShiftMatcher().eval(), batch, Rules(minimum=1))
    assert found.target[:, 0].max() == 520 and found.target[:, 1].max() == 60
    assert found.source[:, 0].max() == 30 and found.source[:, 1].max() == 120


def test_confidence_box_cap_and_minimum():
    matcher, doubtful = ShiftMatcher().eval(), ShiftMatcher(doubtful=range(32)).eval()
    batch = PairBatch.collate([bright_and_dark()])
    assert len(annotate(doubtful, batch, Rules(minimum=1))[0]) == 28
    assert len(annotate(matcher, batch, Rules(cap=10))[0]) == 10
    assert len(annotate(matcher, batch, Rules(minimum=57))[0]) == 0
    boxes = dict(source_box=torch.tensor([0.0, 0, 64, 64]), target_box=torch.tensor([16.0, 0, 64, 16]))
    boxed = PairBatch.collate([bright_and_dark(**boxes)])
    assert len(annotate(matcher, boxed, Rules())[0]) == 2 * 5
    assert len(annotate(matcher, boxed, Rules(boxes=False))[0]) == 56


def test_the_most_confident_come_first_and_batches_do_not_matter():
    model, samples = tiny_cats(temperature=0.1).eval(), [pair(), pair(points=0, size=(40, 90)), pair(other=(33, 65))]
    together = annotate(model, PairBatch.collate(samples), EVERYTHING)
    for sample, found in zip(samples, together, strict=True):
        (alone,) = annotate(model, PairBatch.collate([sample]), EVERYTHING)
        assert len(found) > 1 and (found.confidence.diff() <= 0).all()
        assert torch.allclose(found.target, alone.target) and torch.allclose(found.source, alone.source, atol=1e-2)


def test_absolute_is_in_cells_of_a_grid_of_16():
    """On a coarser grid the same distance in pixels is fewer cells."""
    matcher = ShiftMatcher(cells=0).eval()
    batch = PairBatch.collate([bright_and_dark()])
    assert len(annotate(matcher, batch, Rules(relative=0, absolute=0.01, minimum=1))[0]) == 64
    shifted = ShiftMatcher(cells=1).eval()
    # The last column returns one cell off: 1 <= absolute * (8 / 16)^2 from absolute 4 on.
    assert len(annotate(shifted, batch, Rules(relative=0, absolute=3.9, minimum=1))[0]) == 56
    assert len(annotate(shifted, batch, Rules(relative=0, absolute=4.1, minimum=1))[0]) == 64


def test_wrong_rules_and_training_mode_are_refused():
    with pytest.raises(ValueError, match="confidence"):
        Rules(confidence=1.5)
    with pytest.raises(ValueError, match="minimum"):
        Rules(minimum=0)
    with pytest.raises(RuntimeError, match="eval"):
        annotate(tiny_cats(), PairBatch.collate([pair()]), Rules())
