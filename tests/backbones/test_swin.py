import pytest
import torch

from detkit.backbones.pretrained import import_timm
from detkit.backbones.swin import VARIANTS, Swin
from detkit.backbones.windows import region_mask, split_windows, window_regions

SMALL = dict(num_tokens=5, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4), pos_dim=32)


@pytest.fixture(scope="module")
def timm_swin():
    timm = import_timm()
    # At 224 pixels timm does not shift the windows of the last stage, which the original detection code does.
    return timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, img_size=448).eval()


def original_weights(timm_model) -> dict[str, torch.Tensor]:
    """The state dict under the names that the original repository publishes: merging layers stand one stage earlier."""
    weights = {}
    for key, value in timm_model.state_dict().items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        weights[".".join(parts).replace("head.fc.", "head.")] = value
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    weights["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    return weights


def test_map_sizes_channels_and_tokens_at_odd_image_sizes():
    backbone = Swin(**SMALL).eval()
    images, mask = torch.randn(2, 3, 75, 130), torch.zeros(2, 75, 130, dtype=torch.bool)
    found = backbone(images, mask)
    assert [tuple(f.shape) for f in found.features] == [(2, 32, 10, 17), (2, 64, 5, 9), (2, 128, 3, 5), (2, 32, 2, 3)]
    assert backbone.num_channels == [32, 64, 128, 32]
    assert found.det.shape == (2, 5, 128) and found.det_pos.shape == (1, 5, 32)


def test_published_weights_give_the_features_of_timm(timm_swin, tmp_path):
    """[PATCH] tokens never look at [DET] tokens, so the maps are those of the plain classifier's stages."""
    torch.save({"model": original_weights(timm_swin)}, tmp_path / "swin_tiny.pth")
    backbone = Swin("tiny", pretrained=str(tmp_path / "swin_tiny.pth")).eval()
    images = torch.randn(1, 3, 448, 448)
    features = []
    with torch.no_grad():
        x = timm_swin.patch_embed(images)
        for stage in timm_swin.layers:
            x = stage(x)
            features.append(x)
        found = backbone(images, torch.zeros(1, 448, 448, dtype=torch.bool))
    for ours, theirs in zip(found.features[:3], features[1:], strict=True):
        torch.testing.assert_close(ours.permute(0, 2, 3, 1), theirs, rtol=1e-4, atol=1e-4)


def test_timm_names_load(timm_swin, monkeypatch):
    timm = import_timm()
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: asked.append((name, pretrained)) or timm_swin)
    backbone = Swin("tiny", pretrained="timm:swin_tiny_patch4_window7_224.ms_in1k")
    assert asked == [("swin_tiny_patch4_window7_224.ms_in1k", True)]
    merging = timm_swin.state_dict()["layers.1.downsample.reduction.weight"]
    torch.testing.assert_close(backbone.layers[0].downsample.reduction.weight, merging)
    with pytest.raises(ValueError, match="timm has no model 'swin_tinny'"):
        Swin("tiny", pretrained="timm:swin_tinny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"layers.0.extra": torch.zeros(1)}, r"unexpected: layers\.0\.extra"),
        (lambda w: {k: v for k, v in w.items() if k != "patch_embed.proj.bias"}, r"missing: patch_embed\.proj\.bias"),
        (lambda w: w | {"patch_embed.proj.bias": torch.zeros(7)}, r"\(7,\) in the file, \(96,\) in the model"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(timm_swin, tmp_path, change, message):
    torch.save(change(original_weights(timm_swin)), tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=message):
        Swin("tiny", pretrained=str(tmp_path / "bad.pth"))


def test_unreadable_weights_are_an_error(tmp_path):
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"torn\.pth: is truncated or damaged"):
        Swin("tiny", pretrained=str(tmp_path / "torn.pth"))
    with pytest.raises(ValueError, match="no such file"):
        Swin("tiny", pretrained=str(tmp_path / "absent.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(variant="nan0"), "unknown Swin variant 'nan0': choose from nano, tiny"),
        (dict(embed_dim=16), "depths, num_heads"),
        (dict(variant="nano", cross_stages=(4,)), r"cross_stages \[4\] do not exist"),
        (dict(variant="nano", depths=(2, 2)), "differ in length"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Swin(**arguments)


def test_every_variant_has_four_stages():
    assert set(VARIANTS) == {"nano", "tiny", "small", "base", "large"}
    for variant in VARIANTS.values():
        assert len(variant["depths"]) == len(variant["num_heads"]) == 4
        assert variant["embed_dim"] * 8 % variant["num_heads"][3] == 0


def test_det_tokens_see_patches_only_in_cross_stages_and_never_padding():
    torch.manual_seed(0)
    backbone = Swin(**SMALL, cross_stages=(3,)).eval()
    mask = torch.zeros(1, 64, 128, dtype=torch.bool)
    mask[:, :, 64:] = True
    images = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        once = backbone(images, mask).det
        changed = images.clone()
        changed[:, :, :, :64] += 1
        assert not torch.allclose(once, backbone(changed, mask).det, atol=1e-3)
        without = Swin(**SMALL, cross_stages=()).eval()
        torch.testing.assert_close(without(images, mask).det, without(changed, mask).det)


def test_shifted_windows_keep_apart_what_the_roll_brought_together():
    mask = region_mask(window_regions(8, 8, 4, 2, torch.device("cpu")))
    position = torch.arange(64).view(1, 8, 8, 1)
    rolled = split_windows(torch.roll(position, (-2, -2), (1, 2)), 4)[..., 0]
    y, x = rolled // 8, rolled % 8
    together = ((y[:, :, None] - y[:, None]).abs() < 4) & ((x[:, :, None] - x[:, None]).abs() < 4)
    assert torch.equal(mask == 0, together)
