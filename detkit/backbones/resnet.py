"""ResNet (arXiv 1512.03385) with torchvision's names, and the variants that detectors use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from detkit.backbones.pretrained import load_pretrained
from detkit.ops.linear import conv2d
from detkit.registry import register
from detkit.registry.ranges import Channels, OneOf, Text

# Blocks of the four stages: with bottlenecks, and with basic blocks.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BASIC_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
DETECTRON_NAMES = (
    (r"stem\.conv1\.norm\.", "bn1."),
    (r"stem\.conv1\.", "conv1."),
    (r"res(\d)\.(\d+)\.shortcut\.norm\.", r"layer\1.\2.downsample.1."),
    (r"res(\d)\.(\d+)\.shortcut\.", r"layer\1.\2.downsample.0."),
    (r"res(\d)\.(\d+)\.conv(\d)\.norm\.", r"layer\1.\2.bn\3."),
    (r"res(\d)\.", r"layer\1."),
)


class FrozenBatchNorm2d(nn.Module):
    """A batch norm whose statistics and weights never change; they are buffers, not parameters."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        for name, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), start))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Normalise, scale and shift each channel with the stored values; `[b, c, h, w]` in and out."""
        return F.batch_norm(x_bchw, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x_bchw: Tensor) -> Tensor:
    """`norm(conv(x))`. A batch norm with fixed statistics is folded into the weights where that is cheaper."""
    is_fixed = isinstance(norm, FrozenBatchNorm2d) or not norm.training
    if not is_fixed or conv.weight.numel() > x_bchw.numel():
        return norm(conv2d(x_bchw, conv.weight, conv.bias, conv))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    return conv2d(x_bchw, conv.weight * scale[:, None, None, None], shift, conv)


