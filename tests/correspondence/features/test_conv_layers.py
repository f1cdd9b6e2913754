import pytest
import torch

from detkit.correspondence.features.conv_layers import ConvLayers


def test_each_stage_halves_the_resolution_and_the_last_give_maps():
    backbone = ConvLayers([8, 16, 24], levels=2)
    maps = backbone(torch.rand(2, 3, 64, 48))
    assert [tuple(x.shape) for x in maps] == [(2, 16, 16, 12), (2, 24, 8, 6)] and backbone.num_channels == [16, 24]
    assert not any(p.requires_grad for p in ConvLayers([8], levels=1, trainable=False).parameters())


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="levels must lie in"):
        ConvLayers([8, 8], levels=3)
    with pytest.raises(ValueError, match="multiples of 8"):
        ConvLayers([8, 12])
