import pytest
import torch
import torch.nn.functional as F
from matching_golden import Golden, soft_argmax

from detkit.ops.correlation import (
    correlate_levels,
    map_to_flow,
    mutual_filter,
    normalize_features,
    position_map,
    probabilities,
    transfer_points,
    warp,
)


@pytest.fixture(scope="module")
def levels():
    """The features of golden a: sources and targets of four levels."""
    golden = Golden("a_corr_mutualnn")
    sources, targets = ([golden.input(f"{name}_feat_{i}") for i in range(4)] for name in ("src", "trg"))
    sources[0][0, :, 0, 0] = 0
    targets = [0.6 * s.roll((1, 2), (2, 3)) + 0.8 * t for s, t in zip(sources, targets, strict=True)]
    return golden, sources, targets


def test_correlation_and_mutual_filter_are_official(levels):
    golden, sources, targets = levels
    golden.error("l2norm_src_0_b1", normalize_features(sources[0])[1], atol=2e-6)
    corr = correlate_levels(sources, targets)
    golden.error("corr", corr, atol=2e-6)
    golden.error("corr_filtered", mutual_filter(corr), atol=2e-6)


def test_mutual_filter_of_nothing_is_nothing():
    assert torch.equal(mutual_filter(torch.zeros(1, 2, 4, 4)), torch.zeros(1, 2, 4, 4))


@pytest.fixture(scope="module")
def correlation():
    golden = Golden("c_softargmax_flow")
    return golden, golden.input("corr").flatten(2)


@pytest.mark.parametrize("temperature", [0.02, 0.05, 0.1])
def test_soft_argmax_and_flow_are_official(correlation, temperature):
    golden, corr = correlation
    name = f"beta{temperature}".replace(".", "p")
    positions = soft_argmax(corr, (16, 16), temperature).view(2, 2, 16, 16)
    golden.error(f"map_{name}", positions, atol=1e-5)
    golden.error(f"flow_{name}", map_to_flow(positions, (16, 16)), atol=1e-4)


def test_transfer_of_whole_pixels_is_official(correlation):
    golden, _ = correlation
    points, flow = golden["trg_kps"].transpose(1, 2), golden["flow_beta0p02"]
    found = transfer_points(flow, points, (256, 256), whole_pixels=True).transpose(1, 2)
    for i, n in enumerate(golden["n_pts"].tolist()):
        found[i, :, n:] = -1
    golden.error("est_src_kps", found, atol=1e-3)
    golden.error("flow_upsampled", F.interpolate(flow, size=(256, 256), mode="bilinear") * 16, atol=1e-3)


def test_transfer_keeps_fractions():
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0], flow[:, 1] = 1, -0.5
    points = torch.tensor([[[10.25, 20.5], [-3.0, 70.0]]])
    assert torch.allclose(transfer_points(flow, points, (64, 64)), points + torch.tensor([16.0, -8.0]))


def test_confidence_of_probabilities():
    corr = torch.zeros(1, 4, 2)
    corr[0, 3, 0] = 5
    best = probabilities(corr, 0.02).amax(1)
    assert torch.allclose(best, torch.tensor([[1.0, 0.25]]))


def test_no_flow_warps_an_image_to_the_size_of_the_target():
    image = torch.rand(1, 3, 20, 30)
    places = position_map(torch.zeros(1, 2, 4, 4), (20, 30), (20, 30))
    assert torch.allclose(warp(image, places), image, atol=1e-5)
    places = position_map(torch.zeros(1, 2, 4, 4), (8, 8), (20, 30))
    assert places.shape == (1, 2, 8, 8)
    assert torch.allclose(places[0, :, 0, 0], torch.tensor([30 / 16, 20 / 16]))


def test_flow_of_one_cell_is_one_cell_of_the_source():
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0] = 1
    moved, still = position_map(flow, (40, 80), (20, 30)), position_map(torch.zeros(1, 2, 4, 4), (40, 80), (20, 30))
    assert torch.allclose(moved - still, torch.tensor([7.5, 0.0])[:, None, None].expand(2, 40, 80), atol=1e-5)
