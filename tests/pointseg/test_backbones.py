"""SOLOv2 on the backbones of the house: built from a config, trained for a step, asked."""

import pytest
import torch
from torch import distributed

from detkit.backbones.pretrained import create_timm_model
from detkit.data.synthetic import SyntheticScenes
from detkit.registry import ConfigError
from detkit.runtime.components import build_model
from detkit.structures import Batch

HEADS = dict(num_grids=(8, 6, 4, 3, 2), instance_channels=32, instance_convs=1, kernel_channels=32, mask_channels=32)
SWIN = dict(type="Swin", num_tokens=1, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2), window=4, pos_dim=16)
VIT = dict(type="ViT", model="vit_tiny_patch16_224", num_tokens=1, pos_dim=16, out_channels=16)
BODIES = {
    "swin": SWIN,
    "swin without the reduced map": SWIN | dict(reduced_map=False),
    "vit": VIT | dict(model_args=dict(depth=2)),
    "timm": dict(type="TimmFeatures", model="test_resnet", num_tokens=1, pos_dim=16, frozen_norm=False),
    "resnet18": dict(type="ResNet", depth=18, frozen_norm=False),
    "resnet50": dict(type="ResNet", depth=50, frozen_norm=True, frozen_stages=2),
}


@pytest.fixture(scope="module")
def scenes():
    return SyntheticScenes(2, size=80, min_objects=2)


def build(body, scenes):
    torch.manual_seed(0)
    rule = dict(shortest=64, longest=96)
    config = dict(type="SOLOv2", backbone=dict(type="FPN", body=body, out_channels=32), input_rule=rule, **HEADS)
    return build_model(config, scenes.label_map)


@pytest.mark.parametrize("body", BODIES)
def test_a_step_and_a_prompted_prediction(body, scenes):
    model = build(BODIES[body], scenes).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name, _ in model.named_parameters()} - trained.keys()
    assert all("det_" in name or name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in frozen)
    before = {name: p.detach().clone() for name, p in trained.items()}
    batch = Batch.collate(list(scenes))
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    torch.optim.SGD(trained.values(), lr=1.0).step()
    assert any(not torch.equal(before[name], p) for name, p in trained.items() if name.startswith("backbone.body"))
    image, annotations = scenes[0]
    points = annotations.boxes.view(-1, 2, 2).mean(1)
    found = model.eval().predict(image, points=points, labels=annotations.labels)[0]
    assert found.masks.shape[1:] == image.shape[1:] and len(found) == len(found.owners) <= len(points)


@pytest.mark.parametrize("body", ["swin", "vit"])
def test_nothing_is_left_over_for_distributed_training(body, scenes, tmp_path):
    """Parameters that the loss does not reach stop a distributed run at its second step."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(build(BODIES[body], scenes).train())
        for _ in range(2):
            sum(model(Batch.collate(list(scenes))).values()).backward()
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("body", [SWIN, VIT, BODIES["timm"]])
def test_a_body_without_tokens_is_refused(body, scenes):
    with pytest.raises(ConfigError, match=r"num_tokens: must be a whole number from 1 to"):
        build(body | dict(num_tokens=0), scenes)


def test_patches_that_give_no_maps_of_powers_of_two(scenes):
    body = VIT | dict(model="vit_small_patch14_dinov2", model_args=dict(depth=1))
    with pytest.raises(ConfigError, match="maps of stride 14"):
        build(body, scenes)


@torch.no_grad()
@pytest.mark.parametrize("depth", [50, 101])
def test_published_weights_reach_the_body(depth, scenes, tmp_path):
    torch.manual_seed(1)
    published = create_timm_model(f"resnet{depth}")
    for name, buffer in published.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    body = dict(type="ResNet", depth=depth, pretrained=str(tmp_path / "weights.pth"), frozen_stages=2)
    model = build(body, scenes)
    own, wanted = model.backbone.body.state_dict(), published.state_dict()
    assert own.keys() == {key for key in wanted if not key.startswith("fc.") and not key.endswith("batches_tracked")}
    assert all(torch.equal(value, wanted[key]) for key, value in own.items())
    model.train()(Batch.collate(list(scenes)))
    assert torch.equal(model.backbone.body.bn1.running_mean, wanted["bn1.running_mean"])
