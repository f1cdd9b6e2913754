from torch import nn

from detkit.backbones.fpn import FPN
from detkit.backbones.resnet import ResNet
from detkit.backbones.swin import Swin
from detkit.correspondence.cats import CATs
from detkit.correspondence.catspp import CATsPlusPlus
from detkit.correspondence.features.maps import ResNetLayers
from detkit.engine.optim import parameter_groups
from detkit.modeling.weight_decay import undecayed_parameters
from detkit.pointseg.solov2 import SOLOv2

SMALL = dict(instance_channels=32, instance_convs=1, kernel_channels=16, mask_channels=16)


def decayed_names(model):
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 1e-2, 1e-4)
    return {of[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_norms_and_listed_parameters():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Linear(2, 2)
            self.norm = nn.LayerNorm(2)

        def no_weight_decay(self):
            return {"token.weight"}

    model = nn.Sequential(Part(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3))
    expected = {"0.token.weight", "0.norm.weight", "0.norm.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
    assert undecayed_parameters(model) == expected


def test_solov2_decays_all_but_its_group_norms():
    """As detectron2 with WEIGHT_DECAY_NORM 0: biases are decayed, frozen batch norms have no parameters."""
    model = SOLOv2(FPN(ResNet(50, frozen_stages=2), out_channels=32), 3, **SMALL)
    undecayed = trained_names(model) - decayed_names(model)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)}
    assert norms and undecayed == {f"{name}.{part}" for name in norms for part in ("weight", "bias")}
    assert "backbone.lateral.0.bias" in decayed_names(model)


def test_solov2_on_swin_leaves_its_tables_alone():
    swin = Swin(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window=4, num_tokens=1, pos_dim=32)
    model = SOLOv2(FPN(swin, out_channels=32), 3, **SMALL)
    undecayed = model.no_weight_decay()
    for name in model.backbone.body.no_weight_decay():
        assert f"backbone.body.{name}" in undecayed
    assert "backbone.body.layers.0.blocks.0.norm1.weight" in undecayed


def test_cats_decays_no_norms_biases_and_positions():
    cats = CATs(ResNetLayers(50, (3, 13), trainable=True), side=64, grid=4, heads=6, appearance_dim=20)
    catspp = CATsPlusPlus(ResNetLayers(50, range(4, 17)), side=64)
    for model in (cats, catspp):
        undecayed = trained_names(model) - decayed_names(model)
        assert undecayed and all("norm" in n or n.endswith(".bias") or "position" in n for n in undecayed)
        assert not any(n.endswith(".bias") or "norm" in n or "position" in n for n in decayed_names(model))
    assert {"aggregator.position_x", "appearance.0.bias"} <= cats.no_weight_decay()
    assert "backbone.body.layer1.0.conv1.weight" in decayed_names(cats)


def test_cats_as_published_decays_everything():
    model = CATs(ResNetLayers(50, (3, 13)), side=64, grid=4, heads=6, appearance_dim=20, official=True)
    assert decayed_names(model) == trained_names(model)
