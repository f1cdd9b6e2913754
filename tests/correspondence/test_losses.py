import pytest
import torch
from matching_golden import Golden

from detkit.correspondence.losses import dilate, end_point_error, end_point_errors, labelled, pseudo_flow_loss
from detkit.structures import Flow

TOLERANCE = dict(rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def golden():
    return Golden("d_epe_loss")


def test_end_point_error_is_official(golden):
    flow, target = golden.input("pred_flow").requires_grad_(), labelled(golden["target_flow"])
    assert torch.equal(target.weights > 0, golden["valid_mask"])
    loss = end_point_error(flow, target)
    golden.error("loss_mean", loss, **TOLERANCE)
    loss.backward()
    golden.error("grad_pred", flow.grad, **TOLERANCE)
    errors = end_point_errors(flow, target.vectors)
    golden.error("loss_dense_mean", errors.mean(), **TOLERANCE)
    golden.error("loss_sum", errors[target.weights > 0].sum(), **TOLERANCE)


@pytest.mark.parametrize("size", [3, 7])
def test_pseudo_loss_is_that_of_scorrsan(golden, size):
    flow, teacher = golden.input("pred_flow"), golden.input("pred_flow_teacher")
    near = dilate(golden["valid_mask"], size)
    both = [pseudo_flow_loss(flow, teacher, near), pseudo_flow_loss(teacher, flow, near)]
    golden.error(f"pseudo_mean_k{size}", torch.stack(both), **TOLERANCE)


def test_small_loss_selection_is_that_of_scorrsan(golden):
    flow, teacher = golden.input("pred_flow").requires_grad_(), golden.input("pred_flow_teacher")
    near, ranking = dilate(golden["valid_mask"], 7), end_point_errors(teacher, flow)
    for keep in (0.9, 0.2):
        own = pseudo_flow_loss(flow, teacher, near, ranking_bhw=ranking, keep=keep)
        other = pseudo_flow_loss(teacher, flow, near, ranking_bhw=ranking, keep=keep)
        golden.error(f"pseudo_selected_r{100 * keep:.0f}", torch.stack([own, other]), **TOLERANCE)
    own.backward()
    golden.error("pseudo_selected_grad", flow.grad, **TOLERANCE)


def test_weights_weigh_cells():
    flow = torch.zeros(1, 2, 1, 2)
    target = Flow(torch.tensor([[[[3.0, 6.0]], [[4.0, 8.0]]]]), torch.tensor([[[1.0, 0.25]]]))
    assert end_point_error(flow, target) == pytest.approx((5 + 0.25 * 10) / 1.25)


def test_no_label_costs_nothing_and_keeps_the_gradient_finite():
    flow = torch.zeros(2, 2, 4, 4, requires_grad=True)
    loss = end_point_error(flow, labelled(torch.zeros(2, 2, 4, 4)))
    loss.backward()
    assert loss == 0 and not flow.grad.any()
    empty = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert pseudo_flow_loss(flow, flow, empty, ranking_bhw=torch.zeros(2, 4, 4), keep=0.5) == 0


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
