"""A small convolutional backbone that is trained from random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import MinLen
from torch import Tensor, nn

from detkit.registry import register
from detkit.registry.ranges import Channels, Depth


@register
class ConvLayers(nn.Module):
    """Maps of the last stages of a plain network; each stage halves the resolution.

    Args:
        channels: of each stage, each a multiple of `groups`.
        levels: how many of the last stages give a map.
        groups: of the group norms.
        trainable: train it; False freezes it.

    Raises:
        ValueError: channels or levels that do not fit.
    """

    def __init__(
        self,
        channels: Annotated[Sequence[Channels], MinLen(1)] = (32, 64, 128),
        *,
        levels: Depth = 2,
        groups: Channels = 8,
        trainable: bool = True,
    ):
        super().__init__()
        if not 1 <= levels <= len(channels) or any(c % groups for c in channels):
            raise ValueError(
                f"levels must lie in 1..{len(channels)} and channels be multiples of {groups}, got levels {levels} and "
                f"channels {list(channels)}"
            )
        inputs = (3, *channels)
        self.stages = nn.ModuleList(_stage(inputs[i], c, groups) for i, c in enumerate(channels))
        self.levels = levels
        self.num_channels = list(channels[-levels:])
        self.requires_grad_(trainable)

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        """Maps `[b, c, h', w']` of the last `levels` stages, fine to coarse; stage k (from 1) has stride 2^k."""
        maps = []
        for stage in self.stages:
            images_b3hw = stage(images_b3hw)
            maps.append(images_b3hw)
        return maps[-self.levels :]


def _stage(in_channels: int, channels: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, stride in ((in_channels, 2), (channels, 1)):
        layers += [nn.Conv2d(inputs, channels, 3, stride, 1, bias=False), nn.GroupNorm(groups, channels), nn.ReLU()]
    return nn.Sequential(*layers)
