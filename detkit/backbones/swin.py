"""Swin Transformer (arXiv 2103.14030) with ViDT's reconfigured attention module (RAM, arXiv 2110.03921, section 3).

[DET] tokens travel through every block beside the image's [PATCH] tokens and share its projections:
[PATCH] x [PATCH] attention stays windowed, [DET] x [DET] attention is global, and in the stages of
`cross_stages` the [DET] tokens also attend to all [PATCH] tokens of the stage, bound with [DET] x [DET] in one
softmax. Parameters carry the names of the original Swin repository, so that its weights load as they are.

Shape letters: b images, h/w patch rows and columns, n det tokens, c channels, m heads, k tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from detkit.backbones.layers import (
    MASKED,
    CrossInputs,
    DetAttention,
    DetFeatures,
    DropPath,
    Mlp,
    PatchEmbed,
    resize_mask,
)
from detkit.backbones.pretrained import load_pretrained
from detkit.ops.linear import Linear
from detkit.registry import register
from detkit.registry.ranges import Channels, Depth, Index, Objects, OneOf, ShareBelowOne, Text

VARIANTS = {
    "nano": dict(embed_dim=48, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), drop_path=0.0),
    "tiny": dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), drop_path=0.2),
    "small": dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), drop_path=0.3),
    "base": dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path=0.3),
    "large": dict(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), drop_path=0.3),
}


def split_windows(x_bhwc: Tensor, size: int) -> Tensor:
    """`[b, h, w, c]` into `[b * windows, size * size, c]`; h and w are multiples of `size`."""
    b, h, w, c = x_bhwc.shape
    x = x_bhwc.view(b, h // size, size, w // size, size, c)
    return x.transpose(2, 3).reshape(-1, size * size, c)


def join_windows(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Inverse of `split_windows`: `[b, h, w, c]`."""
    x = windows.view(-1, height // size, width // size, size, size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def shifted_window_mask(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Attention bias of shifted windows, `[windows, k, k]`: `MASKED` between patches that are apart in the image.

    Args:
        height, width: of the padded map in patches, multiples of `size`.
        size: side of a window in patches.
        shift: by how many patches the windows are shifted.
        device: of the result.

    Returns:
        The bias, 0 between all other patches of a window.
    """

    def region(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - size).int() + (position >= length - shift).int()

    regions = region(height)[:, None] * 3 + region(width)
    windows = split_windows(regions[None, :, :, None], size)[..., 0]
    return (windows[:, :, None] != windows[:, None, :]) * MASKED


def relative_position_index(size: int) -> Tensor:
    """`[k, k]` rows of the relative position bias table for each pair of positions in a window."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y + size - 1) * (2 * size - 1) + (x[:, None] - x + size - 1)


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of `[b * windows, m, k, d]` with a bias `[1 or windows, m, k, k]`.

    The fused kernel has no backward pass for the bias on a CPU, where its general form is slower than this one.
    """
    bias = bias.expand(len(q) // len(bias), *bias.shape) if len(bias) > 1 else bias[None]
    if q.is_cuda or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    scores = scores.view(bias.shape[0] if bias.shape[1] > 1 else -1, *bias.shape[1:]) + bias
    return scores.view(len(q), *bias.shape[2:]).softmax(dim=-1) @ v


class ReconfiguredAttention(DetAttention):
    """Window attention for [PATCH] tokens and global attention for [DET] tokens, by the same projections."""

    def __init__(self, dim: int, window: int, num_heads: int):
        super().__init__(dim, num_heads)
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def patches(self, x_bhwc: Tensor, window_mask: Tensor | None) -> Tensor:
        """Attention within windows of `[b, h, w, c]`, h and w multiples of the window."""
        _, h, w, _ = x_bhwc.shape
        q, k, v = self.heads(self.qkv(split_windows(x_bhwc, self.window)), 3)
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(tokens, tokens, -1).permute(2, 0, 1)[None]
        if window_mask is not None:
            bias = bias + window_mask[:, None]
        out = window_attention(q, k, v, bias.to(q.dtype)).transpose(1, 2).flatten(2)
        return self.proj(join_windows(out, self.window, h, w))


class Block(nn.Module):
    """A Swin block that carries [DET] tokens along."""

    def __init__(
        self, dim: int, num_heads: int, window: int, shift: int, drop_path: float, pos_dim: int, local_positions: bool
    ):
        super().__init__()
        self.window, self.shift = window, shift
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if local_positions else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ReconfiguredAttention(dim, window, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)
        self.det_pos_linear = nn.Linear(pos_dim, dim)

    def forward(
        self, x_bhwc: Tensor, det_bnc: Tensor, det_pos: Tensor, window_mask: Tensor, cross: CrossInputs | None
    ) -> tuple[Tensor, Tensor]:
        """Attention and feed-forward network for the tokens of both kinds.

        Args:
            x_bhwc: [PATCH] tokens.
            det_bnc: [DET] tokens.
            det_pos: [1, n, pos_dim], det positions.
            window_mask: [windows, k, k], see `shifted_window_mask`; used where the windows of the block are shifted.
            cross: given in the stages where [DET] tokens attend to [PATCH] tokens, otherwise None.

        Returns:
            Both kinds of tokens, in the shapes that they came in.
        """
        if self.local is not None:
            x_bhwc = x_bhwc + self.local(x_bhwc.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        patches, det = self.norm1(x_bhwc), self.norm1(det_bnc) + self.det_pos_linear(det_pos)
        keys = None if cross is None else (patches + cross.positions).flatten(1, 2)
        det = self.attn.dets(det, keys, None if cross is None else cross.key_bias)
        patches = self._window_attention(patches, window_mask)
        x, det = self._add(x_bhwc, det_bnc, patches, det)
        return self._add(x, det, self.mlp(self.norm2(x)), self.mlp(self.norm2(det)))

    def _add(self, x: Tensor, det: Tensor, more_x: Tensor, more_det: Tensor) -> tuple[Tensor, Tensor]:
        """The residual sums; an image drops its path for both kinds of token or for none."""
        keep = self.drop_path.keep(len(x), x)
        if keep is None:
            return x + more_x, det + more_det
        return x + more_x * keep[:, None, None, None], det + more_det * keep[:, None, None]

    def _window_attention(self, x_bhwc: Tensor, window_mask: Tensor) -> Tensor:
        _, h, w, _ = x_bhwc.shape
        x = F.pad(x_bhwc, (0, 0, 0, -w % self.window, 0, -h % self.window))
        if not self.shift:
            return self.attn.patches(x, None)[:, :h, :w]
        x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        x = self.attn.patches(x, window_mask)
        return torch.roll(x, (self.shift, self.shift), dims=(1, 2))[:, :h, :w]


class PatchMerging(nn.Module):
    """Joins 2 x 2 patches; [DET] tokens pass the same layers, repeated four times to fit them."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, out_dim, bias=False)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """Join each 2 x 2 patches: `[b, h, w, c]` to `[b, ceil(h / 2), ceil(w / 2), out_dim]`."""
        _, h, w, _ = x_bhwc.shape
        x = F.pad(x_bhwc, (0, 0, 0, w % 2, 0, h % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(x))

    def dets(self, det_bnc: Tensor) -> Tensor:
        """Give [DET] tokens the channels of the merged patches: `[b, n, c]` to `[b, n, out_dim]`."""
        return self.reduction(self.norm(det_bnc.repeat(1, 1, 4)))


class Stage(nn.Module):
    """The blocks of one resolution and the merging layer after them."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int,
        drop_path: Sequence[float],
        pos_dim: int,
        out_dim: int | None,
        local_positions: bool,
    ):
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, window, window // 2 * (i % 2), rate, pos_dim, local_positions)
            for i, rate in enumerate(drop_path)
        )
        self.downsample = None if out_dim is None else PatchMerging(dim, out_dim)

    def forward(
        self, x_bhwc: Tensor, det_bnc: Tensor, det_pos: Tensor, cross: CrossInputs | None
    ) -> tuple[Tensor, Tensor]:
        """Run the blocks of the stage; its merging layer `downsample` is applied outside.

        Args:
            x_bhwc: [PATCH] tokens.
            det_bnc: [DET] tokens.
            det_pos: [1, n, pos_dim], det positions.
            cross: see `Block.forward`.

        Returns:
            Both kinds of tokens, in the shapes that they came in.
        """
        _, h, w, _ = x_bhwc.shape
        size, padded = self.window, (h + -h % self.window, w + -w % self.window)
        window_mask = shifted_window_mask(*padded, size, size // 2, x_bhwc.device).to(x_bhwc.dtype)
        for block in self.blocks:
            x_bhwc, det_bnc = block(x_bhwc, det_bnc, det_pos, window_mask, cross)
        return x_bhwc, det_bnc


@register
class Swin(nn.Module):
    """Swin with reconfigured attention: images to four feature maps, det tokens and det positions.

    Args:
        variant: "nano", "tiny", "small", "base" or "large"; sets the four arguments after `num_tokens`.
        num_tokens: number of [DET] tokens, the most objects that the detector finds in an image.
        embed_dim: channels of the first stage; each further stage has twice as many.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        drop_path: stochastic depth rate of the last block; rates rise linearly from 0.
        window: side of an attention window in patches.
        cross_stages: stages (from 0) in which [DET] tokens attend to [PATCH] tokens.
        local_positions: add a depthwise 3 x 3 convolution of the patches to them before each block (conditional
            positional encoding, CPVT, arXiv 2102.10882). Not in the paper; from random weights it learns much faster.
        pos_dim: channels of the det positions and of the last, reduced feature map.
        reduced_map: give the last map; a model without neck needs none.
        pretrained: ImageNet weights: a file or URL of the original Swin repository, or "timm:MODEL_NAME".

    `forward(images [b, 3, h, w], mask [b, h, w])` gives maps of stride 8, 16, 32 and 64, the last one reduced to
    `pos_dim` channels.

    Raises:
        ValueError: an unknown variant, a stage that does not exist, lists of unequal length, or weights that do
            not fit.
    """

    def __init__(
        self,
        variant: Annotated[str, OneOf(VARIANTS)] | None = None,
        *,
        num_tokens: Objects = 100,
        embed_dim: Channels | None = None,
        depths: Annotated[Sequence[Depth], MinLen(1)] | None = None,
        num_heads: Annotated[Sequence[Depth], MinLen(1)] | None = None,
        drop_path: ShareBelowOne | None = None,
        window: Depth = 7,
        cross_stages: Sequence[Index] = (3,),
        local_positions: bool = False,
        pos_dim: Channels = 256,
        reduced_map: bool = True,
        pretrained: Text | None = None,
    ):
        super().__init__()
        embed_dim, depths, num_heads, drop_path = resolve_variant(variant, embed_dim, depths, num_heads, drop_path)
        if len(depths) != len(num_heads):
            raise ValueError(f"depths {depths} and num_heads {num_heads} differ in length")
        if bad := [heads for i, heads in enumerate(num_heads) if (embed_dim << i) % heads]:
            raise ValueError(f"num_heads {bad} do not divide embed_dim {embed_dim}, which doubles with each stage")
        if bad := [s for s in cross_stages if s not in range(len(depths))]:
            raise ValueError(f"cross_stages {bad} do not exist: there are stages 0 to {len(depths) - 1}")
        dims = [embed_dim * 2**i for i in range(len(depths))]
        self.num_tokens, self.pos_dim, self.cross_stages = num_tokens, pos_dim, tuple(cross_stages)
        out_dims: list[int | None] = [*dims[1:], pos_dim if reduced_map else None]
        self.num_channels = [dim for dim in out_dims if dim is not None]
        self.det_channels = dims[-1]
        self.patch_embed = PatchEmbed(embed_dim)
        rates = torch.linspace(0, drop_path, sum(depths)).split(list(depths))
        self.layers = nn.ModuleList(
            Stage(dim, heads, window, stage_rates.tolist(), pos_dim, out_dim, local_positions)
            for dim, heads, stage_rates, out_dim in zip(dims, num_heads, rates, out_dims, strict=True)
        )
        self.det_token = nn.Parameter(torch.empty(1, num_tokens, embed_dim))
        self.det_pos_embed = nn.Parameter(torch.empty(1, num_tokens, pos_dim))
        self._init_weights()
        if pretrained:
            load_pretrained(self, pretrained, convert_swin, is_new)

    def _init_weights(self):
        nn.init.trunc_normal_(self.det_token, std=0.02)
        nn.init.trunc_normal_(self.det_pos_embed, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {"det_token", "det_pos_embed"}

    def forward(self, images_b3hw: Tensor, mask_bhw: Tensor) -> DetFeatures:
        """The feature maps, fine to coarse, with `num_channels` channels, and the det tokens.

        Args:
            images_b3hw: normalised images.
            mask_bhw: bool, True on padding.

        Returns:
            Maps `[b, c, ceil(h / s), ceil(w / s)]` of stride s = 8, 16, 32 and, with `reduced_map`, 64; det tokens
            `[b, n, det_channels]`; det positions `[1, n, pos_dim]`.
        """
        x = self.patch_embed(images_b3hw)
        divisor = 2 ** (len(self.layers) - len(self.cross_stages))
        mask = resize_mask(mask_bhw, (max(1, x.shape[1] // divisor), max(1, x.shape[2] // divisor)))
        det = self.det_token.expand(len(x), -1, -1)
        features = []
        for i, stage in enumerate(self.layers):
            cross = CrossInputs.of(x, mask, self.num_tokens) if i in self.cross_stages else None
            x, det = stage(x, det, self.det_pos_embed, cross)
            if i > 0:
                features.append(x.permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
            if i < len(self.layers) - 1:
                det = stage.downsample.dets(det)
        if self.layers[-1].downsample is not None:
            features.append(x.permute(0, 3, 1, 2))
        return DetFeatures(features, det, self.det_pos_embed)


def resolve_variant(variant: str | None, *given) -> list:
    """Fill what is not given from the variant.

    Raises:
        ValueError: an unknown variant, or a value that neither it nor the arguments give.
    """
    names = ("embed_dim", "depths", "num_heads", "drop_path")
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown Swin variant {variant!r}: choose from {', '.join(VARIANTS)}")
    defaults = VARIANTS[variant] if variant else {"drop_path": 0.0}
    values = [defaults.get(name) if value is None else value for name, value in zip(names, given, strict=True)]
    if missing := [name for name, value in zip(names, values, strict=True) if value is None]:
        raise ValueError(f"give a variant ({', '.join(VARIANTS)}) or {', '.join(missing)}")
    return values


def is_new(name: str) -> bool:
    """Whether ImageNet weights lack this parameter: det tokens, det and local positions, the last merging layer."""
    return "det_" in name or ".local." in name or name.startswith("layers.3.downsample.")


def convert_swin(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """ImageNet weights of the original repository or of timm in our names, and the keys that a detector leaves out."""
    # timm keeps a merging layer with the stage after it, the original with the stage before it.
    from_timm = any(key.startswith(("layers_3.downsample", "layers.3.downsample.")) for key in state_dict)
    converted, left_out = {}, []
    for key, value in state_dict.items():
        if key.endswith(("relative_position_index", "attn_mask")) or key.startswith(("head.", "norm.")):
            left_out.append(key)
            continue
        parts = key.replace("layers_", "layers.").split(".")
        if from_timm and parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        converted[".".join(parts)] = value
    return converted, left_out
