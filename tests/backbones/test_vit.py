import sys

import pytest
import torch

from detkit.backbones.pretrained import create_timm_model, import_timm
from detkit.backbones.vit import ViT
from detkit.checkpoints.weights import load_model, make_header, save_weights
from detkit.structures import Annotations, Batch, LabelMap
from detkit.vidt.model import ViDT

TINY = dict(embed_dim=32, num_heads=2, depth=4, img_size=64)
SMALL = dict(num_tokens=5, pos_dim=32, out_channels=16)
BODIES = {
    "vit_tiny_patch16_224": TINY,
    "deit_tiny_distilled_patch16_224": TINY,
    "vit_small_patch14_dinov2": TINY | dict(img_size=56),
    "vit_small_patch14_reg4_dinov2": TINY | dict(img_size=56),
    "vit_small_patch16_dinov3": TINY,
    "vit_small_plus_patch16_dinov3": TINY,  # a gated feed-forward network
    "vit_tiny_patch16_dinov3_qkvb": TINY,
    "eva02_tiny_patch14_224": TINY | dict(img_size=56),
}


def whole(*size):
    return torch.zeros(size, dtype=torch.bool)


def tiny(model="vit_tiny_patch16_224", more_args=None, **options):
    torch.manual_seed(0)
    return ViT(model, **(SMALL | options), model_args=BODIES[model] | (more_args or {})).eval()


@pytest.mark.parametrize("model", BODIES)
def test_patches_have_the_features_of_timm_at_any_size(model):
    backbone = tiny(model)
    with torch.no_grad():
        for parameter in backbone.body.parameters():  # also what starts at 0 or 1e-5: biases, layer scales, tokens
            parameter.add_(0.1 * torch.randn_like(parameter))
    original = create_timm_model(model, dynamic_img_size=True, **BODIES[model]).eval()
    problems = original.load_state_dict(backbone.body.state_dict(), strict=False)
    assert not problems.unexpected_keys and all(k.startswith(("head", "fc_norm")) for k in problems.missing_keys)
    patch = backbone.patch
    for size in [(4 * patch, 4 * patch), (3 * patch, 6 * patch)]:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            found, det = backbone.encode(images, whole(2, *size))
            expected = original.forward_features(images)[:, original.num_prefix_tokens :]
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)
        assert det.shape == (2, 5, 32) and torch.isfinite(det).all()


def test_map_sizes_channels_and_tokens_at_odd_image_sizes():
    for window in (None, 2):
        backbone = tiny(window=window)
        found = backbone(torch.randn(2, 3, 75, 130), whole(2, 75, 130))
        assert [tuple(f.shape[2:]) for f in found.features] == [(10, 18), (5, 9), (3, 5), (2, 3)]
        assert [f.shape[1] for f in found.features] == backbone.num_channels == [16] * 4
        assert backbone.det_channels == 32 and found.det.shape == (2, 5, 32) and found.det_pos.shape == (1, 5, 32)


