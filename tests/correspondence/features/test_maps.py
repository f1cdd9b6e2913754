"""Maps of backbones by layer list."""

from importlib.util import find_spec

import pytest
import torch
from paths import REAL_DATA
from tiny_matchers import pair

from detkit.backbones.swin import Swin
from detkit.correspondence.cats import CATs
from detkit.correspondence.catspp import CATsPlusPlus
from detkit.correspondence.features.maps import ResNetLayers
from detkit.correspondence.neighbours import NearestNeighbourMatcher
from detkit.registry import ConfigError, build
from detkit.runtime.components import import_components
from detkit.structures import PairBatch

WEIGHTS = REAL_DATA / "weights" / "efficientnet_lite0_imagenet.pth"
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")

RESNET = dict(type="ResNetLayers", depth=18, layers=[0, 3, 5])
SWIN = dict(type="SwinLayers", layers=[0, 2, 4], embed_dim=16, depths=(1, 2, 2), num_heads=(1, 2, 4), window=4)
EFFICIENT = dict(type="EfficientNetLayers", model="mobilenetv2_050", layers=[0, 3, 6])
MOBILE = dict(type="EfficientNetLayers", model="mobilenetv3_small_050", layers=[1, 4])
STAGES = dict(type="TimmLayers", model="tf_efficientnet_lite0", layers=[2, 3])
SMALL_VIT = dict(depth=3, embed_dim=48, num_heads=3)
VIT = dict(type="ViTLayers", model="vit_tiny_patch16_224", layers=[0, 2], model_args=SMALL_VIT)
DINO2 = dict(type="ViTLayers", model="vit_small_patch14_dinov2", layers=[2], model_args=dict(SMALL_VIT, img_size=112))
DINO3 = dict(type="ViTLayers", model="vit_small_patch16_dinov3", layers=[1, 2], model_args=SMALL_VIT)
OF_TIMM = [EFFICIENT, MOBILE, STAGES, VIT, DINO2, DINO3]
ALL = [RESNET, SWIN, *(pytest.param(config, marks=needs_timm) for config in OF_TIMM)]


def make(config, **options):
    import_components()
    torch.manual_seed(0)
    return build(dict(config, **options), path="backbone")


def hooked(modules, body, *inputs):
    """What the modules give when the body runs."""
    found = []
    handles = [m.register_forward_hook(lambda module, args, out: found.append(out)) for m in modules]
    body(*inputs)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def test_swin_layers_are_its_patches_after_each_block():
    sizes = dict(embed_dim=16, depths=(1, 2, 2), num_heads=(1, 2, 4), window=4)
    whole = Swin(num_tokens=5, cross_stages=(2,), drop_path=0.1, **sizes).eval()
    backbone = make(SWIN).eval()
    own = backbone.body.state_dict()
    assert not any("det_" in name for name in own) and len(backbone.body.layers) == 3
    backbone.body.load_state_dict({name: value for name, value in whole.state_dict().items() if name in own})
    images = torch.rand(2, 3, 56, 72)
    blocks = [block for stage in whole.layers for block in stage.blocks]
    found = hooked([whole.patch_embed, *blocks], whole, images, torch.zeros(2, 56, 72, dtype=torch.bool))
    expected = [found[0], found[2][0], found[4][0]]
    maps = backbone(images)
    assert [x.shape for x in maps] == [(2, c, h, w) for c, h, w in [(16, 14, 18), (32, 7, 9), (64, 4, 5)]]
    assert all(torch.allclose(x, y.permute(0, 3, 1, 2), atol=1e-5) for x, y in zip(maps, expected, strict=True))


@needs_timm
@torch.no_grad()
@pytest.mark.parametrize("config", [EFFICIENT, MOBILE, VIT, DINO2, DINO3])
def test_layers_of_timm_are_the_outputs_of_its_blocks(config):
    from detkit.backbones.pretrained import create_timm_model

    backbone = make(config).eval()
    vit = config["type"] == "ViTLayers"
    arguments = dict(config.get("model_args", {}), **({"dynamic_img_size": True} if vit else {}))
    whole = create_timm_model(config["model"], **arguments).eval()
    own = backbone.body.state_dict()
    backbone.body.load_state_dict({name: value for name, value in whole.state_dict().items() if name in own})
    images = torch.rand(2, 3, 112, 112)
    blocks = list(whole.blocks) if vit else [block for stage in whole.blocks for block in stage]
    found = hooked([whole.norm_pre if vit else whole.bn1, *blocks], whole, images)
    maps = backbone(images)
    assert [x.shape[1] for x in maps] == backbone.num_channels
    for number, x in zip(config["layers"], maps, strict=True):
        expected = found[number]
        if vit:
            expected = expected[:, whole.num_prefix_tokens :].transpose(1, 2).reshape(x.shape)
        assert torch.allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize("config", ALL)
