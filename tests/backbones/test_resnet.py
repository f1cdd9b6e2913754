import pytest
import torch
import torch.nn.functional as F

from detkit.backbones.pretrained import create_timm_model
from detkit.backbones.resnet import DETECTRON_NAMES, ResNet, convert_resnet, detectron_name


@pytest.fixture(scope="module")
def published():
    """A ResNet-50 of timm, whose names are torchvision's, with statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = create_timm_model("resnet50").eval()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def weights(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(published.state_dict(), path)
    return str(path)


@torch.no_grad()
def test_published_weights_load_and_give_the_same_maps(published, weights):
    images = torch.randn(1, 3, 64, 96)
    maps = ResNet(50, pretrained=weights).eval()(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 32, 48), (256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)]
    torch.testing.assert_close(maps[-1], published.forward_features(images))
    trained = ResNet(50, pretrained=weights, frozen_norm=False)
    assert not torch.equal(trained(images.expand(2, -1, -1, -1))[-1][:1], maps[-1])


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 34])
def test_basic_blocks_with_published_weights(depth, tmp_path):
    torch.manual_seed(0)
    published = create_timm_model(f"resnet{depth}").eval()
    for name, buffer in published.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    images = torch.randn(2, 3, 64, 96)
    for frozen_norm in (True, False):
        model = ResNet(depth, pretrained=str(tmp_path / "weights.pth"), frozen_norm=frozen_norm).eval()
        maps = model(images)
        assert tuple(m.shape[1] for m in maps) == model.num_channels == (64, 64, 128, 256, 512)
        torch.testing.assert_close(maps[-1], published.forward_features(images), atol=1e-4, rtol=0)


def test_other_input_channels_keep_a_new_first_convolution(published, weights):
    model = ResNet(50, in_channels=7, frozen_norm=False, pretrained=weights)
    assert model.conv1.weight.shape == (64, 7, 7, 7)
    assert torch.equal(model.layer4[2].conv3.weight, published.layer4[2].conv3.weight)
    assert torch.equal(model.bn1.running_var, published.bn1.running_var)


def test_frozen_parts():
    model = ResNet(50, frozen_stages=2)
    assert not any(".bn" in name for name, _ in model.named_parameters())
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert all(p.requires_grad for p in ResNet(50).parameters())
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_stride_in_the_first_convolution():
    modules = ResNet(50, stride_in_1x1=True).named_modules()
    halving = [name for name, m in modules if "conv" in name and m.stride == (2, 2)]
    assert halving == [
        "conv1",
        "layer2.0.conv1",
        "layer3.0.conv1",
        "layer4.0.conv1",
    ]


def test_detectron_names():
    names = {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.bias": "bn1.bias",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res5.0.shortcut.norm.weight": "layer4.0.downsample.1.weight",
        "res4.22.conv3.norm.running_var": "layer3.22.bn3.running_var",
        "res3.1.conv2.weight": "layer2.1.conv2.weight",
    }
    assert {key: detectron_name(key) for key in names} == names
    assert len(DETECTRON_NAMES) == 6
    weights, left_out = convert_resnet(
        {"stem.conv1.weight": torch.arange(3.0).view(1, 3, 1, 1), "fc.bias": torch.zeros(1)}
    )
    assert weights["conv1.weight"].flatten().tolist() == [2, 1, 0] and left_out == ["fc.bias"]


def test_refused_arguments(weights):
    with pytest.raises(ValueError, match="no ResNet of depth 152"):
        ResNet(152)
    with pytest.raises(ValueError, match="depth 18 has none"):
        ResNet(18, stride_in_1x1=True)
    with pytest.raises(ValueError, match=r"do not fit .*missing: layer3\.6"):
        ResNet(101, pretrained=weights)


def test_frozen_norm_is_batch_norm_in_eval_mode():
    model = ResNet(50)
    x = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(model.bn1(x), F.batch_norm(x, torch.zeros(64), torch.ones(64)))
