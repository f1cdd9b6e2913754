"""Swin Transformer (arXiv 2103.14030) with ViDT's reconfigured attention module (RAM, arXiv 2110.03921, section 3).

[DET] tokens travel through every block beside the image's [PATCH] tokens and share its projections:
[PATCH] x [PATCH] attention stays windowed, [DET] x [DET] attention is global, and in the stages of
`cross_stages` the [DET] tokens also attend to all [PATCH] tokens of the stage, bound with [DET] x [DET] in one
softmax. Parameters carry the names of the original Swin repository, so that its weights load as they are.

Shape letters: b images, h/w patch rows and columns, n det tokens, c channels, m heads, k tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from detkit.backbones.layers import (
    CrossInputs,
    DetAttention,
    DetFeatures,
    DropPath,
    Mlp,
    PatchEmbed,
    det_parameters,
    resize_mask,
)
from detkit.backbones.pretrained import load_pretrained
from detkit.backbones.windows import (
    attend_in_portions,
    in_portions,
    join_windows,
    portions,
    region_mask,
    split_windows,
    window_attention,
    window_regions,
)
from detkit.ops.kept import KeptResult
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


def relative_position_index(size: int) -> Tensor:
    """`[k, k]` rows of the relative position bias table for each pair of positions in a window."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y + size - 1) * (2 * size - 1) + (x[:, None] - x + size - 1)