def test_every_trained_weight_gets_a_gradient_in_cats(config):
    side = 112 if config is DINO2 else 64
    options = dict(frozen_norm=False) if config["type"] in ("ResNetLayers", "EfficientNetLayers", "TimmLayers") else {}
    model = CATs(make(config, trainable=True, **options), side=side, grid=4, appearance_dim=16, heads=4)
    model(PairBatch.collate([pair(3), pair(4)]))["loss_epe"].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("config", ALL)
def test_a_frozen_backbone_never_changes(config):
    side = 112 if config is DINO2 else 64
    model = CATs(make(config), side=side, grid=4, appearance_dim=16, heads=4).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model(PairBatch.collate([pair(3), pair(4)]))["loss_epe"].backward()
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert model.training and not any(module.training for module in model.backbone.body.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_batch_norms_learn_only_where_asked_for():
    images = torch.rand(2, 3, 64, 64)
    scratch = ResNetLayers(18, (4,), trainable=True, frozen_norm=False).train()
    before = scratch.body.bn1.running_mean.clone()
    scratch(images)
    assert scratch.body.bn1.weight.requires_grad and not torch.equal(scratch.body.bn1.running_mean, before)
    assert ResNetLayers(18, (4,), trainable=True).body.bn1.__class__.__name__ == "FrozenBatchNorm2d"


@needs_timm
def test_frozen_norms_of_a_trained_timm_model_stay():
    backbone = make(STAGES, trainable=True).train()
    assert backbone.body.conv_stem.weight.requires_grad and not backbone.body.bn1.weight.requires_grad
    before = backbone.body.bn1.running_mean.clone()
    backbone(torch.rand(2, 3, 64, 64))
    assert torch.equal(backbone.body.bn1.running_mean, before)


@pytest.mark.parametrize("config", ALL)
def test_an_image_matches_itself(config):
    side = 112 if config is DINO2 else 128
    matcher = NearestNeighbourMatcher(make(config), side=side, grid=4).eval()
    image, cell = torch.randint(0, 256, (3, side, side), dtype=torch.uint8), side / 4
    points = torch.tensor([[0.5 * cell, 1.5 * cell], [2.5 * cell, 3.5 * cell]])
    assert torch.equal(matcher.match(image, image, points).points, points)


@needs_timm
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights of EfficientNet-Lite0 are not here")
@pytest.mark.parametrize("kind", ["TimmLayers", "EfficientNetLayers"])
def test_weights_come_from_a_local_file(kind):
    layers = [3, 4] if kind == "TimmLayers" else [9, 16]
    backbone = make(dict(type=kind, model="tf_efficientnet_lite0", layers=layers, pretrained=str(WEIGHTS)))
    stored = torch.load(WEIGHTS, weights_only=True)
    assert torch.equal(backbone.body.conv_stem.weight, stored["conv_stem.weight"])
    assert torch.equal(backbone.body.blocks[3][0].conv_pw.weight, stored["blocks.3.0.conv_pw.weight"])
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert [x.shape[1] for x in maps] == backbone.num_channels


@needs_timm
def test_wrong_layers_and_models_are_explained():
    with pytest.raises(ConfigError, match=r"0\.\.5, got \[2, 6\]"):
        make(SWIN, layers=[2, 6])
    with pytest.raises(ConfigError, match=r"unknown argument 'num_tokens' of SwinLayers"):
        make(SWIN, num_tokens=3)
    with pytest.raises(ConfigError, match=r"0\.\.3, got \[4\]"):
        make(VIT, layers=[4])
    with pytest.raises(ConfigError, match="is a ResNet, not an EfficientNet or MobileNet"):
        make(EFFICIENT, model="resnet18")
    with pytest.raises(ValueError, match="64 x 60 pixels are not whole patches of 16"):
        make(VIT)(torch.rand(1, 3, 60, 64))


def test_cats_plus_plus_takes_the_stages_of_a_swin():
    sizes = dict(embed_dim=16, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), window=4)
    model = CATsPlusPlus(make(dict(type="SwinLayers", layers=[2, 3, 4, 5], **sizes), trainable=True), side=64)
    assert model.levels == [1, 1, 2]
    model(PairBatch.collate([pair(3)]))["loss_epe"].backward()
    assert [name for name, p in model.backbone.named_parameters() if p.grad is None] == []
