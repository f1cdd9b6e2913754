import pytest
from found import evaluated

from detkit.reports import errors
from detkit.reports.errors import confusion_matrix, count_kinds, find_errors, worst_images
from detkit.reports.matching import Matching

OBJECT, OTHER, CROWD = [0, 0, 20, 20], [60, 0, 80, 20], [0, 50, 40, 90]
OBJECTS = [[(0, OBJECT, 0), (1, OTHER, 0), (0, CROWD, 1), (1, [40, 40, 60, 60], 0)], []]
FOUND = [
    [
        (0, OBJECT, 0.9),
        (1, [1, 0, 21, 20], 0.8),  # the same object again, as another class
        (0, [0, 1, 20, 21], 0.7),  # and once more
        (0, [60, 1, 80, 21], 0.6),  # of class 1
        (0, [10, 55, 30, 75], 0.5),  # in the crowd
        (1, [50, 40, 70, 60], 0.4),  # an IoU of 1/3
    ],
    [(0, OBJECT, 0.3)],
]
KINDS = [errors.RIGHT, errors.DOUBLED, errors.DOUBLED, errors.CONFUSED, errors.IGNORED, errors.MISPLACED]


@pytest.fixture(params=["bbox", "segm"])
def judged(request):
    found = evaluated(OBJECTS, FOUND, ("cat", "dog"), with_masks=True)
    matching = Matching(found, request.param)
    return find_errors(matching, found.truth), matching


def test_each_detection_is_what_it_is(judged):
    found, _ = judged
    assert found.kind.tolist() == [*KINDS, errors.INVENTED]
    assert found.found.tolist() == [True, False, False]
    assert found.seen_as.tolist() == [-1, 0, -1]


def test_rows_of_the_confusion_matrix_are_the_true_objects(judged):
    matrix = confusion_matrix(*judged, 2)
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [2, 2, 0]]


def test_counts_of_kinds(judged):
    right_confused_doubled_misplaced_invented_missed = [[1, 1, 1, 0, 1, 0], [0, 0, 1, 1, 0, 2]]
    assert count_kinds(*judged, 2).tolist() == right_confused_doubled_misplaced_invented_missed


def test_an_object_is_confused_by_the_best_detection_only():
    found = evaluated([[(1, OBJECT, 0)]], [[(0, OBJECT, 0.3), (2, OBJECT, 0.6)]], ("cat", "dog", "cow"))
    matching = Matching(found, "bbox")
    judged = find_errors(matching, found.truth)
    assert judged.seen_as.tolist() == [2] and judged.kind.tolist() == [errors.DOUBLED, errors.CONFUSED]


def test_worst_images_stand_once():
    none: list = []
    objects = [[(0, OBJECT, 0)] * 2, [(0, OBJECT, 0)], [(0, OBJECT, 0)], none, [(0, OTHER, 0)]]
    twice = [(0, OBJECT, 0.9), (0, OBJECT, 0.8)]
    found = evaluated(objects, [none, [(1, OBJECT, 0.9)], twice, [(0, OBJECT, 0.9)], [(0, OTHER, 0.9)]], ("cat", "dog"))
    matching = Matching(found, "bbox")
    chosen = worst_images(find_errors(matching, found.truth), matching, each=1)
    assert chosen == {"missed": [0], "confused": [1], "doubled": [2], "invented": [3], "crowded": []}
