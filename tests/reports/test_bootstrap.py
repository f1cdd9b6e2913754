import numpy as np
import pytest
from found import evaluated, random_scenes

from detkit.reports.bootstrap import PrecisionTable, bootstrap
from detkit.reports.matching import Matching

NAMES = ("cat", "dog", "cow")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_all_images_once_are_cocos_figures(iou_type):
    found = evaluated(*random_scenes(30), NAMES, with_masks=True)
    precision = PrecisionTable(Matching(found, iou_type), 3).average_precision(np.ones(30))
    for values, name in zip(precision, NAMES, strict=True):
        figures = found.classes[iou_type][name]
        assert [values.mean(), values[0], values[5]] == pytest.approx([figures[k] for k in ("AP", "AP50", "AP75")])


def test_a_weight_is_so_many_copies_of_an_image():
    objects, found = random_scenes(8, seed=3)
    weights = np.array([2, 0, 1, 3, 1, 0, 1, 2])
    copies = np.repeat(np.arange(8), weights)
    repeated = evaluated([objects[i] for i in copies], [found[i] for i in copies], NAMES)
    one = PrecisionTable(Matching(evaluated(objects, found, NAMES), "bbox"), 3)
    for values, name in zip(one.average_precision(weights.astype(float)), NAMES, strict=True):
        assert values.mean() == pytest.approx(repeated.classes["bbox"][name]["AP"], abs=1e-9)


def test_a_class_without_objects_has_no_figure():
    found = evaluated([[(0, [0, 0, 20, 20], 0)]], [[(1, [0, 0, 20, 20], 0.5)]], ("cat", "dog"))
    precision = PrecisionTable(Matching(found, "bbox"), 2).average_precision(np.ones(1))
    assert precision[0].tolist() == [0] * 10 and np.isnan(precision[1]).all()


def test_the_interval_of_a_mean_is_the_one_of_statistics():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda weights: np.array([weights @ values / 400, np.nan]), 400)
    error = values.std() / np.sqrt(400)
    assert [low[0], high[0]] == pytest.approx([values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.015)
    assert np.isnan([low[1], high[1]]).all()
