"""Backbones that return the feature maps of a list of layers (hyperpixels: Min et al., arXiv 1908.06537).

Each has `num_channels`, the channels of each map, and `forward(images [b, 3, h, w])`, which returns the maps in the
order of their depth, each at its own resolution. For models of timm see `detkit.correspondence.features.timm_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.backbones.resnet import BASIC_DEPTHS, DEPTHS, ResNet
from detkit.backbones.swin import VARIANTS, Stage, Swin
from detkit.backbones.windows import window_regions
from detkit.registry import register
from detkit.registry.ranges import Index, OneOf, OptionsOf, Text

SPAIR_LAYERS = (0, 8, 20, 21, 26, 28, 29, 30)
STAGES = ("layer1", "layer2", "layer3", "layer4")


class Layers(nn.Module):
    """Base class of these backbones: which of their parts are trained.

    A subclass sets `num_channels` and calls `freeze` at the end of its constructor.

    Args:
        body: the network.
        trainable: train its weights. Otherwise the body also stays in eval mode, so that nothing in it changes.
        frozen_norm: with `trainable`, keep the weights and statistics of batch norms fixed. Set it to False to train
            from scratch: without pretrained statistics a frozen batch norm normalises nothing.
    """

    num_channels: list[int]

    def __init__(self, body: nn.Module, *, trainable: bool = False, frozen_norm: bool = True):
        super().__init__()
        self.body, self.trainable, self.frozen_norm = body, trainable, frozen_norm

    def freeze(self) -> None:
        """Set which parameters are trained, and put frozen parts in eval mode."""
        self.body.requires_grad_(self.trainable)
        for norm in self._frozen_norms():
            norm.requires_grad_(False)
        self.train(self.training)

    def _frozen_norms(self) -> list[nn.Module]:
        if not self.frozen_norm:
            return []
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; frozen parts stay in eval mode."""
        super().train(mode)
        if not self.trainable:
            self.body.eval()
        for norm in self._frozen_norms():
            norm.eval()
        return self


def check_layers(layers: Sequence[int], count: int) -> list[int]:
    """Sort a layer list.

    Raises:
        ValueError: it is empty, repeats a layer or has one outside of 0 .. `count` - 1.
    """
    chosen = sorted(layers)
    if not chosen or len(set(chosen)) < len(chosen) or not 0 <= chosen[0] <= chosen[-1] < count:
        raise ValueError(f"layers must be different numbers in 0..{count - 1}, got {list(layers)}")
    return chosen


def keep_blocks(stages: Sequence[Any], count: int) -> None:
    """Delete all but the first `count` blocks, counted through the stages; each stage is a list of blocks."""
    for stage in stages:
        kept = min(count, len(stage))
        del stage[kept:]
        count -= kept


@register
class ResNetLayers(Layers):
    """Maps of chosen blocks of a ResNet.

    Layer 0 is the pooled stem, layer k the k-th block counted through all stages, before its last ReLU. Blocks after
    the last chosen one are not kept.

    Args:
        depth: 18 (layers 0 to 8), 34 or 50 (0 to 16) or 101 (0 to 33).
        layers: which layers; by default those of CATs for SPair-71k with ResNet-101.
        trainable, frozen_norm: see `Layers`.
        pretrained: ImageNet weights, as in `ResNet`.

    Raises:
        ValueError: no layers, a layer that does not exist or is named twice, or what `ResNet` raises.
    """

    def __init__(
        self,
        depth: Annotated[int, OneOf((*BASIC_DEPTHS, *DEPTHS))] = 101,
        layers: Annotated[Sequence[Index], MinLen(1)] = SPAIR_LAYERS,
        *,
        trainable: bool = False,
        frozen_norm: bool = True,
        pretrained: Text | None = None,
    ):
        body = ResNet(depth, frozen_norm=frozen_norm, pretrained=pretrained)
        super().__init__(body, trainable=trainable, frozen_norm=frozen_norm)
        stages = [getattr(body, name) for name in STAGES]
        channels = [64] + [c for stage, c in zip(stages, body.num_channels[1:], strict=True) for _ in stage]
        self.layers = check_layers(layers, len(channels))
        self.num_channels = [channels[i] for i in self.layers]
        keep_blocks(stages, self.layers[-1])
        self.freeze()

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        """Maps `[b, c, h', w']` of the chosen layers, in the order of their depth, from normalised images.

        The stem and the blocks of stage 1 have stride 4, those of the stages 2 to 4 have 8, 16 and 32.
        """
        body = self.body
        x = F.relu(body.bn1(body.conv1(images_b3hw)), inplace=True)
        total = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = [total] if self.layers[0] == 0 else []
        blocks = [block for name in STAGES for block in getattr(body, name)]
        for number, block in enumerate(blocks, 1):
            total = block.residual_sum(F.relu(total, inplace=number - 1 not in self.layers))
            if number in self.layers:
                maps.append(total)
        return maps


