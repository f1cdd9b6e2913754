"""Backbones from timm that return the feature maps of a list of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import MinLen
from torch import Tensor, nn

from detkit.backbones.from_timm.blocks import create_body, embed
from detkit.backbones.from_timm.features import create_features
from detkit.backbones.pretrained import (
    ModelArgs,
    checked_model_args,
    create_timm_model,
    is_counter,
    load_pretrained,
    names_in_body,
)
from detkit.correspondence.features.maps import Layers, check_layers, keep_blocks
from detkit.registry import register
from detkit.registry.ranges import Index, Text


@register
class TimmLayers(Layers):
    """Maps of a timm model as timm numbers them: the stages of convolutional and hierarchical models.

    For single blocks see `EfficientNetLayers` (MobileNet, EfficientNet) and `ViTLayers` (plain transformers).

    Args:
        model: the name in timm.
        layers: which maps.
        trainable, frozen_norm: see `Layers`.
        model_args: other arguments of the timm model, none that names a file of weights.
        pretrained: True for the weights that timm publishes under the name; or a file, URL or "timm:MODEL_NAME" with a
            state dict in timm's names. Some weights expect another mean and standard deviation of the pixels than
            ImageNet's: see the model's page in timm, and `input_rule` of the matcher.

    Raises:
        ValueError: timm is not installed or has no such model or layers, or weights that do not fit.
    """

    def __init__(
        self,
        model: Text,
        layers: Annotated[Sequence[Index], MinLen(1)],
        *,
        trainable: bool = False,
        frozen_norm: bool = True,
        model_args: ModelArgs | None = None,
        pretrained: bool | Text = False,
    ):
        arguments = checked_model_args(model_args) | dict(out_indices=tuple(sorted(layers)))
        try:
            body = create_features(model, pretrained=pretrained is True, **arguments)
        except (AssertionError, IndexError) as error:
            raise ValueError(f"timm model {model!r} does not have the layers {list(layers)}: {error}") from error
        cut_efficientnet(body)
        if isinstance(pretrained, str):
            load_pretrained(body, pretrained, lambda weights: names_in_body(weights, body.state_dict()), is_counter)
        super().__init__(body, trainable=trainable, frozen_norm=frozen_norm)
        self.num_channels = body.feature_info.channels()
        self.channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self.freeze()

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        """Maps `[b, c, h', w']` of the chosen layers, in the order of their depth, from normalised images."""
        maps = self.body(images_b3hw)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else maps


def cut_efficientnet(body: nn.Module) -> None:
    """Delete the blocks after the last map: timm keeps and computes them for models of this family."""
    if type(body).__name__ in ("EfficientNetFeatures", "MobileNetV3Features"):
        del body.blocks[max(info["stage"] for info in body.feature_info.get_dicts()) :]


@register
class EfficientNetLayers(Layers):
    """Maps of chosen blocks of a MobileNet or EfficientNet of timm.

    Layer 0 is the stem, layer k the k-th block counted through all stages. Blocks after the last chosen one are not
    kept.

    Args:
        model: the name in timm, such as "mobilenetv2_100" or "tf_efficientnet_lite0" (layers 0 to 17 and 0 to 16).
        layers: which.
        trainable, frozen_norm: see `Layers`.
        model_args, pretrained: as in `TimmLayers`.

    Raises:
        ValueError: no layers, a layer that does not exist or is named twice; timm is not installed or has no such model
            of this family; or weights that do not fit.
    """

    def __init__(
        self,
        model: Text,
        layers: Annotated[Sequence[Index], MinLen(1)],
        *,
        trainable: bool = False,
        frozen_norm: bool = True,
        model_args: ModelArgs | None = None,
        pretrained: bool | Text = False,
    ):
        body = create_timm_model(model, pretrained=pretrained is True, **checked_model_args(model_args))
        if type(body).__name__ not in ("EfficientNet", "MobileNetV3"):
            raise ValueError(f"timm model {model!r} is a {type(body).__name__}, not an EfficientNet or MobileNet")
        if isinstance(pretrained, str):
            load_pretrained(body, pretrained, lambda weights: (dict(weights), []), is_counter)
        super().__init__(body, trainable=trainable, frozen_norm=frozen_norm)
        stages = list(body.blocks)
        self.layers = check_layers(layers, 1 + sum(map(len, stages)))
        keep_blocks(stages, self.layers[-1])
        for name, _ in list(body.named_children()):
            if name not in ("conv_stem", "bn1", "blocks"):
                delattr(body, name)
        channels = [body.conv_stem.out_channels, *(out_channels(block) for stage in stages for block in stage)]
        self.num_channels = [channels[i] for i in self.layers]
        self.freeze()

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        """Maps `[b, c, h', w']` of the chosen layers, in the order of their depth, from normalised images."""
        found = [self.body.bn1(self.body.conv_stem(images_b3hw))]
        for stage in self.body.blocks:
            for block in stage:
                found.append(block(found[-1]))
        return [found[i] for i in self.layers]


def out_channels(block: Any) -> int:
    """The output channels of a block: those of its last batch norm."""
    return [module for name, module in block.named_children() if name.startswith("bn")][-1].num_features


@register
class ViTLayers(Layers):
    """Maps of chosen blocks of a plain vision transformer of timm (ViT, DeiT, CLIP, DINOv2, EVA-02, DINOv3).

    Layer 0 is the embedded patches, layer k the k-th block; class and register tokens are left out. Blocks after the
    last chosen one are not kept. Position embeddings are resampled to the image, whose sides must be multiples of the
    patch (14 or 16 pixels).

    Args:
        model: the name in timm.
        layers: which.
        trainable: see `Layers`.
        model_args, pretrained: as in `TimmLayers`.

    Raises:
        ValueError: no layers, a layer that does not exist or is named twice; timm is not installed or has no such model
            of this kind; weights that do not fit; images that are not whole patches.
    """

    def __init__(
        self,
        model: Text,
        layers: Annotated[Sequence[Index], MinLen(1)],
        *,
        trainable: bool = False,
        model_args: ModelArgs | None = None,
        pretrained: bool | Text = False,
    ):
        body = create_body(model, pretrained, **checked_model_args(model_args))
        super().__init__(body, trainable=trainable)
        self.layers = check_layers(layers, 1 + len(body.blocks))
        self.num_channels = [body.embed_dim] * len(self.layers)
        self.patch = body.patch_embed.feat_ratio()
        keep_blocks([body.blocks], self.layers[-1])
        body.norm = nn.Identity()
        self.freeze()

    def forward(self, images_b3hw: Tensor) -> list[Tensor]:
        """Maps `[b, c, h / patch, w / patch]` of the chosen layers, in the order of their depth.

        Raises:
            ValueError: a side of the (normalised) images is no multiple of the patch.
        """
        h, w = images_b3hw.shape[-2:]
        if h % self.patch or w % self.patch:
            raise ValueError(f"images of {w} x {h} pixels are not whole patches of {self.patch}: choose another side")
        tokens, ropes = embed(self.body, images_b3hw)
        found = [tokens]
        for block, rope in zip(self.body.blocks, ropes, strict=False):
            found.append(block(found[-1]) if rope is None else block(found[-1], rope=rope))
        grid = h // self.patch, w // self.patch
        prefix = self.body.num_prefix_tokens
        return [found[i][:, prefix:].transpose(1, 2).unflatten(2, grid) for i in self.layers]
