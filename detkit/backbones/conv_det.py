"""A light convolutional backbone with ViDT's reconfigured attention (arXiv 2110.03921, section 3) in its last stage.

From random weights convolutions with batch norm learn in far fewer steps than window attention. The stages are those of
CSPNet (arXiv 1911.11929) with residual bottlenecks. [DET] tokens exist only in the last stage, at stride 32, where they
and the patches attend globally by shared projections. It is an option of detkit and not in the paper.

Shape letters: b images, h/w patch rows and columns, n det tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from detkit.backbones.layers import CrossInputs, DetAttention, DetFeatures, Mlp, det_parameters, resize_mask
from detkit.registry import register
from detkit.registry.ranges import Channels, Depth, Objects


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, SiLU; `[b, c, h, w]` to `[b, out, ceil(h / stride), ceil(w / stride)]`."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1):
        super().__init__(
            nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(out, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )


class Bottleneck(nn.Module):
    """Two 3 x 3 convolutions beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(ConvUnit(channels, channels, 3), ConvUnit(channels, channels, 3))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, c, h, w]` in and out."""
        return x_bchw + self.layers(x_bchw)


class CrossStage(nn.Module):
    """Half of the channels passes through bottlenecks; all results are joined."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        half = channels // 2
        self.split = ConvUnit(channels, 2 * half)
        self.blocks = nn.ModuleList(Bottleneck(half) for _ in range(depth))
        self.join = ConvUnit((2 + depth) * half, channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, c, h, w]` in and out."""
        parts = [*self.split(x_bchw).chunk(2, dim=1)]
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, dim=1))


class AttentionBlock(nn.Module):
    """Attention and feed-forward network for patches and [DET] tokens, by the same layers."""

    def __init__(self, dim: int, num_heads: int, pos_dim: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = DetAttention(dim, num_heads)
        self.mlp = Mlp(dim, 2 * dim)
        self.det_pos_linear = nn.Linear(pos_dim, dim)

    def forward(self, x_bhwc: Tensor, det_bnc: Tensor, det_pos: Tensor, cross: CrossInputs) -> tuple[Tensor, Tensor]:
        """Patches attend to patches, [DET] tokens to both; the shapes stay.

        Args:
            x_bhwc: patches.
            det_bnc: [DET] tokens.
            det_pos: [1, n, pos_dim], det positions.
            cross: positions of the patches, and which of them are padding.
        """
        patches = (self.norm1(x_bhwc) + cross.positions).flatten(1, 2)
        det = self.norm1(det_bnc) + self.det_pos_linear(det_pos)
        q, k, v = self.attn.heads(self.attn.qkv(patches), 3)
        bias = cross.key_bias[..., : patches.shape[1]].to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        det_bnc = det_bnc + self.attn.dets(det, patches, cross.key_bias)
        x_bhwc = x_bhwc + self.attn.proj(attended).view_as(x_bhwc)
        return x_bhwc + self.mlp(self.norm2(x_bhwc)), det_bnc + self.mlp(self.norm2(det_bnc))


@register
class ConvDet(nn.Module):
    """Convolutional stages, then attention with [DET] tokens: images to four feature maps, det tokens and positions.

    Args:
        num_tokens: number of [DET] tokens.
        dims: channels of the stages of stride 4, 8, 16 and 32.
        depths: bottlenecks of the stages.
        num_heads: of the attention.
        attention_blocks: blocks in which patches of stride 32 and [DET] tokens attend.
        pos_dim: channels of the det positions and of the last feature map.

    `forward(images [b, 3, h, w], mask [b, h, w])` gives maps of stride 8, 16, 32 and 64, the last one with `pos_dim`
    channels.

    Raises:
        ValueError: `num_heads` does not divide the channels of the last stage, or those are no multiple of 4.
    """

    def __init__(
        self,
        *,
        num_tokens: Objects = 100,
        dims: Annotated[Sequence[Channels], Len(4, 4)] = (32, 64, 128, 256),
        depths: Annotated[Sequence[Depth], Len(4, 4)] = (1, 1, 1, 1),
        num_heads: Depth = 8,
        attention_blocks: Depth = 1,
        pos_dim: Channels = 256,
    ):
        super().__init__()
        if dims[-1] % num_heads or dims[-1] % 4:
            raise ValueError(f"the last of dims must be a multiple of 4 and of num_heads {num_heads}, got {dims[-1]}")
        self.num_tokens, self.pos_dim = num_tokens, pos_dim
        self.num_channels, self.det_channels = [*dims[1:], pos_dim], dims[-1]
        self.stem = ConvUnit(3, max(1, dims[0] // 2), 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvUnit(before, dim, 3, 2), CrossStage(dim, depth))
            for before, dim, depth in zip([max(1, dims[0] // 2), *dims[:-1]], dims, depths, strict=True)
        )
        self.blocks = nn.ModuleList(AttentionBlock(dims[-1], num_heads, pos_dim) for _ in range(attention_blocks))
        self.reduce = ConvUnit(dims[-1], pos_dim, 3, 2)
        self.det_token, self.det_pos_embed = det_parameters(num_tokens, dims[-1], pos_dim)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {"det_token", "det_pos_embed"}

    def forward(self, images_b3hw: Tensor, mask_bhw: Tensor) -> DetFeatures:
        """The feature maps, fine to coarse, with `num_channels` channels, and the det tokens.

        Args:
            images_b3hw: normalised images.
            mask_bhw: bool, True on padding.

        Returns:
            Maps `[b, c, ceil(h / s), ceil(w / s)]` of stride s = 8, 16, 32 and 64; det tokens `[b, n, dims[-1]]`; det
            positions `[1, n, pos_dim]`.
        """
        x = self.stem(images_b3hw)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        x = x.permute(0, 2, 3, 1)
        det = self.det_token.expand(x.shape[0], -1, -1)
        cross = CrossInputs.of(x, resize_mask(mask_bhw, x.shape[1:3]), self.num_tokens)
        for block in self.blocks:
            x, det = block(x, det, self.det_pos_embed, cross)
        last = x.permute(0, 3, 1, 2)
        return DetFeatures([*features[1:-1], last, self.reduce(last)], det, self.det_pos_embed)
