import pytest
import torch

from detkit.backbones.coat import VARIANTS, CoaT, convert_coat, own_key
from detkit.backbones.pretrained import import_timm
from detkit.structures import Annotations, Batch
from detkit.vidt.model import ViDT

SMALL = dict(num_tokens=5, dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), mlp_ratios=(2, 2, 2, 2), pos_dim=32)


@pytest.fixture(scope="module")
def timm_coat():
    torch.manual_seed(0)
    return import_timm().create_model("coat_lite_tiny", pretrained=False).eval()


def whole(*size):
    return torch.zeros(size, dtype=torch.bool)


def test_map_sizes_channels_and_tokens_at_odd_image_sizes():
    backbone = CoaT(**SMALL).eval()
    found = backbone(torch.randn(2, 3, 75, 130), whole(2, 75, 130))
    assert [tuple(f.shape) for f in found.features] == [(2, 16, 10, 17), (2, 24, 5, 9), (2, 32, 3, 5), (2, 32, 2, 3)]
    assert backbone.num_channels == [16, 24, 32, 32] and backbone.det_channels == 32
    assert found.det.shape == (2, 5, 32) and found.det_pos.shape == (1, 5, 32)


def test_published_weights_give_the_features_of_timm(timm_coat, tmp_path):
    """[PATCH] tokens never look at [DET] tokens, so the maps are those of the plain classifier's stages."""
    original = timm_coat.state_dict() | {f"norm{i}.weight": torch.zeros(3) for i in (1, 2, 3)}
    torch.save({"model": original}, tmp_path / "coat.pth")
    backbone = CoaT("tiny", pretrained=str(tmp_path / "coat.pth")).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = timm_coat.forward_intermediates(images, intermediates_only=True)
        found = backbone(images, whole(1, 224, 224))
        other = CoaT("tiny", pretrained=str(tmp_path / "coat.pth"), positions_after_norm=True).eval()
        assert (other(images, whole(1, 224, 224)).features[0] - expected[1]).abs().max() > 0.1
    for ours, theirs in zip(found.features[:3], expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_timm_names_load(timm_coat, monkeypatch):
    monkeypatch.setattr(import_timm(), "create_model", lambda name, pretrained: timm_coat)
    backbone = CoaT("tiny", pretrained="timm:coat_lite_tiny.in1k")
    torch.testing.assert_close(backbone.stages[1].cls_token, timm_coat.cls_token2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"serial_blocks1.0.extra": torch.zeros(1)}, r"unexpected: stages\.0\.blocks\.0\.extra"),
        (lambda w: {k: v for k, v in w.items() if k != "cls_token3"}, r"missing: stages\.2\.cls_token"),
        (lambda w: w | {"patch_embed1.proj.bias": torch.zeros(7)}, r"\(7,\) in the file, \(64,\) in the model"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(timm_coat, tmp_path, change, message):
    torch.save(change(timm_coat.state_dict()), tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=message):
        CoaT("tiny", pretrained=str(tmp_path / "bad.pth"))


@pytest.mark.parametrize(
    ("original", "own"),
    [
        ("patch_embed5.norm.bias", "reduce.norm.bias"),
        ("cls_token1", "stages.0.cls_token"),
        ("cpe2.proj.weight", "stages.1.positions.absolute.weight"),
        ("serial_blocks2.1.cpe.proj.weight", "stages.1.positions.absolute.weight"),
        ("serial_blocks4.0.factoratt_crpe.crpe.conv_list.2.bias", "stages.3.positions.relative.2.bias"),
        ("serial_blocks4.0.factoratt_crpe.proj.bias", "stages.3.blocks.0.attn.proj.bias"),
        ("det_exp_norm_3.weight", "stages.3.det_norm.weight"),
        ("det_token", "det_token"),
    ],
)
def test_original_names(original, own):
    assert own_key(original) == own


def test_shared_convolutions_are_stored_once(timm_coat):
    converted, left_out = convert_coat(timm_coat.state_dict())
    assert len(left_out) == 4 + 4 * 2 * (2 + 6)  # head and norm, then 8 tensors of each of 8 blocks
    assert len(converted) + len(left_out) == len(timm_coat.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(variant="tinny"), "unknown CoaT variant 'tinny': choose from tiny, mini"),
        (dict(dims=(8, 8, 8, 8)), "depths, mlp_ratios"),
        (dict(variant="tiny", cross_stages=(4,)), r"cross_stages \[4\] do not exist"),
        (dict(variant="tiny", depths=(2, 2)), r"depths \(2, 2\) has 2 entries"),
        (dict(variant="tiny", dims=(8, 12, 16, 16)), r"dims \[12\] are no multiples of 8"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoaT(**arguments)


def test_every_variant_builds_blocks_of_its_depths():
    assert set(VARIANTS) == {"tiny", "mini", "small", "medium"}
    with torch.device("meta"):
        sizes = {name: sum(p.numel() for p in CoaT(name).parameters()) for name in VARIANTS}
    assert sizes["tiny"] < sizes["mini"] < sizes["small"] < sizes["medium"]


def test_det_tokens_see_patches_only_in_cross_stages_and_never_padding():
    torch.manual_seed(0)
    mask = whole(1, 64, 128).clone()
    mask[:, :, 64:] = True
    images = torch.randn(1, 3, 64, 128)
    changed = images.clone()
    changed[:, :, :, :64] += 1
    with torch.no_grad():
        backbone = CoaT(**SMALL, cross_stages=(3,)).eval()
        assert not torch.allclose(backbone(images, mask).det, backbone(changed, mask).det, atol=1e-4)
        without = CoaT(**SMALL, cross_stages=()).eval()
        torch.testing.assert_close(without(images, mask).det, without(changed, mask).det)
        # with patches that are all alike, masked or not makes the only difference
        found = [backbone(torch.zeros(1, 3, 64, 128), m).det for m in (mask, ~mask)]
        assert not torch.allclose(*found, atol=1e-6)


def test_det_tokens_never_change_patches():
    backbone = CoaT(**SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images, whole(1, 64, 64)).features
        backbone.det_token.add_(1)
        after = backbone(images, whole(1, 64, 64)).features
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("after_norm", [False, True])
@pytest.mark.parametrize("boxes", [[], [(0, 0, 20, 20), (10, 10, 60, 60)]])
def test_training_reaches_every_parameter(boxes, after_norm):
    torch.manual_seed(0)
    body = CoaT(**SMALL, positions_after_norm=after_norm)
    model = ViDT(body, 3, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64).train()
    annotations = Annotations(torch.tensor(boxes).float().view(-1, 4), torch.zeros(len(boxes), dtype=torch.int64))
    losses = model(Batch.collate([(torch.randint(256, (3, 64, 80), dtype=torch.uint8), annotations)]))
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_tokens_are_not_decayed():
    backbone = CoaT(**SMALL)
    assert backbone.no_weight_decay() <= {name for name, _ in backbone.named_parameters()}
    assert "stages.3.cls_token" in backbone.no_weight_decay()
