import pytest
import torch

import detkit
from detkit.checkpoints.smaller.layer_drop import drop_layers
from detkit.checkpoints.weights import make_header, save_weights
from detkit.registry import ConfigError, build
from detkit.runtime.components import import_components
from detkit.structures import ImageBatch

MODEL = dict(
    type="ViDT",
    backbone=dict(type="Swin", embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], num_tokens=5, pos_dim=32),
    num_classes=3,
    hidden_dim=32,
    decoder_layers=3,
    heads=4,
    ffn_dim=64,
    iou_aware=True,
    mask_vectors=16,
    fusion=True,
)


@pytest.fixture
def checkpoint(tmp_path):
    import_components()
    torch.manual_seed(0)
    model = build(MODEL).eval()
    save_weights(tmp_path / "full.safetensors", model.state_dict(), make_header({"model": MODEL}, model))
    return model, tmp_path


def test_the_smaller_checkpoint_predicts_what_its_last_stage_predicted_before(checkpoint):
    model, folder = checkpoint
    before, after = drop_layers(folder / "full.safetensors", folder / "small.safetensors", keep=1)
    small = detkit.load(folder / "small.safetensors")
    assert after == sum(p.numel() for p in small.parameters()) < before
    images = ImageBatch.from_images([torch.randn(3, 64, 64)])
    with torch.no_grad():
        full, dropped = model.forward_stages(images), small.forward_stages(images)
    assert len(dropped.logits) == 2
    torch.testing.assert_close(dropped.logits, full.logits[:2])
    torch.testing.assert_close(dropped.boxes, full.boxes[:2])


@pytest.mark.parametrize("keep", [0, 1])
def test_a_model_that_learned_with_denoising_queries(tmp_path, keep):
    import_components()
    config = {**MODEL, "proposals": True, "denoising": 10}
    model = build(config)
    save_weights(tmp_path / "full.safetensors", model.state_dict(), make_header({"model": config}, model))
    drop_layers(tmp_path / "full.safetensors", tmp_path / "small.safetensors", keep=keep)
    small = detkit.load(tmp_path / "small.safetensors")  # denoising queries need a decoder layer
    assert len(small.decoder) == keep and (small.denoising is None) == (keep == 0)


def test_what_cannot_be_dropped(checkpoint):
    _, folder = checkpoint
    with pytest.raises(ConfigError, match="cannot keep 3 of 3 decoder layers"):
        drop_layers(folder / "full.safetensors", folder / "small.safetensors", keep=3)
    assert not (folder / "small.safetensors").exists()
    with pytest.raises(ConfigError, match="exists already"):
        drop_layers(folder / "full.safetensors", folder / "full.safetensors", keep=1)