class ReconfiguredAttention(DetAttention):
    """Window attention for [PATCH] tokens and global attention for [DET] tokens, by the same projections."""

    def __init__(self, dim: int, window: int, num_heads: int):
        super().__init__(dim, num_heads)
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def relative_positions(self) -> Tensor:
        """The attention bias `[1, m, k, k]` of the positions of two patches in a window."""
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        return bias.view(tokens, tokens, -1).permute(2, 0, 1)[None]

    def patches(self, windows: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
        """Attention within `windows`, `[b * windows, k, c]` in and out.

        Args:
            windows: the patches of each window, normalised.
            bias: see `relative_positions`.
            regions: see `window_regions`; None where all patches of a window see each other.
        """
        q, k, v = self.heads(self.qkv(windows), 3)
        if regions is not None:
            bias = bias + region_mask(regions)[:, None].to(windows.dtype)
        return window_attention(q, k, v, bias.to(q.dtype)).transpose(1, 2).flatten(2)


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
        self, x_bhwc: Tensor, det_bnc: Tensor | None, det_pos: Tensor | None, regions: Tensor, cross: CrossInputs | None
    ) -> tuple[Tensor, Tensor | None]:
        """Attention and feed-forward network for the tokens of both kinds.

        Args:
            x_bhwc: [PATCH] tokens.
            det_bnc: [DET] tokens; None leaves them out.
            det_pos: [1, n, pos_dim], det positions; None without [DET] tokens.
            regions: [windows, k], see `window_regions`; used where the windows of the block are shifted.
            cross: given in the stages where [DET] tokens attend to [PATCH] tokens, otherwise None.

        Returns:
            Both kinds of tokens, in the shapes that they came in.
        """
        if self.local is not None:
            x_bhwc = x_bhwc + self.local(x_bhwc.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # An image drops its path for both kinds of token or for none.
        b = x_bhwc.shape[0]
        keeps = self.drop_path.keep(b, x_bhwc), self.drop_path.keep(b, x_bhwc)
        patches = self.norm1(x_bhwc)
        if det_bnc is not None and det_pos is not None:
            keys = None if cross is None else (patches + cross.positions).flatten(1, 2)
            det_bnc = self.dets(det_bnc, det_pos, keys, None if cross is None else cross.key_bias, keeps)
        if in_portions(x_bhwc) and keeps == (None, None):
            return self._in_portions(x_bhwc, patches), det_bnc
        x = x_bhwc + scaled(self._window_attention(patches, regions), keeps[0])
        return x + scaled(self.mlp(self.norm2(x)), keeps[1]), det_bnc

    def dets(
        self,
        det_bnc: Tensor,
        det_pos: Tensor,
        keys: Tensor | None,
        key_bias: Tensor | None,
        keeps: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Tensor:
        """The part of the [DET] tokens, `[b, n, c]` in and out.

        Args:
            det_bnc: [DET] tokens.
            det_pos: [1, n, pos_dim], det positions.
            keys, key_bias: the patches that they attend to, see `DetAttention.dets`; or None.
            keeps: the factors of each image's two branches, see `DropPath.keep`.
        """
        query = self.norm1(det_bnc) + self.det_pos_linear(det_pos)
        det = det_bnc + scaled(self.attn.dets(query, keys, key_bias), keeps[0])
        return det + scaled(self.mlp(self.norm2(det)), keeps[1])

    def _window_attention(self, x_bhwc: Tensor, regions: Tensor) -> Tensor:
        _, h, w, _ = x_bhwc.shape
        x = F.pad(x_bhwc, (0, 0, 0, -w % self.window, 0, -h % self.window))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        windows = split_windows(x, self.window)
        attended = self.attn.patches(windows, self.attn.relative_positions(), regions if self.shift else None)
        x = self.attn.proj(join_windows(attended, self.window, *x.shape[1:3]))
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :h, :w]

    def _in_portions(self, x_bhwc: Tensor, patches_bhwc: Tensor) -> Tensor:
        """What `_window_attention` and the feed-forward network give without dropped paths, see `in_portions`."""
        c = x_bhwc.shape[-1]
        attend = partial(self.attn.patches, bias=self.attn.relative_positions().contiguous())
        x = self.attn.proj(attend_in_portions(attend, patches_bhwc, self.window, self.shift, 3 * c)).add_(x_bhwc)
        rows = x.view(-1, c)
        for part in portions(len(rows), 4 * c):
            rows[part] += self.mlp(self.norm2(rows[part]))
        return x


def scaled(branch: Tensor, keep: Tensor | None) -> Tensor:
    """A branch `[b, ...]` times the factor of each image, see `DropPath.keep`."""
    return branch if keep is None else branch * keep.view(-1, *[1] * (branch.ndim - 1))


class PatchMerging(nn.Module):
    """Joins 2 x 2 patches; [DET] tokens pass the same layers, repeated four times to fit them."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, out_dim, bias=False)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """Join each 2 x 2 patches: `[b, h, w, c]` to `[b, ceil(h / 2), ceil(w / 2), out_dim]`."""
        _, h, w, _ = x_bhwc.shape
        x = F.pad(x_bhwc, (0, 0, 0, w % 2, 0, h % 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))

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
        self, x_bhwc: Tensor, det_bnc: Tensor | None, det_pos: Tensor, cross: CrossInputs | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the blocks of the stage; its merging layer `downsample` is applied outside.

        Args:
            x_bhwc: [PATCH] tokens.
            det_bnc: [DET] tokens; None leaves them out.
            det_pos: [1, n, pos_dim], det positions.
            cross: see `Block.forward`.

        Returns:
            Both kinds of tokens, in the shapes that they came in.
        """
        _, h, w, _ = x_bhwc.shape
        size, padded = self.window, (h + -h % self.window, w + -w % self.window)
        regions = window_regions(*padded, size, size // 2, x_bhwc.device)
        for block in self.blocks:
            x_bhwc, det_bnc = block(x_bhwc, det_bnc, det_pos, regions, cross)
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
        self.det_token, self.det_pos_embed = det_parameters(num_tokens, embed_dim, pos_dim)
        self._kept_dets = KeptResult()
        if pretrained:
            load_pretrained(self, pretrained, convert_swin, is_new)

    def new_parameters(self) -> set[str]:
        """Names of the parameters that ImageNet weights lack."""
        return {name for name, _ in self.named_parameters() if is_new(name)}

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
        det, first = self._first_dets(x.shape[0])
        features = []
        for i, stage in enumerate(self.layers):
            cross = CrossInputs.of(x, mask, self.num_tokens) if i in self.cross_stages else None
            x, new_det = stage(x, det if i >= first else None, self.det_pos_embed, cross)
            if i > 0:
                features.append(x.permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
            if new_det is not None:
                det = stage.downsample.dets(new_det) if i < len(self.layers) - 1 else new_det
        if self.layers[-1].downsample is not None:
            features.append(x.permute(0, 3, 1, 2))
        return DetFeatures(features, det, self.det_pos_embed)

    def _first_dets(self, batch: int) -> tuple[Tensor, int]:
        """[DET] tokens `[b, n, c]` and the stage that they enter.

        Before the first of `cross_stages` no image touches them. Without gradients they are therefore computed once.
        """
        if torch.is_grad_enabled() or self.training:
            return self.det_token.expand(batch, -1, -1), 0
        first = min(self.cross_stages, default=len(self.layers))
        weights = [self.det_token, self.det_pos_embed, *self.layers[:first].parameters()]
        det = self._kept_dets.get(weights, lambda: self._dets_before(first))
        return det.expand(batch, -1, -1), first

    def _dets_before(self, first: int) -> Tensor:
        det = self.det_token
        for i, stage in enumerate(self.layers[:first]):
            for block in stage.blocks:
                det = block.dets(det, self.det_pos_embed, None, None)
            if i < len(self.layers) - 1:
                det = stage.downsample.dets(det)
        return det


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