@register
class SwinLayers(Layers):
    """Maps of chosen blocks of this project's Swin, without its [DET] tokens.

    Layer 0 is the patch embedding, layer k the k-th block counted through all stages. Blocks after the last chosen one
    are not kept. Images of any size are padded to whole windows.

    Args:
        variant: as in `Swin`: "nano" or "tiny" (layers 0 to 12), "small", "base" or "large" (0 to 24).
        layers: which.
        trainable: see `Layers`.
        pretrained: ImageNet weights, as in `Swin`.
        options: other arguments of `Swin` that do not concern its [DET] tokens, such as `embed_dim` and `window`.

    Raises:
        ValueError: no layers, a layer that does not exist or is named twice, or what `Swin` raises.
    """

    def __init__(
        self,
        variant: Annotated[str, OneOf(VARIANTS)] | None = None,
        layers: Annotated[Sequence[Index], MinLen(1)] = (4, 10, 12),
        *,
        trainable: bool = False,
        pretrained: Text | None = None,
        **options: Annotated[Any, OptionsOf(Swin, without=("num_tokens", "cross_stages", "reduced_map"))],
    ):
        fixed: dict[str, Any] = dict(num_tokens=0, cross_stages=(), reduced_map=False)
        if given := sorted(fixed.keys() & options.keys()):
            raise ValueError(f"{', '.join(given)} concern the [DET] tokens, of which there are none here")
        body = Swin(variant, pretrained=pretrained, **fixed, **options)
        super().__init__(body, trainable=trainable)
        dims = [block.norm1.normalized_shape[0] for stage in body.layers for block in stage.blocks]
        self.layers = check_layers(layers, 1 + len(dims))
        self.num_channels = [[dims[0], *dims][i] for i in self.layers]
        self._keep_patches(self.layers[-1])
        self.freeze()

    def _keep_patches(self, last: int) -> None:
        """Delete the blocks after the last layer, and the parameters of the [DET] tokens."""
        stages = self.body.layers
        keep_blocks([stage.blocks for stage in stages], last)
        del stages[sum(len(stage.blocks) > 0 for stage in stages) :]
        if stages:
            stages[-1].downsample = None
        del self.body.det_token, self.body.det_pos_embed
        for stage in stages:
            for block in stage.blocks:
                del block.det_pos_linear

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        """Maps `[b, c, h', w']` of the chosen layers, in the order of their depth, from normalised images.

        The patch embedding and the blocks of stage 1 have stride 4, each further stage has twice the stride.
        """
        x = self.body.patch_embed(images_b3hw)
        found = [x]
        for stage in self.body.layers:
            found += swin_stage(stage, x)
            if stage.downsample is not None:
                x = stage.downsample(found[-1])
        return [found[i].permute(0, 3, 1, 2) for i in self.layers]


def swin_stage(stage: Stage, x_bhwc: Tensor) -> list[Tensor]:
    """The patches after each block of a Swin stage, all `[b, h, w, c]` as those that go in."""
    size = stage.window
    h, w = (side + -side % size for side in x_bhwc.shape[1:3])
    regions = window_regions(h, w, size, size // 2, x_bhwc.device)
    found = []
    for block in stage.blocks:
        x_bhwc, _ = block(x_bhwc, None, None, regions, None)
        found.append(x_bhwc)
    return found
