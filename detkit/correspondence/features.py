"""Backbones that give the maps of a list of layers (hyperpixels: Min et al., arXiv 1908.06537).

Each has `num_channels`, one number for each map, and `forward(images [b, 3, h, w])`, which gives the maps in the order
of their depth, each at its own resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.backbones.pretrained import load_pretrained, names_in_body
from detkit.backbones.resnet import ResNet
from detkit.backbones.timm_features import create_features
from detkit.registry import register

SPAIR_LAYERS = (0, 8, 20, 21, 26, 28, 29, 30)
PASCAL_LAYERS = (2, 17, 21, 22, 25, 26, 28)
STAGES = ("layer1", "layer2", "layer3", "layer4")


@register
class ResNetLayers(nn.Module):
    """Maps of chosen blocks of a ResNet.

    Layer 0 is the pooled stem, layer k the k-th block counted through all stages, before its last ReLU. Blocks after
    the last chosen one are not kept. Batch norms never change, whether or not the convolutions are trained.

    Args:
        depth: 50 (layers 0 to 16) or 101 (0 to 33).
        layers: which; the default is that of CATs for SPair-71k with ResNet-101.
        trainable: train the convolutions too.
        pretrained: ImageNet weights, as in `ResNet`.

    Raises:
        ValueError: no layers, one that there is not or that is named twice, or what `ResNet` raises.
    """

    def __init__(
        self,
        depth: int = 101,
        layers: Sequence[int] = SPAIR_LAYERS,
        *,
        trainable: bool = False,
        pretrained: str | None = None,
    ):
        super().__init__()
        self.body = ResNet(depth, pretrained=pretrained)
        self.layers = sorted(layers)
        stages = [getattr(self.body, name) for name in STAGES]
        channels = [64] + [c for stage, c in zip(stages, self.body.num_channels[1:], strict=True) for _ in stage]
        if not layers or len(set(layers)) < len(layers) or not 0 <= self.layers[0] <= self.layers[-1] < len(channels):
            raise ValueError(f"layers must be different numbers in 0..{len(channels) - 1}, got {list(layers)}")
        self.num_channels = [channels[i] for i in self.layers]
        left = self.layers[-1]
        for stage in stages:
            kept = min(left, len(stage))
            del stage[kept:]
            left -= kept
        self.body.requires_grad_(trainable)

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        body = self.body
        x = F.relu(body.bn1(body.conv1(images_b3hw)), inplace=True)
        total = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = [total] if self.layers[0] == 0 else []
        blocks = [block for name in STAGES for block in getattr(body, name)]
        for number, block in enumerate(blocks, 1):
            total = residual_sum(block, total.relu())
            if number in self.layers:
                maps.append(total)
        return maps


def residual_sum(block: nn.Module, x_bchw: Tensor) -> Tensor:
    """What a bottleneck block gives before its last ReLU."""
    shortcut = x_bchw if block.downsample is None else block.downsample(x_bchw)
    x = F.relu(block.bn1(block.conv1(x_bchw)), inplace=True)
    x = F.relu(block.bn2(block.conv2(x)), inplace=True)
    return block.bn3(block.conv3(x)) + shortcut


@register
class TimmLayers(nn.Module):
    """Maps of chosen layers of a timm model, convolutional or transformer.

    Batch norms never change, whether or not the other weights are trained.

    Args:
        model: the name in timm.
        layers: the model's maps as timm numbers them: the stages of a convolutional or hierarchical model, the blocks
            of a plain transformer (which needs `model_args=dict(dynamic_img_size=True)` for other image sizes than its
            own).
        trainable: train the model too.
        model_args: other arguments of the timm model.
        pretrained: True for the weights that timm publishes under the name; or a file, URL or "timm:MODEL_NAME" with a
            state dict in timm's names.

    Raises:
        ValueError: timm is not installed or has no such model or layers, or weights that do not fit.
    """

    def __init__(
        self,
        model: str,
        layers: Sequence[int],
        *,
        trainable: bool = False,
        model_args: Mapping[str, Any] | None = None,
        pretrained: bool | str = False,
    ):
        super().__init__()
        arguments = dict(model_args or {}, out_indices=tuple(sorted(layers)))
        try:
            self.body = create_features(model, pretrained=pretrained is True, **arguments)
        except (AssertionError, IndexError) as error:
            raise ValueError(f"timm model {model!r} does not have the layers {list(layers)}: {error}") from error
        if isinstance(pretrained, str):
            load_pretrained(
                self.body, pretrained, lambda weights: names_in_body(weights, self.body.state_dict()), is_counter
            )
        self.num_channels = self.body.feature_info.channels()
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        self.body.requires_grad_(trainable)
        for norm in self._batch_norms():
            norm.requires_grad_(False)

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> TimmLayers:
        """As `nn.Module.train`; batch norms stay in eval mode."""
        super().train(mode)
        for norm in self._batch_norms():
            norm.eval()
        return self

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        maps = self.body(images_b3hw)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else maps


def is_counter(name: str) -> bool:
    """Whether a name is that of a batch norm's counter, which old weight files lack and nothing here reads."""
    return name.endswith("num_batches_tracked")
