"""CoaT-Lite (arXiv 2104.06399) with ViDT's reconfigured attention module (RAM, arXiv 2110.03921, section 3).

[PATCH] tokens and a class token of each stage go through the factorised attention of CoaT; [DET] tokens travel
beside them by the same projections, attend to each other in every block and to the [PATCH] tokens in the stages of
`cross_stages`. Between stages a linear layer and a norm of their own give the [DET] tokens the channels of the next.

Shape letters: b images, h/w patch rows and columns, t tokens (class token, then patches), n det tokens, c channels,
m heads, d channels of a head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, Len
from torch import Tensor, nn

from detkit.backbones.layers import (
    CrossInputs,
    DetAttention,
    DetFeatures,
    Mlp,
    PatchEmbed,
    plain_attention,
    resize_mask,
)
from detkit.backbones.pretrained import load_pretrained
from detkit.registry import register
from detkit.registry.ranges import Channels, Depth, Objects, OneOf, Text

VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": dict(dims=(64, 128, 256, 320), depths=(2, 2, 2, 2), mlp_ratios=(8, 8, 4, 4)),
    "mini": dict(dims=(64, 128, 320, 512), depths=(2, 2, 2, 2), mlp_ratios=(8, 8, 4, 4)),
    "small": dict(dims=(64, 128, 320, 512), depths=(3, 4, 6, 3), mlp_ratios=(8, 8, 4, 4)),
    "medium": dict(dims=(128, 256, 320, 512), depths=(3, 6, 10, 8), mlp_ratios=(4, 4, 4, 4)),
}
HEADS_OF_WINDOW = {3: 2, 5: 3, 7: 3}
HEADS = sum(HEADS_OF_WINDOW.values())


class ConvPositions(nn.Module):
    """The convolutions that give the blocks of a stage their position information; all blocks share them.

    Source: CoaT, section 3.2 (relative positions) and section 4.1 (the depthwise convolution before a block).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.absolute = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.channels = [dim // HEADS * heads for heads in HEADS_OF_WINDOW.values()]
        self.relative = nn.ModuleList(
            nn.Conv2d(c, c, window, padding=window // 2, groups=c)
            for c, window in zip(self.channels, HEADS_OF_WINDOW, strict=True)
        )

    def add(self, x_btc: Tensor, size: tuple[int, int]) -> Tensor:
        """Add the depthwise convolution of the patches to them; the class token is unchanged. `[b, t, c]` in and out.

        `size` is the (h, w) of the patches, t = 1 + h * w.
        """
        image = x_btc[:, 1:].transpose(1, 2).unflatten(2, size)
        return torch.cat([x_btc[:, :1], x_btc[:, 1:] + self.absolute(image).flatten(2).transpose(1, 2)], dim=1)

    def attend(self, q_bmtd: Tensor, v_bmtd: Tensor, size: tuple[int, int]) -> Tensor:
        """The relative position term: each query times a depthwise convolution of the values around it, elementwise.

        Args:
            q_bmtd, v_bmtd: queries and values of all tokens.
            size: (h, w) of the patches, t = 1 + h * w.

        Returns:
            `[b, m, t, d]`; zero for the class token.
        """
        q, v = q_bmtd[:, :, 1:], v_bmtd[:, :, 1:]
        image = v.transpose(2, 3).flatten(1, 2).unflatten(2, size)
        parts = image.split(self.channels, dim=1)
        around = torch.cat([conv(part) for conv, part in zip(self.relative, parts, strict=True)], dim=1)
        around = around.flatten(2).unflatten(1, (v.shape[1], -1)).transpose(2, 3)
        return torch.cat([torch.zeros_like(q_bmtd[:, :, :1]), q * around], dim=2)


class ConvAttention(DetAttention):
    """Factorised attention (CoaT, section 3.2): keys are normalised over positions, so the cost is linear in t."""

    # The decoder multiplies the rounding of the fused kernel until it shows beside the official code.
    attend = staticmethod(plain_attention)

    def patches(self, x_btc: Tensor, positions: ConvPositions, size: tuple[int, int]) -> Tensor:
        """Attention among the class token and the patches of an image, `[b, t, c]` in and out.

        Args:
            x_btc: normalised tokens.
            positions: adds the relative position term.
            size: (h, w) of the patches.
        """
        q, k, v = self.heads(self.qkv(x_btc), 3)
        context_bmdd = k.softmax(dim=2).transpose(2, 3).to(v.dtype) @ v
        out = q.shape[-1] ** -0.5 * (q @ context_bmdd) + positions.attend(q, v, size)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A serial block of CoaT that carries [DET] tokens along."""

    def __init__(self, dim: int, mlp_ratio: int, pos_dim: int, positions_after_norm: bool):
        super().__init__()
        self.positions_after_norm = positions_after_norm
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ConvAttention(dim, HEADS)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.det_pos_linear = nn.Linear(pos_dim, dim)

    def forward(
        self,
        x_btc: Tensor,
        det_bnc: Tensor,
        det_pos: Tensor,
        positions: ConvPositions,
        size: tuple[int, int],
        cross: CrossInputs | None,
    ) -> tuple[Tensor, Tensor]:
        """Attention and feed-forward network for the tokens of both kinds.

        Args:
            x_btc: class token and patches.
            det_bnc: [DET] tokens.
            det_pos: [1, n, pos_dim], det positions.
            positions: of the stage.
            size: (h, w) of the patches.
            cross: given in the stages where [DET] tokens attend to [PATCH] tokens, otherwise None.

        Returns:
            Both kinds of tokens, in the shapes that they came in.
        """
        if not self.positions_after_norm:
            x_btc = positions.add(x_btc, size)
        patches, det = self.norm1(x_btc), self.norm1(det_bnc) + self.det_pos_linear(det_pos)
        keys = None if cross is None else patches[:, 1:] + cross.positions.flatten(1, 2)
        if self.positions_after_norm:
            patches = positions.add(patches, size)
        x = x_btc + self.attn.patches(patches, positions, size)
        det = det_bnc + self.attn.dets(det, keys, None if cross is None else cross.key_bias)
        return x + self.mlp(self.norm2(x)), det + self.mlp(self.norm2(det))


class Stage(nn.Module):
    """The patch embedding and the blocks of one resolution."""

    def __init__(self, in_dim: int, dim: int, depth: int, mlp_ratio: int, pos_dim: int, positions_after_norm: bool):
        super().__init__()
        first = in_dim == 3
        self.patch_embed = PatchEmbed(dim, 4 if first else 2, in_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.positions = ConvPositions(dim)
        self.blocks = nn.ModuleList(Block(dim, mlp_ratio, pos_dim, positions_after_norm) for _ in range(depth))
        if not first:
            self.det_exp = nn.Linear(in_dim, dim, bias=False)
            self.det_norm = nn.LayerNorm(dim)

    def dets(self, det_bnc: Tensor) -> Tensor:
        """Project [DET] tokens `[b, n, c]` from the channels of the stage before to those of this one, with a norm."""
        return self.det_norm(self.det_exp(det_bnc))

    def forward(
        self, x_bhwc: Tensor, det_bnc: Tensor, det_pos: Tensor, cross: CrossInputs | None
    ) -> tuple[Tensor, Tensor]:
        """Run the blocks of the stage.

        Args:
            x_bhwc: embedded patches; the class token is added here and dropped at the end.
            det_bnc: [DET] tokens with the channels of this stage.
            det_pos: [1, n, pos_dim], det positions.
            cross: see `Block.forward`.

        Returns:
            The patches `[b, h, w, c]` and the [DET] tokens `[b, n, c]`.
        """
        b, h, w, _ = x_bhwc.shape
        x = torch.cat([self.cls_token.expand(b, -1, -1), x_bhwc.flatten(1, 2)], dim=1)
        for block in self.blocks:
            x, det_bnc = block(x, det_bnc, det_pos, self.positions, (h, w), cross)
        return x[:, 1:].unflatten(1, (h, w)), det_bnc


@register
class CoaT(nn.Module):
    """CoaT-Lite with reconfigured attention: images to four feature maps, det tokens and det positions.

    Args:
        variant: "tiny", "mini", "small" or "medium"; sets the three arguments after `num_tokens`.
        num_tokens: number of [DET] tokens, the most objects that the detector finds in an image.
        dims: channels of each stage, multiples of 8 (the number of attention heads).
        depths: blocks of each stage.
        mlp_ratios: hidden channels of the feed-forward networks of each stage, in multiples of its channels.
        cross_stages: stages (from 0) in which [DET] tokens attend to [PATCH] tokens.
        pos_dim: channels of the det positions and of the last, reduced feature map.
        positions_after_norm: where a block adds the positions that its depthwise convolution finds. False, as in the
            CoaT paper and its weights: to the residual stream before the first norm. True, as in the official ViDT
            code and its checkpoints: to the normalised input of the attention alone.
        pretrained: ImageNet weights: a file or URL of the CoaT repository, or "timm:MODEL_NAME".

    `forward(images [b, 3, h, w], mask [b, h, w])` gives maps of stride 8, 16, 32 and 64, the last one reduced to
    `pos_dim` channels.

    Raises:
        ValueError: an unknown variant, a stage that does not exist, lists that are not of length 4, channels that
            the heads do not divide, or weights that do not fit.
    """

    def __init__(
        self,
        variant: Annotated[str, OneOf(VARIANTS)] | None = None,
        *,
        num_tokens: Objects = 100,
        dims: Annotated[Sequence[Channels], Len(4, 4)] | None = None,
        depths: Annotated[Sequence[Depth], Len(4, 4)] | None = None,
        mlp_ratios: Annotated[Sequence[Depth], Len(4, 4)] | None = None,
        cross_stages: Sequence[Annotated[int, Ge(0), Le(3)]] = (3,),
        pos_dim: Channels = 256,
        positions_after_norm: bool = False,
        pretrained: Text | None = None,
    ):
        super().__init__()
        dims, depths, mlp_ratios = resolve_variant(variant, dims=dims, depths=depths, mlp_ratios=mlp_ratios)
        if bad := [s for s in cross_stages if s not in range(4)]:
            raise ValueError(f"cross_stages {bad} do not exist: there are stages 0 to 3")
        self.num_tokens, self.pos_dim, self.cross_stages = num_tokens, pos_dim, tuple(cross_stages)
        self.num_channels = [*dims[1:], pos_dim]
        self.det_channels = dims[-1]
        self.stages = nn.ModuleList(
            Stage(in_dim, dim, depth, ratio, pos_dim, positions_after_norm)
            for (in_dim, dim), depth, ratio in zip(pairwise((3, *dims)), depths, mlp_ratios, strict=True)
        )
        self.reduce = PatchEmbed(pos_dim, 2, dims[-1])
        self.det_token = nn.Parameter(torch.empty(1, num_tokens, dims[0]))
        self.det_pos_embed = nn.Parameter(torch.empty(1, num_tokens, pos_dim))
        self._init_weights()
        if pretrained:
            load_pretrained(self, pretrained, convert_coat, is_new)

    def _init_weights(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.det_token, self.det_pos_embed, *(stage.cls_token for stage in self.stages)):
            nn.init.trunc_normal_(token, std=0.02)

    def new_parameters(self) -> set[str]:
        """Names of the parameters that ImageNet weights lack."""
        return {name for name, _ in self.named_parameters() if is_new(name)}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {"det_token", "det_pos_embed", *(f"stages.{i}.cls_token" for i in range(len(self.stages)))}

    def forward(self, images_b3hw: Tensor, mask_bhw: Tensor) -> DetFeatures:
        """Four feature maps, fine to coarse, with `num_channels` channels, and the det tokens.

        Args:
            images_b3hw: normalised images.
            mask_bhw: bool, True on padding.

        Returns:
            Maps `[b, c, ceil(h / s), ceil(w / s)]` of stride s = 8, 16, 32 and 64; det tokens `[b, n, det_channels]`;
            det positions `[1, n, pos_dim]`.
        """
        divisor = 2 ** (len(self.stages) - len(self.cross_stages))
        h, w = images_b3hw.shape[-2:]
        mask = resize_mask(mask_bhw, (max(1, h // divisor), max(1, w // divisor)))
        x, det = images_b3hw, self.det_token.expand(images_b3hw.shape[0], -1, -1)
        features = []
        for i, stage in enumerate(self.stages):
            patches = stage.patch_embed(x)
            cross = CrossInputs.of(patches, mask, self.num_tokens) if i in self.cross_stages else None
            patches, det = stage(patches, stage.dets(det) if i > 0 else det, self.det_pos_embed, cross)
            x = patches.permute(0, 3, 1, 2).contiguous()
            features.append(x)
        features.append(self.reduce(x).permute(0, 3, 1, 2))
        return DetFeatures(features[1:], det, self.det_pos_embed)


def resolve_variant(variant: str | None, **given: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Fill what is not given from the variant, and check it.

    Raises:
        ValueError: an unknown variant, a value that is missing, lists that are not of length 4, or channels that the
            heads do not divide.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown CoaT variant {variant!r}: choose from {', '.join(VARIANTS)}")
    values = dict(VARIANTS[variant]) if variant else {}
    values |= {name: tuple(value) for name, value in given.items() if value is not None}
    if missing := [name for name in given if name not in values]:
        raise ValueError(f"give a variant ({', '.join(VARIANTS)}) or {', '.join(missing)}")
    for name, value in values.items():
        if len(value) != 4:
            raise ValueError(f"{name} {value} has {len(value)} entries, but there are 4 stages")
    if bad := [dim for dim in values["dims"] if dim % HEADS]:
        raise ValueError(f"dims {bad} are no multiples of {HEADS}, the number of attention heads")
    return [values[name] for name in given]


SHARED = re.compile(r"serial_blocks\d\.\d+\.(cpe|factoratt_crpe\.crpe)\.")
OWN_NAMES = (  # what the original repository and the official ViDT code call a part, and its name here
    (r"patch_embed5\.", lambda m: "reduce."),
    (r"(patch_embed|cls_token)(\d)", lambda m: f"stages.{int(m[2]) - 1}.{m[1]}"),
    (r"det_exp_(\d)", lambda m: f"stages.{m[1]}.det_exp"),
    (r"det_exp_norm_(\d)", lambda m: f"stages.{m[1]}.det_norm"),
    (r"(?:cpe|serial_blocks)(\d)(?:\.\d+\.cpe)?\.proj\.", lambda m: f"stages.{int(m[1]) - 1}.positions.absolute."),
    (
        r"(?:crpe|serial_blocks)(\d)(?:\.\d+\.factoratt_crpe\.crpe)?\.conv_list\.",
        lambda m: f"stages.{int(m[1]) - 1}.positions.relative.",
    ),
    (r"serial_blocks(\d)\.(\d+)\.factoratt_crpe\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.attn."),
    (r"serial_blocks(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
)


def own_key(original: str) -> str:
    """Our name of a parameter of the original repository or of the backbone in the official ViDT code."""
    for pattern, name in OWN_NAMES:
        if found := re.match(pattern, original):
            return name(found) + original[found.end() :]
    return original


def is_new(name: str) -> bool:
    """Whether ImageNet weights lack this parameter: det tokens, their layers and the last reduction."""
    return "det_" in name or name.startswith("reduce.")


def convert_coat(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of the original repository, of timm or of the official ViDT backbone in our names, and what is left out.

    Left out are the classifier, and the repetitions of the convolutions that the blocks of a stage share. Should
    the repetitions differ, the last counts, as in PyTorch's own loading.
    """
    converted, left_out = {}, []
    for key, value in state_dict.items():
        if key.startswith(("head.", "norm1.", "norm2.", "norm3.", "norm4.")):
            left_out.append(key)
            continue
        if SHARED.match(key):
            left_out.append(key)
        converted[own_key(key)] = value
    return converted, left_out


def coat_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `CoaT` that fit weights in our names, except `cross_stages` and `positions_after_norm`."""
    stages = range(4)
    depths = [len({key.split(".")[3] for key in weights if key.startswith(f"stages.{i}.blocks.")}) for i in stages]
    hidden = [len(weights[f"stages.{i}.blocks.0.mlp.fc1.bias"]) for i in stages]
    dims = [weights[f"stages.{i}.cls_token"].shape[-1] for i in stages]
    return dict(
        num_tokens=weights["det_token"].shape[1],
        dims=tuple(dims),
        depths=tuple(depths),
        mlp_ratios=tuple(h // d for h, d in zip(hidden, dims, strict=True)),
        pos_dim=weights["det_pos_embed"].shape[2],
    )
