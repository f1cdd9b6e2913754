import numpy as np

from detkit.modeling.merging import Found, fuse_copies, is_cut, merge_parts

SIZE = (100, 200)
LEFT, RIGHT = (0, 0, 120, 100), (80, 0, 200, 100)
PARTS = np.array([LEFT, RIGHT], dtype=float)


def found(*rows):
    """Rows of (box, score, label, part)."""
    boxes, scores, labels, parts = zip(*rows, strict=True)
    return Found(np.array(boxes, dtype=float), np.array(scores), np.array(labels), np.array(parts))


def merged(*rows):
    return [(one.box.tolist(), one.score, one.members) for one in merge_parts(found(*rows), PARTS, SIZE)]


def test_an_object_that_two_parts_see_whole_is_one():
    rows = [((90, 10, 110, 30), 0.8, 0, 0), ((91, 10, 110, 31), 0.9, 0, 1)]
    assert merged(*rows) == [([91, 10, 110, 31], 0.9, [1])]


def test_pieces_of_an_object_across_both_parts_become_one():
    rows = [((40, 10, 120, 30), 0.9, 0, 0), ((80, 11, 160, 30), 0.8, 0, 1)]
    assert merged(*rows) == [([40, 10, 160, 30], 0.9, [0, 1])]


def test_a_whole_object_replaces_its_piece_and_takes_its_score():
    rows = [((100, 10, 120, 30), 0.9, 0, 0), ((100, 10, 160, 30), 0.7, 0, 1)]
    assert merged(*rows) == [([100, 10, 160, 30], 0.9, [1])]


def test_a_piece_is_not_stretched_by_a_weak_detection():
    rows = [((100, 10, 120, 30), 0.9, 0, 0), ((100, 10, 160, 30), 0.1, 0, 1)]
    assert merged(*rows) == [([100, 10, 120, 30], 0.9, [0])]


def test_neighbours_other_classes_and_objects_of_one_part_stay():
    rows = [
        ((85, 10, 100, 30), 0.9, 0, 0),
        ((101, 10, 116, 30), 0.8, 0, 1),  # beside it
        ((85, 10, 100, 30), 0.7, 1, 1),  # of another class
        ((86, 10, 100, 30), 0.6, 0, 0),  # of the same part: the model says two
    ]
    assert [score for _, score, _ in merged(*rows)] == [0.9, 0.8, 0.7, 0.6]


def test_nothing_and_one_alone():
    assert merge_parts(Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)), PARTS, SIZE) == []
    assert merged(((0, 0, 5, 5), 0.5, 3, 0)) == [([0, 0, 5, 5], 0.5, [0])]


def test_edges_of_the_image_cut_nothing():
    boxes = np.array([(0, 0, 50, 50), (60, 0, 120, 50), (60, 10, 100, 50)], dtype=float)
    assert is_cut(boxes, PARTS[[0, 0, 0]], SIZE).tolist() == [False, True, False]


def test_copies_vote():
    rows = [((10, 10, 20, 20), 0.8, 0, 0), ((10, 10, 22, 20), 0.4, 0, 1), ((50, 50, 60, 60), 0.6, 0, 1)]
    both, alone = fuse_copies(found(*rows), 2)
    np.testing.assert_allclose(both.box, [10, 10, (20 * 0.8 + 22 * 0.4) / 1.2, 20])
    assert abs(both.score - 0.6) < 1e-9 and both.members == [0]
    assert alone.score == 0.3 and alone.members == [2]


def test_copies_take_one_detection_each():
    rows = [((10, 10, 20, 20), 0.8, 0, 0), ((10, 10, 20, 20), 0.7, 0, 0), ((10, 10, 20, 20), 0.6, 0, 1)]
    assert [round(one.score, 3) for one in fuse_copies(found(*rows), 2)] == [0.7, 0.35]