@pytest.mark.parametrize(("patch", "first"), [(8, (8, 16)), (14, (10, 20)), (32, (8, 16))])
def test_strides_follow_the_patches(patch, first):
    found = tiny(more_args=dict(patch_size=patch))(torch.randn(1, 3, 64, 128), whole(1, 64, 128))
    assert tuple(found.features[0].shape[2:]) == first
    for finer, coarser in zip(found.features, found.features[1:], strict=False):
        assert coarser.shape[2:] == tuple(-(-s // 2) for s in finer.shape[2:])


def test_det_tokens_never_change_patches():
    backbone, images = tiny(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images, whole(1, 64, 64)).features
        backbone.det_token.add_(1)
        after = backbone(images, whole(1, 64, 64)).features
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_det_tokens_see_patches_only_in_cross_blocks():
    images, mask = torch.randn(2, 3, 64, 64), whole(2, 64, 64)
    assert tiny().cross_blocks == (3,)
    with torch.no_grad():
        det = tiny(cross_blocks=(1,))(images, mask).det
        assert not torch.allclose(det[0], det[1], atol=1e-4)
        det = tiny(cross_blocks=())(images, mask).det
        assert torch.equal(det[0], det[1])


def test_det_tokens_never_see_padding():
    """Where windows keep the patches of the padding from those of the image, it reaches nothing."""
    no_prefix = dict(class_token=False, global_pool="avg")
    backbone = tiny(window=2, global_blocks=(), cross_blocks=(0, 1, 2, 3), more_args=no_prefix)
    images, mask = torch.randn(1, 3, 64, 96), whole(1, 64, 96).clone()
    mask[:, :, 64:] = True
    changed = images.clone()
    changed[:, :, :, 64:] += 1
    with torch.no_grad():
        torch.testing.assert_close(backbone(images, mask).det, backbone(changed, mask).det)
        seen = backbone(images, whole(1, 64, 96)).det - backbone(changed, whole(1, 64, 96)).det
        assert seen.abs().max() > 1e-4
        before, after = (backbone.encode(x, mask)[0] for x in (images, changed))
    torch.testing.assert_close(before[..., :4], after[..., :4])


@pytest.mark.parametrize("model", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_one_window_is_global_attention(model):
    backbone, windowed = tiny(model), tiny(model, window=4, global_blocks=())
    side = 4 * backbone.patch
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, found = (body.encode(images, whole(2, side, side)) for body in (backbone, windowed))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_prefix_tokens_join_windows():
    """A class token sees all windows and is seen by all."""
    backbone = tiny(window=2, global_blocks=())
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[:, :, :32, :32] += 1
    with torch.no_grad():
        before, after = (backbone.encode(x, whole(1, 64, 64))[0] for x in (images, changed))
    assert (before - after)[..., 2:, 2:].abs().max() > 1e-5


def test_default_global_blocks_end_each_quarter():
    assert tiny(window=2, more_args=dict(depth=6)).global_blocks == (0, 2, 3, 5)
    assert tiny(window=2, more_args=dict(depth=12, embed_dim=8)).global_blocks == (2, 5, 8, 11)


@pytest.mark.parametrize(
    "model", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"]
)
@pytest.mark.parametrize("boxes", [[], [(0, 0, 20, 20), (10, 10, 60, 60)]])
def test_training_reaches_every_parameter(model, boxes):
    backbone = tiny(model, window=2, drop_path=0.1)
    detector = ViDT(backbone, 3, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64).train()
    annotations = Annotations(torch.tensor(boxes).float().view(-1, 4), torch.zeros(len(boxes), dtype=torch.int64))
    losses = detector(Batch.collate([(torch.randint(256, (3, 64, 80), dtype=torch.uint8), annotations)] * 2))
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_pooling_layers_of_the_classifier_are_dropped():
    names = {name for name, _ in tiny(more_args=dict(global_pool="map")).named_parameters()}
    assert not [name for name in names if "attn_pool" in name or "head" in name or "fc_norm" in name]


def test_bfloat16_autocast():
    backbone = tiny("vit_small_patch16_dinov3", window=2)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = backbone(torch.randn(1, 3, 64, 64), whole(1, 64, 64))
    assert torch.isfinite(found.det).all() and all(torch.isfinite(f).all() for f in found.features)


def test_weights_of_a_file_load_strictly(tmp_path):
    weights = create_timm_model("vit_tiny_patch16_224", **TINY).state_dict()
    torch.save(weights, tmp_path / "vit.pth")
    backbone = tiny(pretrained=str(tmp_path / "vit.pth"))
    assert torch.equal(backbone.body.blocks[3].mlp.fc2.weight, weights["blocks.3.mlp.fc2.weight"])
    torch.save({k: v for k, v in weights.items() if k != "cls_token"}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="missing: cls_token"):
        tiny(pretrained=str(tmp_path / "bad.pth"))
    torch.save(weights | {"blocks.9.norm1.bias": torch.zeros(1)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"unexpected: blocks\.9\.norm1\.bias"):
        tiny(pretrained=str(tmp_path / "bad.pth"))


def test_published_weights_are_asked_for_once(monkeypatch):
    timm = import_timm()
    asked, create = [], timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, **more: asked.append((name, pretrained)) or create(name, **more)
    )
    tiny(pretrained=True)
    assert asked == [("vit_tiny_patch16_224", True)]


def test_weights_that_cannot_be_fetched_are_an_error(monkeypatch):
    def fail(name, **arguments):
        raise OSError("no network")

    monkeypatch.setattr(import_timm(), "create_model", fail)
    with pytest.raises(ValueError, match="could not fetch the weights of vit_tiny_patch16_224: no network"):
        tiny(pretrained=True)


def test_a_checkpoint_holds_the_body(tmp_path):
    body = dict(type="ViT", model="vit_tiny_patch16_224", pretrained=True, model_args=TINY, **SMALL)
    config = dict(model=dict(type="ViDT", backbone=body, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64))
    model = ViDT(tiny(), 3, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64).eval()
    model.label_map = LabelMap.numbered(3)
    save_weights(tmp_path / "vit.safetensors", model.state_dict(), make_header(config, model))
    loaded = load_model(tmp_path / "vit.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'timm is not installed: pip install "detkit\[timm\]"'):
        ViT()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(model="vit_tinny_patch16_224"), "timm has no model 'vit_tinny_patch16_224'; it has vit_tiny_patch16_224"),
        (dict(model="test_resnet"), "'test_resnet' is no plain vision transformer"),
        (dict(model="test_vit_relpos"), "'test_vit_relpos' is no plain vision transformer"),
        (dict(model="vit_small_patch16_18x2_224", model_args=TINY), "blocks of another kind: ParallelThingsBlock"),
        (dict(model="test_vit", model_args=dict(detph=2)), "detph"),
        (dict(model="test_vit", model_args=dict(patch_drop_rate=0.1)), "patch_drop_rate"),
        (dict(model="test_vit", cross_blocks=(5, 6)), r"cross_blocks \[6\] do not exist: there are blocks 0 to 5"),
        (dict(model="test_vit", window=2, global_blocks=(-1,)), r"global_blocks \[-1\] do not exist"),
        (dict(model="test_vit", global_blocks=(1,)), "mean nothing without window"),
        (dict(model="test_vit", num_tokens=0), r"num_tokens \(0\)"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViT(**arguments)


def test_tokens_and_positions_are_not_decayed():
    backbone = tiny()
    names = {name for name, _ in backbone.named_parameters()}
    assert {"det_token", "det_pos_embed", "body.pos_embed", "body.cls_token"} <= backbone.no_weight_decay() & names


@pytest.mark.parametrize("model", ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3"])
@pytest.mark.parametrize("cross_blocks", [[3], [1, 3], []])
def test_without_gradients_the_outputs_are_the_same(model, cross_blocks):
    backbone = tiny(model, window=2, cross_blocks=cross_blocks, strides=[16, 32])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    size = (4 * backbone.patch, 3 * backbone.patch)
    images, mask = torch.randn(2, 3, *size), whole(2, *size)
    expected = backbone(images, mask)
    for _ in range(2):
        with torch.no_grad():
            found = backbone(images, mask)
        assert len(found.features) == len(backbone.num_channels) == 2
        for ours, theirs in zip([*found.features, found.det], [*expected.features, expected.det], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        backbone.body.blocks[0].mlp.fc1.weight.mul_(1.5)
        assert not torch.equal(found.det, backbone(images, mask).det)
