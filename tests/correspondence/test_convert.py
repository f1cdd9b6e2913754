"""Checkpoints of CATs++; those of CATs are in test_parity_cats."""

import numpy as np
import pytest
import torch
from matching_golden import Golden, state_dict

import detkit
from detkit.backbones.resnet import ResNet
from detkit.checkpoints.weights import read_header
from detkit.cli import main
from detkit.correspondence.cats import CATs
from detkit.correspondence.catspp import CATsPlusPlus
from detkit.correspondence.convert import BLOCK_PARTS, from_official, pyramid_key
from detkit.correspondence.features.maps import ResNetLayers

BLOCK_PARTS_BACK = [(f".{own}.", f".{official}.") for official, own in BLOCK_PARTS.items()]


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


def test_files_through_the_command(official, tmp_path, capsys):
    source, path = tmp_path / "model_best.pth", tmp_path / "catspp.safetensors"
    torch.save({"epoch": 3, "state_dict": official, "best_loss": np.float64(0.5)}, source)
    assert main(["convert", str(source), str(path)]) == 0
    assert "data.val.root=FOLDER" in capsys.readouterr().out
    loaded, expected = detkit.load(path), from_official(official)[0]
    assert isinstance(loaded, CATsPlusPlus) and loaded.side == 512
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert read_header(path)["config"]["data"]["val"]["direction"] == "target_to_source"
    assert set(range(1, 21)) == set(loaded.label_map.category_ids)


def test_layers_of_cats(tmp_path, capsys):
    """Small, on two layers of ResNet-50, as its authors' code names its parts."""
    torch.manual_seed(0)
    layers = (3, 13)
    model = CATs(ResNetLayers(50, layers), side=64, grid=4, heads=6, appearance_dim=20)
    names = {"appearance.": "proj.", "backbone.body.": "feature_extraction.backbone.", "aggregator.": "decoder."}
    official = {}
    for key, value in model.state_dict().items():
        for own, theirs in names.items():
            key = theirs + key.removeprefix(own) if key.startswith(own) else key
        for own, theirs in BLOCK_PARTS_BACK:
            key = key.replace(own, theirs)
        official[key.replace("position_", "pos_embed_").replace("_positions", "_normal")] = value
    source, path = tmp_path / "cats.pth", tmp_path / "cats.safetensors"
    torch.save({"state_dict": official}, source)
    assert main(["convert", str(source), str(path)]) == 2
    assert "layers must be different numbers in 0..16" in capsys.readouterr().err
    assert main(["convert", str(source), str(path), "--layers", "3", "13"]) == 0
    loaded = detkit.load(path)
    assert isinstance(loaded, CATs) and loaded.backbone.layers == [3, 13]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
