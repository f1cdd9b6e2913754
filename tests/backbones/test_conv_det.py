import pytest
import torch

from detkit.backbones.conv_det import ConvDet
from detkit.backbones.layers import CrossInputs
from detkit.structures import Annotations, Batch
from detkit.vidt.model import ViDT


def small(**options):
    torch.manual_seed(0)
    sizes = dict(dims=(8, 8, 16, 32), num_heads=4, num_tokens=5, pos_dim=16)
    return ConvDet(**(sizes | options))


def whole(*size):
    return torch.zeros(size, dtype=torch.bool)


def test_map_sizes_channels_and_tokens_at_odd_image_sizes():
    backbone = small().eval()
    found = backbone(torch.randn(2, 3, 75, 130), whole(2, 75, 130))
    assert [tuple(f.shape[2:]) for f in found.features] == [(10, 17), (5, 9), (3, 5), (2, 3)]
    assert [f.shape[1] for f in found.features] == backbone.num_channels == [8, 16, 32, 16]
    assert found.det.shape == (2, 5, 32) and found.det_pos.shape == (1, 5, 16)


def test_det_tokens_see_the_image_but_not_its_padding():
    backbone = small().eval()
    images, mask = torch.randn(1, 3, 64, 128), whole(1, 64, 128)
    mask[:, :, 96:] = True
    images[:, :, :, 64:] = 0
    with torch.no_grad():
        det = backbone(images, mask).det
        other = images.clone()
        other[:, :, :32, :32] += 1
        assert not torch.allclose(det, backbone(other, mask).det)
        # Cells of stride 32 look far beyond their borders; what the attention itself reads is compared.
        cells = torch.randn(1, 2, 4, 32)
        block, positions = backbone.blocks[0], backbone.det_pos_embed
        cross = CrossInputs.of(cells, mask, 5)
        tokens = backbone.det_token
        before = block(cells, tokens, positions, cross)[1]
        cells[:, :, 3] += 10
        torch.testing.assert_close(block(cells, tokens, positions, cross)[1], before)


def test_training_reaches_every_parameter():
    model = ViDT(small(), 3, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=32, proposals=True).train()
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 60, 50]])
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    batch = Batch.collate([(image, Annotations(boxes, torch.tensor([0, 2]))) for image in images])
    sum(model(batch).values()).backward()
    assert not [name for name, p in model.backbone.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("options", [dict(num_heads=3), dict(dims=(8, 8, 16, 30), num_heads=2)])
def test_wrong_sizes_are_refused(options):
    with pytest.raises(ValueError, match="the last of dims must be a multiple of 4 and of num_heads"):
        small(**options)
