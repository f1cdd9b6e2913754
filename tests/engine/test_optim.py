import pytest
import torch
from torch import nn

from detkit.engine.optim import Ema, build_optimizer, group_of, parameter_groups, set_learning_rate
from detkit.registry import ConfigError


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.det_token = nn.Parameter(torch.zeros(1, 5, 4))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def no_weight_decay(self):
        return {"det_token"}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(4, 2)
        self.backbone_proj = nn.Linear(2, 2)


def test_the_official_rule():
    assert group_of("head.bias", (4,)) == "head"
    assert group_of("backbone_proj.weight", (4, 4)) == "head"
    assert group_of("backbone.conv.weight", (4, 3, 3, 3), ["det_token"]) == "backbone_decay"
    assert group_of("backbone.table.bias", (4, 3)) == "backbone_no_decay"
    assert group_of("backbone.norm.weight", (4,)) == "backbone_no_decay"
    assert group_of("backbone.det_token", (1, 4, 3), ["det_token"]) == "backbone_no_decay"
    assert group_of("backbone.det_token", (1, 4, 3)) == "backbone_decay"


def test_groups_of_a_model():
    model = Model()
    head, decayed, undecayed = parameter_groups(model, 1e-3, 0.1, backbone_lr_scale=0.5)
    assert [p.shape for p in decayed["params"]] == [model.backbone.conv.weight.shape]
    assert {id(p) for p in undecayed["params"]} == {
        id(p) for p in (model.backbone.conv.bias, *model.backbone.norm.parameters(), model.backbone.det_token)
    }
    assert len(head["params"]) == 4
    assert [g["weight_decay"] for g in (head, decayed, undecayed)] == [0.1, 0.1, 0.0]
    assert [g["initial_lr"] for g in (head, decayed, undecayed)] == [1e-3, 5e-4, 5e-4]


def test_learning_rate_factor_keeps_the_ratio_of_groups():
    optimizer = build_optimizer(Model(), lr=1e-3, weight_decay=0.1, backbone_lr_scale=0.1)
    set_learning_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([5e-4, 5e-5, 5e-5])
    with pytest.raises(ConfigError, match="no trainable parameters"):
        build_optimizer(Model().requires_grad_(False), lr=1, weight_decay=0)


def test_moving_average():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(model, 0.9)
    start = ema.model[0].weight.clone()
    with torch.no_grad():
        model[0].weight += 1
        model[1].running_mean += 5
    ema.update(model, step=0)  # warm-up: decay 1 / 10
    torch.testing.assert_close(ema.model[0].weight, start + 0.9)
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean)
    ema.update(model, step=1000)
    torch.testing.assert_close(ema.model[0].weight, start + 0.91)
    assert not any(p.requires_grad for p in ema.model.parameters()) and not ema.model.training
    with pytest.raises(ConfigError, match=r"train\.ema"):
        Ema(model, 1.5)
