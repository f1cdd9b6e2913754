"""A backbone, matchers and pairs that are small enough for tests."""

import torch
from torch import nn

from detkit.correspondence.cats import CATs
from detkit.registry import is_registered, register
from detkit.structures import ImagePair, PairAnnotations


class TinyLayers(nn.Module):
    """Two maps of stride 8 and 16."""

    def __init__(self, channels=16, trainable=True):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 8, stride=8)
        self.second = nn.Conv2d(channels, 2 * channels, 2, stride=2)
        self.num_channels = [channels, 2 * channels]
        self.requires_grad_(trainable)

    def forward(self, images):
        first = self.first(images)
        return [first, self.second(first.relu())]


if not is_registered("TinyLayers"):
    register(TinyLayers)


def tiny_cats(**options):
    torch.manual_seed(0)
    sizes = dict(side=64, grid=4, appearance_dim=16, heads=4, field=35)
    return CATs(TinyLayers(), **sizes | options)


def pair(points=3, size=(64, 64), other=(64, 64), **fields):
    """A pair of noise images of sizes (h, w) with random common points."""
    images = [torch.randint(0, 256, (3, *s), dtype=torch.uint8) for s in (size, other)]
    where = [torch.rand(points, 2) * torch.tensor([s[1], s[0]]) for s in (size, other)]
    return ImagePair(*images), PairAnnotations(*where, pair_id=fields.pop("pair_id", 1), **fields)
