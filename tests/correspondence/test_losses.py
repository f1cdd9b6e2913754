import pytest
import torch
from matching_golden import Golden

from detkit.correspondence.losses import batch_flow, end_point_error, end_point_errors, sparse_flow
from detkit.structures import Flow

TOLERANCE = dict(rtol=1e-5, atol=1e-6)


def labelled(vectors):
    """A flow target from vectors alone, where (0, 0) means no label, as in the official code."""
    return Flow(vectors, (vectors != 0).any(1).to(vectors.dtype))


def test_end_point_error_is_official():
    golden = Golden("d_epe_loss")
    flow, target = golden.input("pred_flow").requires_grad_(), labelled(golden["target_flow"])
    assert torch.equal(target.weights > 0, golden["valid_mask"])
    loss = end_point_error(flow, target)
    golden.error("loss_mean", loss, **TOLERANCE)
    loss.backward()
    golden.error("grad_pred", flow.grad, **TOLERANCE)
    errors = end_point_errors(flow, target.vectors)
    golden.error("loss_dense_mean", errors.mean(), **TOLERANCE)
    golden.error("loss_sum", errors[target.weights > 0].sum(), **TOLERANCE)


def test_weights_weigh_cells():
    flow = torch.zeros(1, 2, 1, 2)
    target = Flow(torch.tensor([[[[3.0, 6.0]], [[4.0, 8.0]]]]), torch.tensor([[[1.0, 0.25]]]))
    assert end_point_error(flow, target) == pytest.approx((5 + 0.25 * 10) / 1.25)


def test_no_label_costs_nothing_and_keeps_the_gradient_finite():
    flow = torch.zeros(2, 2, 4, 4, requires_grad=True)
    loss = end_point_error(flow, labelled(torch.zeros(2, 2, 4, 4)))
    loss.backward()
    assert loss == 0 and not flow.grad.any()


def test_the_largest_errors_of_machine_labels_can_be_left_out():
    """Cells of weight 1 always count; of the four others the share `trim` with the largest errors does not."""
    flow = torch.zeros(1, 2, 1, 6)
    vectors = torch.zeros(1, 2, 1, 6)
    vectors[0, 0, 0] = torch.tensor([100.0, 1.0, 2.0, 3.0, 50.0, 7.0])
    weights = torch.tensor([[[1.0, 0.5, 0.5, 0.5, 0.5, 0.0]]])
    target = Flow(vectors, weights)
    assert end_point_error(flow, target, trim=0.25).item() == pytest.approx((100 + 0.5 * 6) / 2.5)
    assert end_point_error(flow, target, trim=0.5).item() == pytest.approx((100 + 0.5 * 3) / 2)
    assert end_point_error(flow, target, trim=0.1).item() == end_point_error(flow, target).item()
    sure = Flow(vectors, torch.ones_like(weights))
    assert end_point_error(flow, sure, trim=0.5).item() == end_point_error(flow, sure).item()


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
    flow = batch_flow(source, target, [None] * 2, **geometry, official=True)
    golden.error(name, flow.vectors, atol=1e-5)
    assert torch.equal(flow.weights > 0, (golden[name] != 0).any(1))


def test_a_point_that_does_not_move_is_a_label():
    points = torch.tensor([[100.0, 60.0]])
    vectors, weights = sparse_flow(points, points, grid=16, side=256, field=35)
    assert weights.sum() == 4 and not vectors.any()
    _, official = sparse_flow(points, points, grid=16, side=256, field=35, official=True)
    assert official.sum() == 0


def test_points_in_one_cell_are_averaged_by_weight():
    target = torch.tensor([[8.0, 8.0], [10.0, 8.0]])
    source = target + torch.tensor([[16.0, 0.0], [48.0, 16.0]])
    vectors, weights = sparse_flow(source, target, grid=16, side=256, field=35)
    assert torch.allclose(vectors[:, 0, 0], torch.tensor([2.0, 0.5])) and weights[0, 0] == 1
    vectors, weights = sparse_flow(source, target, torch.tensor([0.75, 0.25]), grid=16, side=256, field=35)
    assert torch.allclose(vectors[:, 0, 0], torch.tensor([1.5, 0.25])) and weights[0, 0] == 0.5


@pytest.mark.parametrize("official", [False, True])
def test_no_points_no_labels(official):
    vectors, weights = sparse_flow(torch.zeros(0, 2), torch.zeros(0, 2), grid=4, side=64, field=35, official=official)
    assert vectors.shape == (2, 4, 4) and not vectors.any() and not weights.any()


def test_a_point_far_outside_labels_nothing():
    points = torch.tensor([[-40.0, 10.0]])
    assert not sparse_flow(points, points, grid=4, side=64, field=35)[1].any()
