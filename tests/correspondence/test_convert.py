"""Checkpoints of CATs++; those of CATs are in test_parity_cats."""

import pytest
import torch
from goldens import Golden, state_dict

from detkit.backbones.resnet import ResNet
from detkit.correspondence.catspp import CATsPlusPlus
from detkit.correspondence.convert import from_official, pyramid_key


@pytest.fixture(scope="module")
def official():
    (learner,) = [
        module
        for module in Golden("g_catspp_blocks").description["weights"]["modules"]
        if module["module"].startswith("cats_model")
    ]
    weights = {f"hpn_learner.{key}": value for key, value in state_dict(learner["keys"]).items()}
    weights |= {f"backbone.{key}": value for key, value in ResNet(50).state_dict().items()}
    return weights | {"backbone.fc.weight": torch.zeros(4, 2048), "backbone.fc.bias": torch.zeros(4)}


def test_catspp_checkpoint_is_loaded_completely(official):
    model, report = from_official(official)
    assert isinstance(model, CATsPlusPlus) and not model.training
    assert (model.side, model.grid, model.levels) == (512, 32, [3, 6, 4])
    assert report.unused == ["backbone.fc.weight", "backbone.fc.bias"]
    own = model.state_dict()
    assert len(report.loaded) == len(own)
    for key in report.loaded:
        name = key.removeprefix("hpn_learner.")
        if key.startswith("backbone."):
            stored = own[key.replace("backbone.", "backbone.body.", 1)]
        else:
            stored = own.get(f"aggregator.{pyramid_key(name)}", own.get(f"{name[0]}_positions"))
        assert torch.equal(stored, official[key]) and stored is not official[key]


def test_another_backbone_is_refused(official):
    short = {key: value for key, value in official.items() if not key.startswith("backbone.layer3.5.")}
    with pytest.raises(ValueError, match="5 blocks in its third stage"):
        from_official(short)
