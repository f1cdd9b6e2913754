"""Plain vision transformers of timm with ViDT's reconfigured attention module (RAM, arXiv 2110.03921, section 3).

[DET] tokens go through every block of the body beside its own tokens and by the same projections, norms and layer
scales; a simple pyramid (ViTDet, arXiv 2203.16527, section 3) makes maps of several strides from the last one.

Shape letters: b images, h/w patch rows and columns, t tokens of the body (prefix, then patches), n det tokens,
c channels, m heads, d channels of a head. Prefix tokens are the class and register tokens of the body.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from detkit.backbones.from_timm.blocks import attention_dropout, create_body, embed, finish, project, rotate
from detkit.backbones.layers import CrossInputs, DetFeatures, det_parameters, resize_mask
from detkit.backbones.pretrained import ModelArgs, checked_model_args
from detkit.backbones.pyramid import SimplePyramid
from detkit.backbones.windows import join_windows, split_windows
from detkit.ops.kept import KeptResult
from detkit.registry import register
from detkit.registry.ranges import Channels, Index, Objects, Pixels, ShareBelowOne, Text


@dataclass
class Grid:
    """How the tokens of the body are arranged: `prefix` tokens, then `height` rows of `width` patches."""

    prefix: int
    height: int
    width: int

    def windows(self, x_bmtd: Tensor, size: int) -> Tensor:
        """The patches in windows, `[b * windows, m, size * size, d]`."""
        b, m, _, d = x_bmtd.shape
        x = x_bmtd[:, :, self.prefix :].transpose(1, 2).reshape(b, self.height, self.width, m * d)
        return split_windows(x, size).unflatten(-1, (m, d)).transpose(1, 2)

    def join(self, windows: Tensor, size: int) -> Tensor:
        """Inverse of `windows`: `[b, m, h * w, d]`."""
        x = join_windows(windows.transpose(1, 2).flatten(2), size, self.height, self.width)
        return x.flatten(1, 2).unflatten(-1, (windows.shape[1], -1)).transpose(1, 2)


def window_attention(q: Tensor, k: Tensor, v: Tensor, grid: Grid, size: int, dropout: float) -> Tensor:
    """Patches attend to the patches of their window and to the prefix tokens, prefix tokens to everything.

    Args:
        q, k, v: `[b, m, t, d]` of the body's tokens.
        grid: how the tokens are arranged; its sides are multiples of `size`.
        size: side of a window in patches.
        dropout: rate at which attention weights are dropped.

    Returns:
        `[b, m, t, d]`.
    """
    count = grid.height * grid.width // size**2

    def keys(x_bmtd: Tensor) -> Tensor:
        prefix = x_bmtd[:, None, :, : grid.prefix].expand(-1, count, -1, -1, -1).flatten(0, 1)
        return torch.cat([prefix, grid.windows(x_bmtd, size)], dim=2)

    patches = F.scaled_dot_product_attention(grid.windows(q, size), keys(k), keys(v), dropout_p=dropout)
    prefix = F.scaled_dot_product_attention(q[:, :, : grid.prefix], k, v, dropout_p=dropout)
    return torch.cat([prefix, grid.join(patches, size)], dim=2)


@register
class ViT(nn.Module):
    """A plain vision transformer with reconfigured attention: images to maps, det tokens and det positions.

    Args:
        model: the name of a timm model of the classes `VisionTransformer` (ViT, DeiT, AugReg, CLIP, DINOv2) or `Eva`
            (EVA, EVA-02, DINOv3).
        num_tokens: number of [DET] tokens, the most objects that the detector finds in an image.
        cross_blocks: blocks (from 0) in which [DET] tokens attend to [PATCH] tokens; by default the last quarter.
        window: side in patches of the windows within which [PATCH] tokens attend to each other, for large images;
            None leaves their attention global, as the body was trained.
        global_blocks: with `window`, the blocks whose attention stays global; by default the last of each quarter.
        pos_dim: channels of the det positions.
        out_channels: channels of the maps.
        strides: of the maps in pixels, fine to coarse; fewer and coarser maps are cheaper.
        drop_path: stochastic depth rate of the last block; rates rise linearly from 0.
        model_args: other arguments of the timm model, such as `img_size` (of its position embedding) or `depth`; none
            that names a file of weights.
        pretrained: True for the weights that timm publishes under the name; or a file, URL or "timm:MODEL_NAME" with
            a state dict in timm's names. False trains from scratch.

    `forward(images [b, 3, h, w], mask [b, h, w])` gives maps of these `strides` (7, 14, 28 and 56 by default where the
    body's patches have 14 pixels). Images of any size are padded to whole patches (and whole windows); learned
    position embeddings are resampled to the grid, rotary ones computed for it. Some published weights expect another
    mean and standard deviation of the pixels than ImageNet's: see `body.pretrained_cfg`, and the detector's input rule.

    Raises:
        ValueError: timm is not installed or has no such model, a model of another class or with another kind of
            attention, blocks that do not exist, or weights that do not fit.
    """

    def __init__(
        self,
        model: Text = "vit_tiny_patch16_224",
        *,
        num_tokens: Objects = 100,
        cross_blocks: Sequence[Index] | None = None,
        window: Pixels | None = None,
        global_blocks: Sequence[Index] | None = None,
        pos_dim: Channels = 256,
        out_channels: Channels = 256,
        strides: Annotated[Sequence[Pixels], MinLen(1)] = (8, 16, 32, 64),
        drop_path: ShareBelowOne = 0.0,
        model_args: ModelArgs | None = None,
        pretrained: bool | Text = False,
    ):
        super().__init__()
        self.body = create_body(model, pretrained, drop_path_rate=drop_path, **checked_model_args(model_args))
        depth, dim = len(self.body.blocks), self.body.embed_dim
        if window is None and global_blocks is not None:
            raise ValueError("global_blocks mean nothing without window: all blocks are global then")
        if num_tokens < 1 or (window is not None and window < 1):
            raise ValueError(f"num_tokens ({num_tokens}) and window ({window}) must be at least 1")
        last_quarter = range(depth - max(1, depth // 4), depth)
        ends = sorted({max(1, i * depth // 4) - 1 for i in (1, 2, 3, 4)})
        self.cross_blocks = check_blocks("cross_blocks", cross_blocks, last_quarter, depth)
        self.global_blocks = check_blocks("global_blocks", global_blocks, ends, depth)
        self.num_tokens, self.pos_dim, self.window = num_tokens, pos_dim, window
        self.det_channels, self.num_channels = dim, [out_channels] * len(strides)
        self.patch = self.body.patch_embed.feat_ratio()
        self.pyramid = SimplePyramid(dim, out_channels, self.patch, strides)
        self.det_pos_linear = nn.ModuleList(nn.Linear(pos_dim, dim) for _ in range(depth))
        self.det_token, self.det_pos_embed = det_parameters(num_tokens, dim, pos_dim)
        self._kept_dets = KeptResult()

    def new_parameters(self) -> set[str]:
        """Names of the parameters that the weights of timm lack."""
        return {name for name, _ in self.named_parameters() if not name.startswith("body.")}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {"det_token", "det_pos_embed", *(f"body.{name}" for name in self.body.no_weight_decay())}

    def forward(self, images_b3hw: Tensor, mask_bhw: Tensor) -> DetFeatures:
        """The feature maps, fine to coarse, with `out_channels` channels, and the det tokens.

        Args:
            images_b3hw: normalised images.
            mask_bhw: bool, True on padding.

        Returns:
            Maps `[b, out_channels, h', w']`, made from the last map of `encode`; det tokens `[b, n, c]`; det positions
            `[1, n, pos_dim]`.
        """
        x_bchw, det = self.encode(images_b3hw, mask_bhw)
        return DetFeatures(self.pyramid(x_bchw), det, self.det_pos_embed)

    def encode(self, images_b3hw: Tensor, mask_bhw: Tensor) -> tuple[Tensor, Tensor]:
        """The last map `[b, c, ceil(h / patch), ceil(w / patch)]` and the det tokens, both after the final norm."""
        height, width = images_b3hw.shape[-2:]
        unit = self.patch * (self.window or 1)
        padding = (0, -width % unit, 0, -height % unit)
        x_btc, ropes = embed(self.body, F.pad(images_b3hw, padding))
        rows, columns = (height + padding[3]) // self.patch, (width + padding[1]) // self.patch
        grid = Grid(x_btc.shape[1] - rows * columns, rows, columns)
        mask = resize_mask(F.pad(mask_bhw, padding, value=True), (rows, columns))
        det, first = self._first_dets(x_btc.shape[0])
        tokens = x_btc
        for i, rope in enumerate(ropes):
            if i < first:
                tokens = self._run_body_block(i, tokens, grid, rope)
                continue
            tokens = torch.cat([tokens, det], dim=1) if i == first else tokens
            tokens = self._run_block(i, tokens, grid, mask, rope)
        tokens = torch.cat([tokens, det], dim=1) if first == len(ropes) else tokens
        body, det = self._split(self.body.norm(tokens))
        x_bhwc = body[:, grid.prefix :].unflatten(1, (rows, columns))
        x_bhwc = x_bhwc[:, : math.ceil(height / self.patch), : math.ceil(width / self.patch)]
        return x_bhwc.permute(0, 3, 1, 2), det

    def _first_dets(self, batch: int) -> tuple[Tensor, int]:
        """[DET] tokens `[b, n, c]` and the block that they enter.

        Before the first of `cross_blocks` no image touches them. Without gradients they are therefore computed once.
        """
        if torch.is_grad_enabled() or self.training:
            return self.det_token.expand(batch, -1, -1), 0
        first = min(self.cross_blocks, default=len(self.body.blocks))
        modules = [*self.body.blocks[:first], *self.det_pos_linear[:first]]
        weights = [self.det_token, self.det_pos_embed, *(p for module in modules for p in module.parameters())]
        det = self._kept_dets.get(weights, lambda: self._dets_before(first))
        return det.expand(batch, -1, -1), first

    def _dets_before(self, first: int) -> Tensor:
        det = self.det_token
        for block, pos_linear in zip(self.body.blocks[:first], self.det_pos_linear[:first], strict=True):
            q, k, v = project(block.attn, block.norm1(det) + pos_linear(self.det_pos_embed))
            det = finish(block, det, F.scaled_dot_product_attention(q, k, v))
        return det

    def _run_body_block(self, i: int, tokens: Tensor, grid: Grid, rope: Tensor | None) -> Tensor:
        block = self.body.blocks[i]
        q, k, v = project(block.attn, block.norm1(tokens))
        return finish(block, tokens, self._attend_body(i, q, k, v, grid, rope))

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the body and [DET] tokens."""
        return tokens[:, : -self.num_tokens], tokens[:, -self.num_tokens :]

    def _run_block(self, i: int, tokens: Tensor, grid: Grid, mask: Tensor, rope: Tensor | None) -> Tensor:
        block, n = self.body.blocks[i], self.num_tokens
        body, det = self._split(block.norm1(tokens))
        det = det + self.det_pos_linear[i](self.det_pos_embed)
        q, k, v = project(block.attn, torch.cat([body, det], dim=1))
        det_k, det_v, bias = k[:, :, -n:], v[:, :, -n:], None
        if i in self.cross_blocks:
            patches = body[:, grid.prefix :].unflatten(1, (grid.height, grid.width))
            cross = CrossInputs.of(patches, mask, n)
            keys = (patches + cross.positions).flatten(1, 2).to(body.dtype)
            patch_k, patch_v = project(block.attn, keys, slice(1, 3))
            det_k, det_v = torch.cat([patch_k, det_k], dim=2), torch.cat([patch_v, det_v], dim=2)
            bias = cross.key_bias.to(q.dtype)
        dropout = attention_dropout(block.attn)
        det_out = F.scaled_dot_product_attention(q[:, :, -n:], det_k, det_v, attn_mask=bias, dropout_p=dropout)
        body_out = self._attend_body(i, q[:, :, :-n], k[:, :, :-n], v[:, :, :-n], grid, rope)
        return finish(block, tokens, torch.cat([body_out, det_out], dim=2))

    def _attend_body(self, i: int, q: Tensor, k: Tensor, v: Tensor, grid: Grid, rope: Tensor | None) -> Tensor:
        """The body's own attention, global or in windows."""
        attn = self.body.blocks[i].attn
        if rope is not None:
            q, k = rotate(attn, q, rope, grid.prefix), rotate(attn, k, rope, grid.prefix)
        if self.window is None or i in self.global_blocks:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=attention_dropout(attn))
        return window_attention(q, k, v, grid, self.window, attention_dropout(attn))


def check_blocks(name: str, given: Sequence[int] | None, default: Sequence[int], depth: int) -> tuple[int, ...]:
    """The given block numbers or else the default ones.

    Raises:
        ValueError: a given number is not in 0 .. `depth` - 1; the message begins with `name`.
    """
    if bad := [i for i in given or () if i not in range(depth)]:
        raise ValueError(f"{name} {bad} do not exist: there are blocks 0 to {depth - 1}")
    return tuple(default if given is None else given)
