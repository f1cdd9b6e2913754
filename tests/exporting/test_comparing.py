"""What counts as the same numbers."""

import torch

from detkit.exporting.comparing import INT8, End, Tolerance, compare_detections
from detkit.structures import Detections

BOXES = torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60], [5, 40, 25, 70]])
SCORES = torch.tensor([0.9, 0.5, 0.2])


def found(boxes=BOXES, scores=SCORES, labels=(0, 1, 1), masks=None):
    return Detections(boxes, scores, torch.tensor(labels), masks)


ALL = Tolerance()
FULL = End(3)


def problems(own, new, tolerance=ALL, end=FULL):
    return compare_detections(own, new, tolerance, end).problems


def test_equal_detections_in_another_order():
    order = torch.tensor([0, 2, 1])
    assert not problems(found(), found(BOXES[order], SCORES[order], (0, 1, 1)))
    near = compare_detections(found(), found(BOXES + 0.4, SCORES + 9e-4), Tolerance(), End(3))
    assert not near.problems and near.compared == 3 and abs(near.pixels - 0.4) < 1e-5


def test_moved_boxes_other_scores_and_other_classes():
    assert "off by 1.2 times" in problems(found(), found(BOXES + 0.6))[0]
    assert problems(found(), found(scores=SCORES + 2e-3))
    assert problems(found(), found(labels=(0, 1, 0))) == []  # the last of the list
    assert "the highest scores 0.500" in problems(found(), found(labels=(0, 0, 1)))[0]


def test_only_the_end_of_a_list_that_was_cut_is_excused():
    one, other = found()[:1], found(BOXES + 300)[:1]
    assert problems(one, other) and problems(one, one[:0]) and problems(one[:0], one)
    assert problems(found(), found(labels=(0, 1, 0)), end=End(100))
    assert problems(found(), found()[:2], end=End(100))
    assert problems(found(), found()[:2], end=End(100, 0.1995)) == []  # dropped for its score


def test_masks_of_what_scores_low_do_not_count_for_int8():
    masks = torch.ones(3, 80, 80, dtype=torch.bool)
    low, high = masks.clone(), masks.clone()
    low[2, :40], high[1, :40] = False, False
    assert not problems(found(masks=masks), found(masks=low), INT8)
    assert problems(found(masks=masks), found(masks=high), INT8)


def test_nothing_lost_nothing_invented():
    assert problems(found(), found()[:2])
    assert problems(found(), found()[:1]) and problems(found()[:1], found())
    assert problems(found(), found()[:0])
    assert not problems(found()[:0], found()[:0])


def test_values_that_are_no_numbers():
    assert problems(found(), found(BOXES * torch.nan))
    assert problems(found(), found(scores=SCORES * torch.nan))


def test_masks():
    masks = torch.zeros(3, 80, 80, dtype=torch.bool)
    masks[:, 10:40, 10:40] = True
    other = masks.clone()
    other[2, 10, 10:12] = False  # two pixels
    assert not problems(found(masks=masks), found(masks=other))
    other[1, 10, 10:40] = False
    assert "IoU of 0.9667" in problems(found(masks=masks), found(masks=other))[0]