class ConvNorm(nn.Sequential):
    """A convolution and a batch norm, by `conv_norm`."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        """The convolution of `[b, c, h, w]`, normalised."""
        return conv_norm(self[0], self[1], x_bchw)


def projection(in_channels: int, out_channels: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Module | None:
    """The shortcut of a block whose output has another shape than its input; None where it has not."""
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvNorm(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), norm(out_channels))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample = projection(in_channels, channels, stride, norm)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, in_channels, h, w]` to `[b, channels, ceil(h / stride), ceil(w / stride)]`, after the last ReLU."""
        return F.relu(self.residual_sum(x_bchw), inplace=True)

    def residual_sum(self, x_bchw: Tensor) -> Tensor:
        """The output before the last ReLU; shapes as in `forward`."""
        shortcut = x_bchw if self.downsample is None else self.downsample(x_bchw)
        x = F.relu(conv_norm(self.conv1, self.bn1, x_bchw), inplace=True)
        return conv_norm(self.conv2, self.bn2, x).add_(shortcut)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution beside a shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        *,
        stride_in_1x1: bool = False,
    ):
        super().__init__()
        out_channels = self.expansion * channels
        strides = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=strides[0], bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=strides[1], padding=1, bias=False)
        self.bn2 = norm(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.downsample = projection(in_channels, out_channels, stride, norm)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, in_channels, h, w]` to `[b, 4 * channels, ceil(h / stride), ceil(w / stride)]`, after the last ReLU."""
        return F.relu(self.residual_sum(x_bchw), inplace=True)

    def residual_sum(self, x_bchw: Tensor) -> Tensor:
        """The output before the last ReLU; shapes as in `forward`."""
        shortcut = x_bchw if self.downsample is None else self.downsample(x_bchw)
        x = F.relu(conv_norm(self.conv1, self.bn1, x_bchw), inplace=True)
        x = F.relu(conv_norm(self.conv2, self.bn2, x), inplace=True)
        return conv_norm(self.conv3, self.bn3, x).add_(shortcut)


@register
class ResNet(nn.Module):
    """Images to maps of stride 2, 4, 8, 16 and 32.

    Args:
        depth: 18 or 34 (basic blocks), 50 or 101 (bottlenecks).
        in_channels: of the images; with other than 3 the first convolution is not taken from `pretrained`.
        frozen_norm: batch norms that never change, as detectors with small batches have them. Set it to False to
            train from scratch: without pretrained statistics a frozen batch norm normalises nothing.
        frozen_stages: parts at the start that are not trained: 0 none, 1 the stem, 2 also the first stage, ...
        stride_in_1x1: halve the resolution in the first convolution of a block, as the original and Detectron's
            weights want it, instead of in the second, as torchvision's do; for bottlenecks only.
        pretrained: ImageNet weights: a file or URL with torchvision's or Detectron's names, or "timm:MODEL_NAME".
            Detectron's expect channels B, G, R, which are turned round here, and pixels whose standard deviation is
            not divided out: `input_rule=dict(std=(1 / 255, 1 / 255, 1 / 255))`.

    `forward(images [b, in_channels, h, w], mask)` ignores the padding mask.

    Raises:
        ValueError: an unknown depth, `stride_in_1x1` for a depth without bottlenecks, or weights that do not fit.
    """

    strides = (2, 4, 8, 16, 32)

    def __init__(
        self,
        depth: Annotated[int, OneOf((*BASIC_DEPTHS, *DEPTHS))] = 50,
        *,
        in_channels: Channels = 3,
        frozen_norm: bool = True,
        frozen_stages: Annotated[int, Ge(0), Le(5)] = 0,
        stride_in_1x1: bool = False,
        pretrained: Text | None = None,
    ):
        super().__init__()
        stages = {**BASIC_DEPTHS, **DEPTHS}
        if depth not in stages:
            raise ValueError(f"there is no ResNet of depth {depth} here, only {sorted(stages)}")
        if stride_in_1x1 and depth in BASIC_DEPTHS:
            raise ValueError(f"stride_in_1x1 is for blocks with 1 x 1 convolutions; ResNet of depth {depth} has none")
        norm: Any = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
        block: Any = BasicBlock if depth in BASIC_DEPTHS else partial(Bottleneck, stride_in_1x1=stride_in_1x1)
        expansion = BasicBlock.expansion if depth in BASIC_DEPTHS else Bottleneck.expansion
        self.num_channels = (64, *(64 * 2**i * expansion for i in range(4)))
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        width = 64
        for i, blocks in enumerate(stages[depth]):
            stage = nn.Sequential()
            for j in range(blocks):
                stage.append(block(width, 64 * 2**i, 2 if i > 0 and j == 0 else 1, norm))
                width = self.num_channels[i + 1]
            setattr(self, f"layer{i + 1}", stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if pretrained:
            load_pretrained(self, pretrained, self._own_weights, self._is_new)
        self._freeze(frozen_stages)

    def _freeze(self, stages: int) -> None:
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")[: stages + 1 if stages else 0]:
            getattr(self, name).requires_grad_(False)

    def _own_weights(self, state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        weights, left_out = convert_resnet(state_dict)
        if self.conv1.in_channels != 3:
            weights.pop("conv1.weight")
            left_out.append("conv1.weight")
        counters = [key for key in weights if key.endswith("num_batches_tracked") and key not in self.state_dict()]
        return {key: value for key, value in weights.items() if key not in counters}, left_out + counters

    def _is_new(self, name: str) -> bool:
        return name.endswith("num_batches_tracked") or (name == "conv1.weight" and self.conv1.in_channels != 3)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Five maps `[b, c, ceil(h / s), ceil(w / s)]` of stride s = 2, 4, 8, 16 and 32, with `num_channels` channels.

        The first is the stem before its max-pooling. The padding mask is ignored.
        """
        x = F.relu(conv_norm(self.conv1, self.bn1, images), inplace=True)
        maps = [x]
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def convert_resnet(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """ImageNet weights of torchvision or Detectron in our names, and the keys of the classifier, which are left out."""
    weights, left_out = {}, []
    from_detectron = "stem.conv1.weight" in state_dict
    for key, value in state_dict.items():
        if key.startswith(("fc.", "linear.")):
            left_out.append(key)
            continue
        name = detectron_name(key) if from_detectron else key
        weights[name] = value.flip(1) if from_detectron and name == "conv1.weight" else value
    return weights, left_out


def resnet_depth(blocks: int) -> int:
    """Which ResNet of bottlenecks, 50 or 101, has `blocks` blocks in its third stage.

    Raises:
        ValueError: neither has.
    """
    for depth, stages in DEPTHS.items():
        if stages[2] == blocks:
            return depth
    raise ValueError(f"there is no ResNet-50 or ResNet-101 with {blocks} blocks in its third stage")


def detectron_name(key: str) -> str:
    """Our name of a parameter of Detectron's ResNet; stage 1 is `res2` there."""
    for pattern, name in DETECTRON_NAMES:
        key, found = re.subn(f"^{pattern}", name, key)
        if found:
            break
    return re.sub(r"^layer(\d)", lambda stage: f"layer{int(stage[1]) - 1}", key)
