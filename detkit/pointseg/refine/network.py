"""MaskRefineNet (PointWSSIS, arXiv 2303.15062, section 3.3): refines a rough mask, given its class and its point.

Shape letters: b crops, c channels, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detkit.backbones.pretrained import create_timm_model, import_timm
from detkit.backbones.resnet import ResNet, conv_norm
from detkit.pointseg.heads import resize

OWN_ENCODERS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
STRIDES = [2, 4, 8, 16, 32]
# Dilations of the 3 x 3 branches of the pyramid pooling.
DILATIONS = (3, 6, 9)


def input_channels(num_classes: int) -> int:
    """Number of input channels: image, one centre plane for each class and one for no class, rough mask (COCO: 85)."""
    return 3 + (num_classes + 1) + 1


class ConvNormReLU(nn.Sequential):
    """A convolution, a batch norm and a ReLU; convolution and norm are fused at inference by `conv_norm`."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, in_channels, h, w]` to `[b, out_channels, h', w']`."""
        return self[2](conv_norm(self[0], self[1], x_bchw))


def conv_bn_relu(in_channels: int, out_channels: int, size: int, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, a batch norm and a ReLU; with stride 1 the resolution stays.

    Args:
        in_channels, out_channels: of the convolution.
        size: side of its kernel, odd.
        dilation, stride: of the convolution.
    """
    padding = dilation * (size // 2)
    conv = nn.Conv2d(in_channels, out_channels, size, stride, padding, dilation, bias=False)
    return ConvNormReLU(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class PyramidPooling(nn.Module):
    """Atrous spatial pyramid pooling (DeepLab v3, arXiv 1706.05587)."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.pooled = conv_bn_relu(in_channels, channels, 1)
        self.point = conv_bn_relu(in_channels, channels, 1)
        self.dilated = nn.ModuleList(conv_bn_relu(in_channels, channels, 3, dilation) for dilation in DILATIONS)
        self.project = conv_bn_relu((2 + len(DILATIONS)) * channels, channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, in_channels, h, w]` to `[b, channels, h, w]`."""
        pooled = self.pooled(x_bchw.mean((2, 3), keepdim=True)).expand(-1, -1, *x_bchw.shape[2:])
        branches = [pooled, self.point(x_bchw), *(branch(x_bchw) for branch in self.dilated)]
        return self.project(torch.cat(branches, dim=1))


class DecoderStage(nn.Module):
    """Upsamples a map to the size of a finer one, concatenates the two and applies convolutions."""

    def __init__(self, in_channels: int, skip_channels: int, channels: int, out_channels: int):
        super().__init__()
        self.reduce = conv_bn_relu(in_channels + skip_channels, channels, 1)
        self.mix = conv_bn_relu(channels, out_channels, 3)

    def forward(self, x_bchw: Tensor, skip: Tensor) -> Tensor:
        """`[b, in_channels, h', w']` and the finer `skip` `[b, skip_channels, h, w]` to `[b, out_channels, h, w]`."""
        return self.mix(self.reduce(torch.cat([resize(x_bchw, skip.shape[2:]), skip], dim=1)))


class PlainEncoder(nn.Module):
    """A small encoder for small data and short runs: two 3 x 3 convolutions for each map of stride 2 to 32."""

    num_channels = (16, 32, 64, 128, 128)

    def __init__(self, in_channels: int):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(conv_bn_relu(before, after, 3, stride=2), conv_bn_relu(after, after, 3))
            for before, after in zip((in_channels, *self.num_channels[:-1]), self.num_channels, strict=True)
        )

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """Five maps `[b, c, ceil(h / s), ceil(w / s)]` of stride s = 2 to 32, with `num_channels` channels."""
        maps = []
        for stage in self.stages:
            x_bchw = stage(x_bchw)
            maps.append(x_bchw)
        return maps


class TimmEncoder(nn.Module):
    """A convolutional timm model as five maps of stride 2 to 32.

    timm adapts pretrained weights, published or from a file with timm's names, to the number of input channels.
    """

    def __init__(self, model: str, *, in_channels: int, pretrained: bool | str = False):
        super().__init__()
        if isinstance(pretrained, str) and not Path(pretrained).is_file():
            raise ValueError(f"weights of {model}: {pretrained} does not exist")
        from_file = {"pretrained_cfg_overlay": {"file": pretrained}} if isinstance(pretrained, str) else {}
        arguments = dict(in_chans=in_channels, pretrained=bool(pretrained), **from_file)
        self.model = create_timm_model(model, features_only=True, **arguments)
        strides = self.model.feature_info.reduction()
        if strides != STRIDES:
            raise ValueError(f"timm model {model!r} gives maps of stride {strides}, needed are {STRIDES}")
        self.num_channels = tuple(self.model.feature_info.channels())

    def forward(self, x_bchw: Tensor) -> Sequence[Tensor]:
        """Five maps `[b, c, h / s, w / s]` of stride s = 2, 4, 8, 16 and 32, with `num_channels` channels."""
        return self.model(x_bchw)


def build_encoder(name: str, in_channels: int, pretrained: str | bool | None) -> nn.Module:
    """Build the encoder with this name, see `MaskRefineNet`."""
    if name in OWN_ENCODERS:
        if isinstance(pretrained, bool):
            pretrained = f"timm:{name}" if pretrained else None
        return ResNet(OWN_ENCODERS[name], in_channels=in_channels, frozen_norm=False, pretrained=pretrained)
    if name == "plain":
        if pretrained:
            raise ValueError("there are no pretrained weights for the plain encoder")
        return PlainEncoder(in_channels)
    try:
        return TimmEncoder(name, in_channels=in_channels, pretrained=pretrained or False)
    except ValueError as error:
        raise ValueError(f"encoder {name!r}: {error}") from error


class MaskRefineNet(nn.Module):
    """A U-shaped network from `detkit.pointseg.refine.crops.network_input` to logits of background and foreground.

    Args:
        num_classes: classes of the data.
        encoder: "resnet101" as in the paper, "resnet50", "resnet34", "resnet18", "plain" (see `PlainEncoder`), or the
            name of a convolutional timm model.
        width: channels of the pyramid pooling, a multiple of 8; those of the decoder follow.
        pretrained: ImageNet weights of the encoder: True for those that timm publishes, or a file, for a ResNet also a
            URL. The first convolution, which sees more than an image, starts at random in a ResNet.

    `forward(x [b, 3 + (num_classes + 1) + 1, h, w])` gives logits `[b, 2, h, w]`. In training mode it needs at least
    two crops, because of the batch norm after the global pooling.

    Raises:
        ValueError: an encoder without maps of stride 2 to 32, or weights that do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        encoder: str = "resnet101",
        width: int = 512,
        pretrained: str | bool | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.encoder = build_encoder(encoder, input_channels(num_classes), pretrained)
        skips = self.encoder.num_channels
        self.pooling = PyramidPooling(skips[4], width)
        widths = [width, width // 2, width // 4, width // 8, width // 8]
        self.decoder = nn.ModuleList(
            DecoderStage(before, skip, before, after)
            for before, after, skip in zip(widths[:-1], widths[1:], skips[3::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[-1], 2, 1)
        nn.init.normal_(self.head.weight, std=0.001)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Logits `[b, 2, h, w]` of background and foreground, from `[b, input_channels(num_classes), h, w]`."""
        return resize(self.head(self.features(x_bchw)[-1]), x_bchw.shape[2:])

    def synchronize_norms(self) -> None:
        """Let batch norms use the statistics of all processes in training, as the paper does; for GPUs only."""
        for name, part in self.named_children():
            convert = nn.SyncBatchNorm.convert_sync_batchnorm
            if isinstance(part, TimmEncoder):  # its norms may include the activation
                convert = import_timm().layers.convert_sync_batchnorm
            setattr(self, name, convert(part))

    def features(self, x_bchw: Tensor) -> list[Any]:
        """The maps `[b, c, h', w']` after each part: five of the encoder, the pooling, four of the decoder."""
        maps = list(self.encoder(x_bchw))
        x = self.pooling(maps[-1])
        outputs = [*maps, x]
        for stage, skip in zip(self.decoder, maps[3::-1], strict=True):
            x = stage(x, skip)
            outputs.append(x)
        return outputs
