import pytest
import torch
from matching_golden import Golden

from detkit.correspondence.targets import batch_flow, sparse_flow


@pytest.fixture(scope="module")
def golden():
    return Golden("c_softargmax_flow")


def points_of(golden, scale=1):
    counts = golden["n_pts"].tolist()
    return [
        [kps[:, :n].T * scale for kps, n in zip(golden[f"{name}_kps"], counts, strict=True)] for name in ("src", "trg")
    ]


@pytest.mark.parametrize(
    ("name", "scale", "geometry"),
    [
        ("flow_target_16", 1, dict(grid=16, side=256, field=35)),
        ("flow_target_32_catspp", 2, dict(grid=32, side=512, field=35)),
        ("flow_target_64_scorrsan", 1, dict(grid=64, side=256, field=11)),
    ],
)
def test_original_targets_are_official(golden, name, scale, geometry):
    source, target = points_of(golden, scale)
    flow = batch_flow(source, target, [None] * 2, **geometry, original=True)
    golden.error(name, flow.vectors, atol=1e-5)
    assert torch.equal(flow.weights > 0, (golden[name] != 0).any(1))


def test_a_point_that_does_not_move_is_a_label():
    points = torch.tensor([[100.0, 60.0]])
    vectors, weights = sparse_flow(points, points, grid=16, side=256, field=35)
    assert weights.sum() == 4 and not vectors.any()
    _, original = sparse_flow(points, points, grid=16, side=256, field=35, original=True)
    assert original.sum() == 0


def test_points_in_one_cell_are_averaged_by_weight():
    target = torch.tensor([[8.0, 8.0], [10.0, 8.0]])
    source = target + torch.tensor([[16.0, 0.0], [48.0, 16.0]])
    vectors, weights = sparse_flow(source, target, grid=16, side=256, field=35)
    assert torch.allclose(vectors[:, 0, 0], torch.tensor([2.0, 0.5])) and weights[0, 0] == 1
    vectors, weights = sparse_flow(source, target, torch.tensor([0.75, 0.25]), grid=16, side=256, field=35)
    assert torch.allclose(vectors[:, 0, 0], torch.tensor([1.5, 0.25])) and weights[0, 0] == 0.5


@pytest.mark.parametrize("original", [False, True])
def test_no_points_no_labels(original):
    vectors, weights = sparse_flow(torch.zeros(0, 2), torch.zeros(0, 2), grid=4, side=64, field=35, original=original)
    assert vectors.shape == (2, 4, 4) and not vectors.any() and not weights.any()


def test_a_point_far_outside_labels_nothing():
    points = torch.tensor([[-40.0, 10.0]])
    assert not sparse_flow(points, points, grid=4, side=64, field=35)[1].any()
