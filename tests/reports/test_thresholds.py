import numpy as np
import pytest
from found import evaluated, random_scenes

from detkit.reports.findings import find
from detkit.reports.matching import Matching
from detkit.reports.thresholds import GRID, LOWEST, UNKNOWN, ScoreCurve, by_name, score_curves
from detkit.structures import LabelMap


def f1_of(curve, threshold):
    accepted = curve.score >= threshold
    return 2 * curve.right[accepted].sum() / (accepted.sum() + curve.objects)


@pytest.fixture(scope="module")
def scenes():
    return evaluated(*random_scenes(40), ("cat", "dog", "cow"))


def test_the_threshold_has_the_best_f1(scenes):
    for curve in score_curves(Matching(scenes, "bbox"), 3):
        best = max(f1_of(curve, score) for score in curve.score if score >= LOWEST)
        assert f1_of(curve, curve.threshold) == best == pytest.approx(curve.at(curve.threshold)[0]) and best > 0.3


def test_f1_on_the_grid(scenes):
    curve = score_curves(Matching(scenes, "bbox"), 3)[-1]
    np.testing.assert_allclose(curve.f1_on_grid(), [f1_of(curve, threshold) for threshold in GRID])


def test_precision_on_the_grid_is_cocos(scenes):
    for curve, name in zip(score_curves(Matching(scenes, "bbox"), 3), scenes.names, strict=False):
        assert curve.precision_on_grid().mean() == pytest.approx(scenes.classes["bbox"][name]["AP50"])


def test_equal_scores_are_accepted_together():
    curve = ScoreCurve(2, np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, True, False, False]))
    assert curve.threshold == pytest.approx(0.7)


def test_a_class_that_is_never_right_and_a_score_that_is_noise():
    assert ScoreCurve(2, np.array([0.9]), np.array([False])).threshold == UNKNOWN
    assert ScoreCurve(0, np.array([]), np.array([], dtype=bool)).threshold == UNKNOWN
    assert ScoreCurve(1, np.array([0.01]), np.array([True])).threshold == LOWEST


def test_thresholds_by_the_names_of_the_model():
    of_all = ScoreCurve(1, np.array([0.8]), np.array([True]))
    label_map = LabelMap(("class_10", None, "new"), (10, 4, 12))
    assert by_name(np.array([0.2, 0.6]), of_all, [10, 11], label_map) == {"class_10": 0.2, "new": 0.4}


def test_what_scores_lower_does_not_take_part(scenes):
    found = find(scenes, "bbox", np.array([0.5, 0.6, 2.0]))
    for k, least in enumerate((0.5, 0.6)):
        assert found.kept.score[found.kept.category == k].min() >= least
    assert not (found.kept.category == 2).any() and len(found.matching.rows) > len(found.kept.rows) > 0
