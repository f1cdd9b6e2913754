"""Forward-backward consistency, against golden h of the SemiMatch authors' code too."""

import pytest
import torch
from matching_golden import Golden

from detkit.correspondence.consistency import cells_in_box, consistency_margin
from detkit.ops.correlation import cell_positions, hard_flow, probabilities

GRID = (16, 16)
TEMPERATURE = 0.1


@pytest.fixture(scope="module")
def golden():
    return Golden("h_semimatch")


@pytest.fixture(scope="module")
def correlation(golden):
    """The correlation with a planted flow."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    planted = torch.zeros(256, 256)
    planted[((y + 1).clamp(max=15) * 16 + (x - 2).clamp(min=0)).flatten(), (y * 16 + x).flatten()] = 1
    return golden.input("corr_weak") + 1.2 * planted


def test_forward_backward_check_is_official(golden, correlation):
    flows = {"T": hard_flow(correlation, GRID, GRID), "S": hard_flow(correlation.transpose(1, 2), GRID, GRID)}
    for name, other in ("TS", "ST"):
        golden.error(f"flow_{name}", flows[name], atol=1e-4)
        margin = consistency_margin(flows[name], flows[other], official=True)
        golden.error(f"fb_margin_{name}", margin, atol=1e-4)
        sure = golden[f"fb_margin_{name}"].abs() >= 1e-4
        assert torch.equal((margin <= 0)[sure], golden[f"fb_mask_{name}"][:, 0].bool()[sure])


def test_confidence_is_official(golden, correlation):
    probability = probabilities(correlation, TEMPERATURE)
    golden.error("max_prob_T", probability.amax(1).view(2, *GRID), atol=1e-5)


def test_matches_that_lead_back_are_consistent_also_at_the_borders():
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0, :, 0] = 3
    back = torch.zeros(1, 2, 4, 4)
    back[:, 0, :, 3] = -3
    margin = consistency_margin(flow, back, relative=0, absolute=0)
    assert (margin[..., 0] == 0).all() and (margin[..., 3] == 9).all()
    assert (consistency_margin(flow, back, relative=0, absolute=0, official=True)[..., 0] > 0).all()


def test_a_box_holds_the_cells_whose_centres_it_holds():
    cells = cell_positions(4, 4, torch.zeros(1))[None]
    inside = cells_in_box(torch.tensor([[20.0, 0.0, 50.0, 16.0]]), cells, 16)
    assert inside[0].nonzero().tolist() == [[0, 1], [0, 2]]
