"""The feature pyramid network (arXiv 1612.03144) on top of any backbone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detkit.backbones.layers import DetFeatures
from detkit.registry import register
from detkit.registry.ranges import Channels

STRIDES = (4, 8, 16, 32, 64)
# Of backbones with det tokens; the last may be missing.
DET_STRIDES = (8, 16, 32, 64)


def conv(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    """A convolution with a kernel of `size` x `size` (odd) that keeps the resolution, and its initial weights."""
    layer = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer


def strides_of(body: nn.Module) -> tuple[int, ...]:
    """The stride of each map of a body.

    Raises:
        ValueError: a body with det tokens that has no token, or maps whose strides are no powers of two.
    """
    if not hasattr(body, "det_channels"):
        return tuple(body.strides)
    if getattr(body, "num_tokens", 1) < 1:
        raise ValueError("num_tokens of the body must be at least 1; its det tokens are not used here, so ask for 1")
    if hasattr(body, "strides"):  # of the maps besides the one made from the last of them
        return (*body.strides, 2 * body.strides[-1])
    patch = getattr(body, "patch", 16)
    if patch & (patch - 1):
        raise ValueError(f"a body with patches of {patch} pixels gives maps of stride {patch}: choose one of 8 or 16")
    return DET_STRIDES[: len(body.num_channels)]


@register
class FPN(nn.Module):
    """Maps of stride 4, 8, 16, 32 and 64 with equal channels.

    A 1 x 1 convolution of each map of the body, from coarse to fine each with the coarser ones added (doubled by
    repetition), and a 3 x 3 convolution of each sum. What the body does not have is made: the map of stride 64 by
    taking every second pixel of the one before, the map of stride 4 from the coarser ones alone.

    Args:
        body: a backbone that gives a list of maps and has `strides` and `num_channels`, or one with det tokens
            (`DetFeatures`: Swin, ViT, CoaT, TimmFeatures). Det tokens are not used here: what belongs to them (every
            parameter with "det_" in its name) is frozen; ask for `num_tokens=1`.
        out_channels: of the maps.

    Raises:
        ValueError: maps of other strides, or see `strides_of`.
    """

    def __init__(self, body: nn.Module, *, out_channels: Channels = 256):
        super().__init__()
        strides = strides_of(body)
        if hasattr(body, "det_channels"):
            for name, parameter in body.named_parameters():
                if "det_" in name:
                    parameter.requires_grad_(False)
        channels = {s: c for s, c in zip(strides, body.num_channels, strict=True) if s in STRIDES}
        self.strides = tuple(channels)
        if self.strides not in [STRIDES[first:last] for first in (0, 1) for last in (4, 5)]:
            raise ValueError(f"the body must give maps of stride 4 or 8 up to 32 or 64, it gives {strides}")
        self.body, self.out_channels = body, out_channels
        self.lateral = nn.ModuleList(conv(c, out_channels, 1) for c in channels.values())
        made = [s for s in STRIDES if s in channels or s == 4]
        self.output = nn.ModuleList(conv(out_channels, out_channels, 3) for _ in made)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        listed = self.body.no_weight_decay() if hasattr(self.body, "no_weight_decay") else ()
        return {f"body.{name}" for name in listed}

    def forward(self, images_b3hw: Tensor, mask_bhw: Tensor) -> list[Tensor]:
        """The five maps `[b, out_channels, h / s, w / s]` of stride s = 4, 8, 16, 32 and 64, fine to coarse.

        Args:
            images_b3hw: normalised images whose sides are multiples of 32; the map of stride 64 is rounded up.
            mask_bhw: bool, True on padding.
        """
        found = self.body(images_b3hw, mask_bhw)
        maps = found.features if isinstance(found, DetFeatures) else found[-len(self.lateral) :]
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for fine in range(len(merged) - 2, -1, -1):
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], size=merged[fine].shape[2:])
        if self.strides[0] != 4:
            merged.insert(0, F.interpolate(merged[0], scale_factor=2.0))
        outputs = [output(x) for output, x in zip(self.output, merged, strict=True)]
        if len(outputs) < len(STRIDES):
            outputs.append(outputs[-1][:, :, ::2, ::2])
        return outputs
