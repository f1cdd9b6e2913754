import pytest
import torch
from torch import nn

from detkit.backbones.from_timm.features import TimmFeatures
from detkit.backbones.pretrained import create_timm_model
from detkit.structures import Annotations, Batch
from detkit.vidt.model import ViDT

SWIN = dict(embed_dim=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2))
MODELS = {"test_resnet": {}, "test_convnext": {}, "test_efficientnet": {}, "swin_tiny_patch4_window7_224": SWIN}


def small(model="test_resnet", **options):
    torch.manual_seed(0)
    return TimmFeatures(model, **(dict(num_tokens=5, pos_dim=32, model_args=MODELS[model]) | options))


def whole(*size):
    return torch.zeros(size, dtype=torch.bool)


@pytest.mark.parametrize("model", MODELS)
def test_map_sizes_channels_and_tokens_at_odd_image_sizes(model):
    backbone = small(model).eval()
    found = backbone(torch.randn(2, 3, 75, 130), whole(2, 75, 130))
    assert [tuple(f.shape[2:]) for f in found.features] == [(10, 17), (5, 9), (3, 5), (2, 3)]
    assert [f.shape[1] for f in found.features] == backbone.num_channels
    assert backbone.num_channels[-1] == backbone.det_channels == 32
    assert found.det.shape == (2, 5, 32) and found.det_pos.shape == (1, 5, 32)


@pytest.mark.parametrize("model", MODELS)
def test_weights_of_a_classifier_give_its_features(model, tmp_path):
    classifier = create_timm_model(model, **MODELS[model]).eval()
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    backbone = small(model, pretrained=str(tmp_path / "weights.pth")).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found = backbone(images, whole(1, 224, 224)).features[2]
        expected = classifier.forward_intermediates(images, indices=1, intermediates_only=True)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_load_strictly(tmp_path):
    weights = create_timm_model("test_resnet").state_dict()
    del weights["layer1.0.conv1.weight"]
    torch.save(weights, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"missing: layer1\.0\.conv1\.weight"):
        small(pretrained=str(tmp_path / "bad.pth"))


def test_old_weights_may_lack_the_counters_of_batch_norms(tmp_path):
    classifier = create_timm_model("test_resnet")
    weights = {k: v for k, v in classifier.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "old.pth")
    backbone = small(pretrained=str(tmp_path / "old.pth"))
    assert torch.equal(backbone.body.layer1[0].conv1.weight, classifier.layer1[0].conv1.weight)


def test_frozen_batch_norms_stay_as_they_are():
    backbone = small().train()
    norms = [module for module in backbone.body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms) and backbone.body.conv1[0].training
    before = norms[0].running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64), whole(2, 64, 64))
    assert torch.equal(norms[0].running_mean, before)
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    learned = small(frozen_norm=False).train()
    learned(torch.randn(2, 3, 64, 64), whole(2, 64, 64))
    norm = next(module for module in learned.body.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.training and norm.weight.requires_grad and not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("boxes", [[], [(0, 0, 20, 20), (10, 10, 60, 60)]])
def test_training_reaches_every_trainable_parameter(model, boxes):
    backbone = small(model, frozen_norm=model == "test_resnet")
    detector = ViDT(backbone, 3, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64).train()
    annotations = Annotations(torch.tensor(boxes).float().view(-1, 4), torch.zeros(len(boxes), dtype=torch.int64))
    losses = detector(Batch.collate([(torch.randint(256, (3, 64, 80), dtype=torch.uint8), annotations)] * 2))
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_det_tokens_are_the_same_for_every_image():
    backbone = small().eval()
    det = backbone(torch.randn(2, 3, 64, 64), whole(2, 64, 64)).det
    assert torch.equal(det[0], det[1]) and torch.equal(det[:1], backbone.det_token)


def test_chosen_maps():
    backbone = small(out_indices=(3, 4))
    assert backbone.num_channels[:-1] == backbone.body.feature_info.channels() and backbone.strides == [16, 32]
    assert len(backbone(torch.randn(1, 3, 64, 64), whole(1, 64, 64)).features) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(model="resnet19"), ValueError, "timm has no model 'resnet19'; it has .*resnet18"),
        (dict(model="test_vit"), ValueError, r"no maps of stride \[8, 32\], only of \[16\].*backbone ViT"),
        (dict(model="test_resnet", model_args=dict(detph=2)), TypeError, "detph"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        TimmFeatures(**arguments)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_layers_up_to_a_stride_do_not_train(model):
    backbone = small(model, frozen_stride=4, frozen_norm=False)
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen
    sum(f.square().mean() for f in backbone(torch.randn(2, 3, 64, 64), whole(2, 64, 64)).features).backward()
    trained = [name for name, parameter in backbone.body.named_parameters() if parameter.grad is not None]
    assert trained and not set(frozen) & {f"body.{name}" for name in trained}
    order = [name for name, _ in backbone.body.named_parameters()]
    assert order.index(trained[0]) == len(frozen)  # from the image on, without a gap


def test_a_stride_without_map_cannot_be_frozen():
    with pytest.raises(ValueError, match=r"frozen_stride: the model has maps of stride \[.*\], none of 5"):
        small(frozen_stride=5)
