"""A backbone of a SOLOv2 that is small enough for tests."""

from torch import nn

from detkit.registry import is_registered, register


class SmallPyramid(nn.Module):
    """Five maps of stride 4 to 64, each by one convolution."""

    out_channels = 16

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 16, 3, stride=s, padding=1) for s in (4, 8, 16, 32, 64))

    def forward(self, images, mask):
        return [conv(images) for conv in self.convs]


if not is_registered("SmallPyramid"):
    register(SmallPyramid)
