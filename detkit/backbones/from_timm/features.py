"""Any backbone of timm that gives maps of several strides, without reconfigured attention.

The det tokens are learned queries that no image has touched before the decoder: the baseline that shows what
[DET] tokens travelling through the backbone are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MinLen
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.backbones.layers import DetFeatures, det_parameters
from detkit.backbones.pretrained import (
    ModelArgs,
    checked_model_args,
    create_timm_model,
    is_counter,
    load_pretrained,
    names_in_body,
)
from detkit.registry import register
from detkit.registry.ranges import Channels, Index, Objects, Text

STRIDES = (8, 16, 32)


@register
class TimmFeatures(nn.Module):
    """The maps of a timm model (convolutional or hierarchical transformer) and learned det tokens.

    Args:
        model: the name in timm.
        num_tokens: number of det tokens, the most objects that the detector finds in an image.
        pos_dim: channels of the det tokens, the det positions and the additional map.
        out_indices: which of the model's maps to use, as timm numbers them; by default those of stride 8, 16, 32.
        frozen_norm: keep statistics and weights of batch norms as they are. Batches of a detector are too small to
            estimate statistics, so pretrained ones serve better. Set it to False to train from scratch: without
            pretrained statistics a frozen batch norm normalises nothing.
        frozen_stride: do not train the layers up to the model's map of this stride, 2 or 4 in most models: they cost
            most, and pretrained ones change least. 0 trains all.
        model_args: other arguments of the timm model, none that names a file of weights.
        pretrained: True for the weights that timm publishes under the name; or a file, URL or "timm:MODEL_NAME" with
            a state dict in timm's names. False trains from scratch.

    `forward(images [b, 3, h, w], mask [b, h, w])` gives the chosen maps and one more of half their last resolution:
    stride 8, 16, 32 and 64. Transformers with windows take images of any size; models that are made for one size
    only (MaxViT, CoAtNet) take only multiples of their grid. For plain transformers see `ViT`. Some published weights
    expect another mean and standard deviation of the pixels than ImageNet's: see the model's page in timm, and the
    detector's input rule.

    Raises:
        ValueError: timm is not installed or has no such model, a model without maps of these strides, no map of
            `frozen_stride`, or weights that do not fit.
    """

    def __init__(
        self,
        model: Text = "resnet18",
        *,
        num_tokens: Objects = 100,
        pos_dim: Channels = 256,
        out_indices: Annotated[Sequence[Index], MinLen(1)] | None = None,
        frozen_norm: bool = True,
        frozen_stride: Annotated[int, Ge(0), Le(64)] = 0,
        model_args: ModelArgs | None = None,
        pretrained: bool | Text = False,
    ):
        super().__init__()
        arguments = checked_model_args(model_args)
        out_indices = indices_of_strides(model, arguments) if out_indices is None else out_indices
        if list(out_indices) != sorted(set(out_indices)):
            raise ValueError(f"out_indices must ascend, got {list(out_indices)}")
        arguments |= dict(out_indices=tuple(out_indices), pretrained=pretrained is True)
        try:
            self.body = create_features(model, **arguments)
        except IndexError as error:
            raise ValueError(f"timm model {model!r} has no maps of out_indices {list(out_indices)}") from error
        if isinstance(pretrained, str):
            load_pretrained(
                self.body,
                pretrained,
                lambda weights: names_in_body(weights, self.body.state_dict()),
                is_counter,
            )
        channels = self.body.feature_info.channels()
        self.strides = self.body.feature_info.reduction()
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        self.num_tokens, self.pos_dim, self.frozen_norm = num_tokens, pos_dim, frozen_norm
        self.num_channels, self.det_channels = [*channels, pos_dim], pos_dim
        self.reduce = nn.Conv2d(channels[-1], pos_dim, 3, stride=2, padding=1)
        self.det_token, self.det_pos_embed = det_parameters(num_tokens, pos_dim, pos_dim)
        if frozen_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)
            self.train()
        for parameter in layers_up_to(self.body, frozen_stride) if frozen_stride else ():
            parameter.requires_grad_(False)

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> TimmFeatures:
        """As `nn.Module.train`; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self.frozen_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def new_parameters(self) -> set[str]:
        """Names of the parameters that the weights of timm lack."""
        return {name for name, _ in self.named_parameters() if not name.startswith("body.")}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {"det_token", "det_pos_embed"}

    def forward(self, images_b3hw: Tensor, mask_bhw: Tensor) -> DetFeatures:
        """The maps of the timm model, fine to coarse, one more of half the last resolution, and the learned det tokens.

        Args:
            images_b3hw: normalised images; they are padded with zeros to whole cells of the coarsest map.
            mask_bhw: not used.

        Returns:
            Maps `[b, c, ceil(h / s), ceil(w / s)]` of stride s = 8, 16, 32 and 64 (by default), with `num_channels`
            channels; det tokens `[b, n, pos_dim]`, the same for each image; det positions `[1, n, pos_dim]`.
        """
        h, w = images_b3hw.shape[-2:]
        unit = self.strides[-1]
        images = F.pad(images_b3hw, (0, -w % unit, 0, -h % unit))
        # Convolutions, above all depthwise ones, are faster with the channels of a pixel side by side.
        features = self.body(images.contiguous(memory_format=torch.channels_last))
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        features = [f[:, :, : -(-h // s), : -(-w // s)] for f, s in zip(features, self.strides, strict=True)]
        features.append(self.reduce(features[-1]))
        return DetFeatures(features, self.det_token.expand(images_b3hw.shape[0], -1, -1), self.det_pos_embed)


def create_features(model: str, **arguments: Any) -> nn.Module:
    """A timm model that returns feature maps; for images of any size, if the model has such an option."""
    try:
        return create_timm_model(model, features_only=True, strict_img_size=False, **arguments)
    except TypeError:
        return create_timm_model(model, features_only=True, **arguments)


def layers_up_to(body: nn.Module, stride: int) -> list[nn.Parameter]:
    """The parameters of a body of `create_features` that its map of this stride depends on.

    Raises:
        ValueError: timm has no map of this stride.
    """
    modules = {part["reduction"]: part["module"] for part in body.feature_info.info}  # the last one of each stride
    if stride not in modules:
        raise ValueError(f"frozen_stride: the model has maps of stride {sorted(modules)}, none of {stride}")
    prefixes = (f"{modules[stride]}.", f"{modules[stride].replace('.', '_')}.")
    parameters = list(body.named_parameters())
    end = max((i for i, (name, _) in enumerate(parameters) if name.startswith(prefixes)), default=-1) + 1
    if not end:
        raise ValueError(f"frozen_stride: cannot tell which layers make the map of stride {stride}")
    return [parameter for _, parameter in parameters[:end]]


def indices_of_strides(model: str, arguments: Mapping[str, Any]) -> list[int]:
    """Numbers of the maps of stride 8, 16 and 32, as timm counts them; of several with one stride the last.

    Raises:
        ValueError: the model has no map of one of these strides.
    """
    info = create_features(model, **arguments).feature_info
    last = {stride["reduction"]: i for i, stride in enumerate(info.info)}
    if missing := [stride for stride in STRIDES if stride not in last]:
        raise ValueError(
            f"timm model {model!r} has no maps of stride {missing}, only of {sorted(last)}: choose another, give "
            "out_indices, or use the backbone ViT for a plain transformer"
        )
    return [last[stride] for stride in STRIDES]
