import numpy as np
import pytest
import torch
from pointseg_golden import Golden

from detkit.pointseg.nms import mask_nms, matrix_nms, point_nms, same_class_iou


@pytest.fixture(scope="module")
def golden():
    return Golden("06_nms")


@pytest.mark.parametrize(("kernel", "sigma"), [("gaussian", 2.0), ("gaussian", 0.5), ("linear", 2.0)])
def test_matrix_nms(golden, kernel, sigma):
    masks, labels, scores = golden.tensor("masks").bool(), golden.tensor("labels"), golden.tensor("scores")
    expected = golden[f"matrix_{kernel}_sigma{sigma}"]
    actual = matrix_nms(masks, labels, scores, kernel=kernel, sigma=sigma).numpy()
    # The official linear kernel gives NaN for a third copy, which drops it later.
    np.testing.assert_allclose(actual, np.nan_to_num(expected), atol=1e-5)


def test_matrix_nms_linear_without_copies(golden):
    keep = [i for i in range(30) if i not in (7, 11)]
    masks, labels, scores = golden.tensor("masks").bool(), golden.tensor("labels"), golden.tensor("scores")
    actual = matrix_nms(masks[keep], labels[keep], scores[keep], kernel="linear")
    np.testing.assert_allclose(actual.numpy(), golden["matrix_linear_nodup"], atol=1e-5)


def test_mask_nms(golden):
    keep = mask_nms(golden.tensor("masks").bool(), golden.tensor("labels"))
    assert keep.tolist() == golden["mask_nms_keep"].astype(bool).tolist()


def test_mask_nms_is_greedy_also_in_chains():
    """Each of 40 bars overlaps its neighbours only: every second one stays."""
    masks = torch.zeros(40, 1, 60, dtype=torch.bool)
    for i in range(40):
        masks[i, 0, i : i + 4] = True  # IoU of neighbours 3 / 5, of those two apart 2 / 6
    assert mask_nms(masks, torch.zeros(40, dtype=torch.int64)).tolist() == [True, False] * 20
    assert mask_nms(masks, torch.arange(40) % 2).all()


def test_point_nms(golden):
    heat = golden.tensor("heat")
    np.testing.assert_allclose(point_nms(heat).numpy(), golden["point_nms"], atol=1e-5)


def test_no_masks_and_empty_masks():
    none = torch.zeros(0, 4, 5, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
    assert len(mask_nms(*none)) == 0
    assert len(matrix_nms(*none, torch.zeros(0))) == 0
    empty, labels = torch.zeros(3, 4, 5, dtype=torch.bool), torch.tensor([1, 1, 0])
    assert mask_nms(empty, labels).tolist() == [True, False, True]
    assert matrix_nms(empty, labels, torch.ones(3), kernel="linear").isfinite().all()
    assert same_class_iou(empty, labels).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_unknown_kernel():
    with pytest.raises(ValueError, match="gaussian and linear"):
        matrix_nms(torch.ones(1, 2, 2).bool(), torch.zeros(1).long(), torch.ones(1), kernel="box")
