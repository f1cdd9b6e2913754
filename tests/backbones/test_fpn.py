import pytest
import torch
from torch import nn

from detkit.backbones.fpn import FPN
from detkit.backbones.from_timm.features import TimmFeatures
from detkit.backbones.swin import Swin


class Body(nn.Module):
    def __init__(self, strides=(2, 4, 8, 16, 32)):
        super().__init__()
        self.strides, self.num_channels = strides, tuple(3 + i for i in range(len(strides)))
        sizes = zip(strides, self.num_channels, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 3, stride=s, padding=1) for s, c in sizes)

    def forward(self, images, mask):
        return [conv(images) for conv in self.convs]


BODIES = {
    "strides 2 to 32": lambda: Body(),
    "strides 4 to 64": lambda: Body((4, 8, 16, 32, 64)),
    "swin": lambda: Swin(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), num_tokens=1, pos_dim=16),
    "timm": lambda: TimmFeatures("test_resnet", num_tokens=1, pos_dim=16),
}


@pytest.mark.parametrize("body", BODIES)
def test_five_maps_and_a_gradient_for_all_that_is_trained(body):
    torch.manual_seed(0)
    fpn = FPN(BODIES[body](), out_channels=8)
    maps = fpn(torch.randn(2, 3, 96, 160), torch.zeros(2, 96, 160, dtype=torch.bool))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 24, 40), (2, 8, 12, 20), (2, 8, 6, 10), (2, 8, 3, 5), (2, 8, 2, 3)]
    sum(m.square().sum() for m in maps).backward()
    untouched = {name for name, p in fpn.named_parameters() if p.requires_grad and p.grad is None}
    assert untouched == ({"body.convs.0.weight", "body.convs.0.bias"} if body == "strides 2 to 32" else set())


def test_coarse_maps_reach_fine_ones_by_repetition():
    fpn = FPN(Body(), out_channels=4)
    for layer in (*fpn.lateral, *fpn.output):
        nn.init.zeros_(layer.weight)
    nn.init.ones_(fpn.lateral[3].bias)
    for layer in fpn.output:
        nn.init.dirac_(layer.weight)
    maps = fpn(torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    assert all((m == 1).all() for m in maps)


def test_strides_that_do_not_fit():
    with pytest.raises(ValueError, match=r"it gives \(16, 32\)"):
        FPN(Body((16, 32)))


def test_names_without_weight_decay():
    assert FPN(BODIES["swin"]()).no_weight_decay() == {"body.det_token", "body.det_pos_embed"}
    assert FPN(Body()).no_weight_decay() == set()
