"""The whole of CATs with ResNet-101 against golden f."""

import pytest
import torch
from matching_golden import Golden, state_dict, weight

from detkit.correspondence.cats import resize_maps
from detkit.correspondence.convert import from_official
from detkit.ops.correlation import correlate_levels

BACKBONE = "feature_extraction.backbone."


@pytest.fixture(scope="module")
def golden():
    return Golden("f_cats_full")


@pytest.fixture(scope="module")
def official(golden):
    return state_dict(golden.description["weights"]["keys"])


@pytest.fixture(scope="module")
def model(official, golden):
    return from_official(official, layers=golden.description["config"]["hyperpixel_ids"])[0]


@pytest.fixture(scope="module")
def images(golden):
    source = golden.input("source_image")
    target = 0.9 * source.roll((32, -16), (2, 3)) + 0.3 * golden.input("noise")
    checksums = golden.description["config"]["image_checksum"]
    assert source.double().abs().sum() == pytest.approx(checksums["source_abs_sum"], rel=1e-6)
    assert target.double().abs().sum() == pytest.approx(checksums["target_abs_sum"], rel=1e-6)
    return source, target


@torch.no_grad()
def test_every_step_is_official(golden, model, images):
    sources, targets = model.features(*images)
    for i, feature in enumerate(sources):
        golden.error(f"src_feat_{i}", feature, rtol=1e-4, atol=1e-4)
    golden.error("trg_feat_last", targets[-1], rtol=1e-4, atol=1e-4)
    golden.error("corr_raw", correlate_levels(sources, targets), atol=5e-6)
    filtered = model.raw_correlation(sources, targets)
    golden.error("corr_filtered", filtered, atol=5e-6)
    embedded = [model.embed(maps) for maps in (sources, targets)]
    for name, found in zip(("src_proj", "trg_proj"), embedded, strict=True):
        golden.error(name, found, rtol=1e-4, atol=1e-4)
    refined = model.aggregator(filtered, *embedded)
    golden.error("refined_corr", refined, atol=1e-5)
    flow = model.flow_of(refined)
    golden.error("flow", flow.vectors, atol=2e-4)
    entropy = golden.description["config"]["softmax_entropy_mean_nats"]
    assert 0 < -flow.weights.log().mean() < entropy


@torch.no_grad()
def test_flow_is_official_with_trained_positions_too(golden, model, official, images):
    golden.error("flow", model.flow(*images), atol=2e-4)
    entries = [dict(key=f"{axis}_normal", shape=[16], kind="0.02*normal") for axis in "xy"]
    trained, _ = from_official(official | {entry["key"]: weight(entry) for entry in entries})
    refined = golden["refined_corr"]
    golden.error("flow_rule_xy", trained.flow_of(refined).vectors, atol=2e-4)


@torch.no_grad()
def test_flow_is_official_when_the_softmax_is_one_hot(golden, official, images):
    damped = {key for key in official if key.startswith(BACKBONE) and ".conv3." in key}
    loud, _ = from_official({key: value * (8 if key in damped else 1) for key, value in official.items()})
    corr = loud.correlation(*images)
    golden.error("he_flow", loud.flow_of(corr).vectors, atol=1e-3)
    assert torch.equal(corr.argmax(1).int(), golden["he_argmax"])


def test_report_lists_every_key(official, model):
    _, report = from_official(official)
    assert sorted(report.loaded + report.unused) == sorted(official)
    own = model.state_dict()
    assert len(report.loaded) == len(own)
    assert all(
        key.startswith((f"{BACKBONE}layer4", f"{BACKBONE}fc", "decoder.norm")) or key.endswith("num_batches_tracked")
        for key in report.unused
    )
    wrapped, _ = from_official({f"module.{key}": value for key, value in official.items()})
    assert all(torch.equal(value, own[key]) for key, value in wrapped.state_dict().items())


def test_wrong_state_dicts_are_refused(official):
    with pytest.raises(ValueError, match="not an official CATs"):
        from_official({"head.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="trained with layers of"):
        from_official(official, layers=(0, 1, 20, 21, 26, 28, 29, 30))
    with pytest.raises(ValueError, match=r"belong to no part known here \['aggregator.extra'\]"):
        from_official(official | {"decoder.extra": torch.zeros(1)})
    missing = {key: value for key, value in official.items() if key != "proj.3.bias"}
    with pytest.raises(ValueError, match=r"1 are missing \['appearance.3.bias'\]"):
        from_official(missing)


@torch.no_grad()
def test_resize_is_official():
    golden = Golden("a_corr_mutualnn")
    for i, found in enumerate(resize_maps([golden.input(f"resize_in_{i}") for i in range(4)], 16)):
        golden.error(f"resize_out_{i}", found, atol=2e-6)
