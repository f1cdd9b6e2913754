"""The parts of SemiMatch against golden h."""

import pytest
import torch
from matching_golden import Golden

from detkit.correspondence.losses import end_point_error, labelled
from detkit.correspondence.pseudo import PseudoLabels, cells_in_box, consistency_margin, entropy, pseudo_label_loss
from detkit.correspondence.warps import control_points, tps_grid, warp_affine_tps
from detkit.ops.correlation import cell_positions, hard_flow, map_to_flow, probabilities, soft_argmax

GRID = (16, 16)
TEMPERATURE = 0.1


@pytest.fixture(scope="module")
def golden():
    return Golden("h_semimatch")


@pytest.fixture(scope="module")
def correlations(golden):
    """The weak and the strong correlation with a planted flow."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    planted = torch.zeros(256, 256)
    planted[((y + 1).clamp(max=15) * 16 + (x - 2).clamp(min=0)).flatten(), (y * 16 + x).flatten()] = 1
    return golden.input("corr_weak") + 1.2 * planted, golden.input("corr_strong") + 0.8 * planted


@pytest.fixture(scope="module")
def theta(golden):
    values = golden["theta"].float()
    return values[:, :6].view(2, 2, 3), values[:, 6:].view(2, 2, 9).transpose(1, 2)


def test_spline_grid_is_official(golden, theta):
    golden.error("tps_grid", tps_grid(theta[1], GRID), atol=1e-5)


def test_warps_are_official(golden, correlations, theta):
    weak = correlations[0].view(2, 256, 16, 16)
    golden.error("corr_weak_warped_bilinear", warp_affine_tps(weak, *theta), atol=2e-4)
    golden.error("image_warped", warp_affine_tps(golden.input("image"), *theta), atol=2e-4)
    found = warp_affine_tps(weak, *theta, mode="nearest")[:, ::7]
    assert (found == golden["corr_weak_warped_nearest"]).float().mean() > 0.995


def test_spline_through_unmoved_points_is_the_identity():
    image = torch.rand(1, 1, 9, 9)
    points = control_points(3, image)[None]
    y, x = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9), indexing="ij")
    assert torch.allclose(tps_grid(points, (9, 9))[0], torch.stack([x, y], dim=-1), atol=1e-5)


def test_forward_backward_check_is_official(golden, correlations):
    weak = correlations[0]
    flows = {"T": hard_flow(weak, GRID, GRID), "S": hard_flow(weak.transpose(1, 2), GRID, GRID)}
    for name, other in ("TS", "ST"):
        golden.error(f"flow_{name}", flows[name], atol=1e-4)
        margin = consistency_margin(flows[name], flows[other], original=True)
        golden.error(f"fb_margin_{name}", margin, atol=1e-4)
        sure = golden[f"fb_margin_{name}"].abs() >= 1e-4
        assert torch.equal((margin <= 0)[sure], golden[f"fb_mask_{name}"][:, 0].bool()[sure])


def test_confidence_and_entropy_are_official(golden, correlations):
    probability = probabilities(correlations[0], TEMPERATURE)
    golden.error("max_prob_T", probability.amax(1).view(2, *GRID), atol=1e-5)
    golden.error("entropy_T", entropy(probability).view(2, *GRID), atol=1e-5)


def test_supervised_loss_is_official(golden, correlations):
    found = soft_argmax(correlations[0], GRID, TEMPERATURE).view(2, 2, *GRID)
    golden.error("map_weak", found, atol=1e-5)
    golden.error("loss_sup", end_point_error(map_to_flow(found, GRID), labelled(golden["flow_gt"])), rtol=1e-4)


def test_unsupervised_loss_is_official(golden, correlations, theta):
    config, (weak, strong) = golden.description["config"], correlations
    strong = strong.clone().requires_grad_()
    warped = warp_affine_tps(weak.view(2, 256, *GRID), *theta, mode="nearest").flatten(2)
    labels = PseudoLabels.from_correlation(warped, GRID, TEMPERATURE)
    assert torch.equal(labels.index.int(), golden["pseudo_index"])
    golden.error("pseudo_conf", labels.confidence, atol=1e-5)
    flow, back = hard_flow(weak, GRID, GRID), hard_flow(weak.transpose(1, 2), GRID, GRID)
    consistent = consistency_margin(flow, back, original=True) <= 0
    boxes = {name: torch.tensor(config[f"{name}_bbox"]) for name in ("src", "trg")}
    in_source = cells_in_box(boxes["src"], labels.source_positions(16), 16, original=True)
    in_target = cells_in_box(boxes["trg"], cell_positions(*GRID, weak)[None], 16, original=True)
    seen = torch.stack([consistent, in_target], dim=1).float()
    seen = warp_affine_tps(seen, *theta, mode="nearest").round().bool().all(1)
    keep = (labels.confidence >= config["p_cutoff"]) & in_source & seen
    loss = config["semi_lambda"] * pseudo_label_loss(strong, labels, keep)
    golden.error("loss_unsup", loss, rtol=1e-4)
    loss.backward()
    golden.error("grad_corr_strong", strong.grad, atol=1e-7, rtol=1e-3)
    best = PseudoLabels.from_correlation(strong.detach(), GRID, TEMPERATURE).index
    golden.error("diff_ratio", (best != labels.index)[keep].float().mean(), atol=1e-6)


def test_matches_that_lead_back_are_consistent_also_at_the_borders():
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0, :, 0] = 3
    back = torch.zeros(1, 2, 4, 4)
    back[:, 0, :, 3] = -3
    margin = consistency_margin(flow, back, relative=0, absolute=0)
    assert (margin[..., 0] == 0).all() and (margin[..., 3] == 9).all()
    assert (consistency_margin(flow, back, relative=0, absolute=0, original=True)[..., 0] > 0).all()


def test_a_box_holds_the_cells_whose_centres_it_holds():
    cells = cell_positions(4, 4, torch.zeros(1))[None]
    inside = cells_in_box(torch.tensor([[20.0, 0.0, 50.0, 16.0]]), cells, 16)
    assert inside[0].nonzero().tolist() == [[0, 1], [0, 2]]


def test_no_kept_cell_costs_nothing():
    corr = torch.rand(1, 4, 4, requires_grad=True)
    labels = PseudoLabels.from_correlation(corr.detach(), (2, 2), 0.1)
    assert pseudo_label_loss(corr, labels, torch.zeros(1, 2, 2, dtype=torch.bool)) == 0
