import pytest
import torch
from torch import nn

from detkit.engine.optim import Ema, build_optimizer, group_of, parameter_groups, set_learning_rate
from detkit.modeling.base import InputRule, Model
from detkit.modeling.weight_decay import is_undecayed
from detkit.registry import ConfigError
from detkit.structures import LabelMap


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.det_token = nn.Parameter(torch.zeros(1, 5, 4))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def no_weight_decay(self):
        return {"det_token"}


class Detector(Model):
    def __init__(self):
        super().__init__(LabelMap.numbered(1), InputRule())
        self.backbone = Backbone()
        self.head = nn.Linear(4, 2)
        self.backbone_proj = nn.Linear(2, 2)

    def batch_losses(self, batch):
        return {}

    def batch_predictions(self, batch):
        return []


def test_the_official_rule():
    assert not is_undecayed("head.bias", (4,))
    assert not is_undecayed("backbone_proj.weight", (4, 4))
    assert not is_undecayed("backbone.conv.weight", (4, 3, 3, 3), ["det_token"])
    assert is_undecayed("backbone.table.bias", (4, 3))
    assert is_undecayed("backbone.norm.weight", (4,))
    assert is_undecayed("backbone.det_token", (1, 4, 3), ["det_token"])
    assert not is_undecayed("backbone.det_token", (1, 4, 3))


def test_groups_by_name():
    undecayed = {"backbone.bias", "head.bias"}
    names = ("backbone.bias", "backbone.weight", "head.bias", "head.weight")
    assert [group_of(name, undecayed) for name in names] == [
        "backbone_no_decay",
        "backbone_decay",
        "head_no_decay",
        "head",
    ]


def test_groups_of_a_model():
    model = Detector()
    head, decayed, undecayed = parameter_groups(model, 1e-3, 0.1, backbone_lr_scale=0.5)
    assert [p.shape for p in decayed["params"]] == [model.backbone.conv.weight.shape]
    assert {id(p) for p in undecayed["params"]} == {
        id(p) for p in (model.backbone.conv.bias, *model.backbone.norm.parameters(), model.backbone.det_token)
    }
    assert len(head["params"]) == 4
    assert [g["weight_decay"] for g in (head, decayed, undecayed)] == [0.1, 0.1, 0.0]
    assert [g["initial_lr"] for g in (head, decayed, undecayed)] == [1e-3, 5e-4, 5e-4]


def test_learning_rate_factor_keeps_the_ratio_of_groups():
    optimizer = build_optimizer(Detector(), lr=1e-3, weight_decay=0.1, backbone_lr_scale=0.1)
    set_learning_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([5e-4, 5e-5, 5e-5])
    with pytest.raises(ConfigError, match="Detector has no trainable parameters"):
        build_optimizer(Detector().requires_grad_(False), lr=1, weight_decay=0)


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


class Listing(Detector):
    """A model that decides for all of its parameters."""

    def no_weight_decay(self):
        return {"head.bias", "backbone.norm.weight", "backbone.frozen.weight"}


def test_a_model_that_lists_what_is_not_decayed_decides_alone():
    model = Listing()
    groups = {g["name"]: g for g in parameter_groups(model, 1e-3, 0.1, backbone_lr_scale=0.5)}
    shapes = {name: {id(p) for p in group["params"]} for name, group in groups.items()}
    assert shapes["head_no_decay"] == {id(model.head.bias)}
    assert shapes["backbone_no_decay"] == {id(model.backbone.norm.weight)}
    assert id(model.backbone.conv.bias) in shapes["backbone_decay"]
    assert id(model.backbone.det_token) in shapes["backbone_decay"]
    assert {n: (g["weight_decay"], g["initial_lr"]) for n, g in groups.items()} == {
        "head": (0.1, 1e-3),
        "head_no_decay": (0.0, 1e-3),
        "backbone_decay": (0.1, 5e-4),
        "backbone_no_decay": (0.0, 5e-4),
    }


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        (dict(), torch.optim.AdamW, dict(betas=(0.9, 0.999))),
        (dict(type="Adam", betas=[0.8, 0.99]), torch.optim.Adam, dict(betas=(0.8, 0.99))),
        (dict(type="SGD"), torch.optim.SGD, dict(momentum=0.9, nesterov=False)),
        (dict(type="SGD", momentum=0.5), torch.optim.SGD, dict(momentum=0.5)),
    ],
)
def test_optimizers(options, kind, expected):
    model = Detector()
    optimizer = build_optimizer(model, lr=1e-2, weight_decay=0.1, **options)
    assert type(optimizer) is kind and optimizer.param_groups[0]["foreach"]
    assert {name: optimizer.param_groups[0][name] for name in expected} == expected
    before = model.head.weight.detach().clone()
    set_learning_rate(optimizer, 1.0)
    model.head(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.head.weight)


def test_sgd_is_the_formula():
    """Momentum 0.9, decay as part of the gradient, none on what is listed."""
    model = Listing()
    optimizer = build_optimizer(model, type="SGD", lr=0.1, weight_decay=0.01, momentum=0.9)
    set_learning_rate(optimizer, 0.5)
    weight, bias = (p.detach().clone() for p in (model.head.weight, model.head.bias))
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(3):
        model.head(torch.ones(1, 4)).sum().backward()
        speed = [0.9 * speed[0] + 1 + 0.01 * weight, 0.9 * speed[1] + 1]
        weight, bias = weight - 0.05 * speed[0], bias - 0.05 * speed[1]
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.head.weight.detach(), weight)
    torch.testing.assert_close(model.head.bias.detach(), bias)


def test_options_that_an_optimizer_does_not_have():
    with pytest.raises(ConfigError, match=r"optimizer \(SGD\): unknown option 'betas'. Valid: momentum"):
        build_optimizer(Detector(), type="SGD", lr=1, weight_decay=0, betas=(0.9, 0.9))
    with pytest.raises(ConfigError, match=r"optimizer\.type: unknown optimizer 'Adamw'.*Valid: Adam, AdamW, SGD"):
        build_optimizer(Detector(), type="Adamw", lr=1, weight_decay=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["AdamW", "Adam", "SGD"])
def test_fused_on_a_gpu(kind):
    optimizer = build_optimizer(Detector().cuda(), type=kind, lr=1e-2, weight_decay=0.1)
    assert optimizer.param_groups[0]["fused"] is True
