"""The aggregator of CATs++ against golden g."""

import pytest
import torch
from matching_golden import Golden, soft_argmax, state_dict

from detkit.correspondence.conv4d import Conv4d, NormConv4d, swap_planes, upsample
from detkit.correspondence.convert import pyramid_key
from detkit.correspondence.convolutional import CorrelationLayer, PyramidAggregator
from detkit.ops.correlation import hyper_correlation, map_to_flow

TOLERANCE = dict(atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def golden():
    return Golden("g_catspp_blocks")


def weights(golden, module):
    (listed,) = [m for m in golden.description["weights"]["modules"] if m["module"].startswith(module)]
    prefix = "early_conv.0." if module == "Encoder4D" else ""
    return {pyramid_key(prefix + key): value for key, value in state_dict(listed["keys"]).items()}


@torch.no_grad()
def test_encoder_and_upsampling_are_official(golden):
    encoder = NormConv4d(3, 4, stride=(2, 2, 2, 2))
    encoder.load_state_dict({key.removeprefix("encoders.0."): v for key, v in weights(golden, "Encoder4D").items()})
    found = encoder(golden.input("enc_in")).relu()
    golden.error("enc_out", found, **TOLERANCE)
    golden.error("interp_out", upsample(found, 8), **TOLERANCE)


@torch.no_grad()
def test_layer_is_official(golden):
    layer = CorrelationLayer(4, 8, appearance_dim=16, dim=64, target_stride=2).eval()
    layer.load_state_dict(weights(golden, "TransformerLayer"))
    corr, appearance = golden.input("tl_corr"), golden.input("tl_affinity")
    golden.error("tl_out", layer(corr, appearance), **TOLERANCE)
    golden.error("tl_out_swapped", swap_planes(layer(swap_planes(corr), appearance)), **TOLERANCE)


def test_hyper_correlation_is_official(golden):
    queries, supports = ([golden.input(f"{side}_{i}") for i in range(6)] for side in "qs")
    found = [hyper_correlation(s, q) for q, s in zip(queries, supports, strict=True)]
    for name, levels in (("l4", found[5:]), ("l3", found[3:5]), ("l2", found[:3])):
        golden.error(f"hcorr_{name}", torch.stack(levels, dim=1), atol=2e-6)


@torch.no_grad()
def test_whole_aggregator_is_official(golden):
    model = PyramidAggregator((3, 6, 4), (2048, 1024, 512)).eval()
    stored = weights(golden, "cats_model")
    model.load_state_dict({key: value for key, value in stored.items() if not key.endswith("_normal")})
    correlations = []
    for name in ("l4", "l3", "l2"):
        sources, targets = (golden.input(f"learner_{name}_{side}_feat")[0] for side in ("src", "trg"))
        targets = 0.8 * sources.roll((1, 2), (2, 3)) + 0.6 * targets
        pairs = zip(sources, targets, strict=True)
        correlations.append(torch.stack([hyper_correlation(s[None], t[None]) for s, t in pairs], dim=1))
    sources, targets = ([golden.input(f"learner_{side}_aff_{i}")[:, 0] for i in range(3)] for side in ("src", "trg"))
    corr = model(correlations, sources, targets)
    golden.error("learner_corr", corr.view(1, 1024, 32, 32), atol=1e-4, rtol=1e-5)
    golden.error("learner_map_beta1", soft_argmax(corr, (32, 32), 1.0).view(1, 2, 32, 32), atol=1e-4)
    flow = map_to_flow(soft_argmax(corr, (32, 32)).view(1, 2, 32, 32), (32, 32))
    golden.error("learner_flow", flow, atol=1e-2)


def test_convolution_of_odd_sizes_pools_what_is_left_over():
    assert Conv4d(2, 3, stride=(2, 2, 2, 2))(torch.rand(1, 2, 5, 5, 7, 7)).shape == (1, 3, 3, 3, 4, 4)


def test_grid_must_halve_for_each_stage():
    with pytest.raises(ValueError, match="multiple of 4"):
        PyramidAggregator((1, 1, 1), (8, 8, 8), grid=10)
