import pytest
import torch
from small_vidt import batch, objects, small_vidt

from detkit.engine.freezing import freeze
from detkit.engine.optim import parameter_groups
from detkit.registry import ConfigError


def config(init_from="some.safetensors", **backbone):
    return {"train": {"freeze": "backbone", "init_from": init_from}, "model": {"backbone": backbone}}


def test_only_tokens_and_new_layers_of_the_backbone_learn():
    model = small_vidt()
    frozen = freeze(model, config())
    assert frozen == [model.backbone]
    learning = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert learning == model.backbone.new_parameters() and {"det_token", "det_pos_embed"} <= learning
    assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("backbone."))
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items() if name not in learning}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1, 0.1))
    sum(model.train()(batch(objects([4, 4, 30, 30]))).values()).backward()
    optimizer.step()
    assert all(torch.equal(model.backbone.state_dict()[name], tensor) for name, tensor in before.items())
    assert model.backbone.det_token.grad is not None


def test_nothing_is_frozen_by_default():
    assert freeze(small_vidt(), {"train": {"freeze": None}}) == []


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (torch.nn.Linear(2, 2), config(), "train.freeze: a Linear has no backbone"),
        (small_vidt(), config(None), "train.freeze: the backbone starts from random weights"),
    ],
)
def test_what_cannot_be_frozen(model, options, message):
    with pytest.raises(ConfigError, match=message):
        freeze(model, options)


def test_weights_of_a_part_of_the_backbone_count():
    assert freeze(small_vidt(), config(None, type="FPN", body={"pretrained": "timm:x"}))
