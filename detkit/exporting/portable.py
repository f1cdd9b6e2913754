"""Parts of models in operators that other runtimes have, and have fast.

The numbers are those of the parts that they replace, up to rounding. They are made for a copy of a model, see
`portable_copy`.

Shape letters: b images, q queries, m heads, d channels of a head, l levels, p points, c channels, s positions of all
levels, h/w cells, k patches of a window.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.backbones.layers import DetAttention, plain_attention
from detkit.backbones.swin import Block
from detkit.backbones.windows import WindowOrder, region_mask
from detkit.ops.kept import KeptResult
from detkit.vidt.decoder import DeformableAttention

M = TypeVar("M", bound=nn.Module)


def portable_copy(model: M, *, fixed_size: bool) -> M:
    """A copy of a model for inference, with its parts replaced where that helps other runtimes.

    It must be called once with inputs of the size that it is exported with before it is traced.

    Args:
        fixed_size: all images will have one size, so that where patches stand in windows is known beforehand.
    """
    made = copy.deepcopy(model).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, DetAttention):
            module.attend = plain_attention  # type: ignore[method-assign,misc]
        if isinstance(module, Block) and fixed_size:
            module._window_attention = GatheredWindows(module)  # type: ignore[method-assign]
            module._in_portions = partial(patches_at_once, module)  # type: ignore[method-assign]
        for name, value in vars(module).items():
            if isinstance(value, KeptResult):
                setattr(module, name, FirstResult())
    return made


class FirstResult(KeptResult):
    """A result that depends on weights alone, for weights that never change: it becomes a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.result: Tensor | None = None

    def get(self, weights, compute) -> Tensor:
        """The result of the first call."""
        if self.result is None:
            self.result = compute()
        return self.result


def patches_at_once(block: Block, x_bhwc: Tensor, patches_bhwc: Tensor) -> Tensor:
    """What `Block._in_portions` gives, not in portions."""
    x = x_bhwc + block._window_attention(patches_bhwc, None)  # type: ignore[arg-type]
    return x + block.mlp(block.norm2(x))


class GatheredWindows:
    """The window attention of a Swin block for maps of one size: patches are gathered into windows by their numbers.

    Windows that shifting puts together from apart are attended to by themselves, with a bias of their own.
    """

    def __init__(self, block: Block):
        self.attn, self.size, self.shift = block.attn, block.window, block.shift
        self.order: WindowOrder | None = None
        self.bias_whole = self.bias_mixed = torch.zeros(0)

    def prepare(self, height: int, width: int) -> WindowOrder:
        """Compute what does not depend on the image."""
        order = WindowOrder.of(height, width, self.size, self.shift)
        self.bias_whole = self.attn.relative_positions().contiguous()
        self.bias_mixed = self.bias_whole + region_mask(order.regions)[:, None]
        return order

    def __call__(self, x_bhwc: Tensor, regions: Tensor | None) -> Tensor:
        """What `Block._window_attention` gives."""
        b, h, w, c = x_bhwc.shape
        if self.order is None:
            self.order = self.prepare(h, w)
        order = self.order
        x = F.pad(x_bhwc, (0, 0, 0, -w % self.size, 0, -h % self.size)).flatten(1, 2)
        parts = [self._attend(x, order.rows[: order.whole], self.bias_whole)] if order.whole else []
        if len(order.regions):
            parts.append(self._attend(x, order.rows[order.whole :], self.bias_mixed))
        joined = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return self.attn.proj(joined.index_select(1, order.back)).view(b, h, w, c)

    def _attend(self, x_bsc: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        b, _, c = x_bsc.shape
        windows, tokens = rows.shape
        x = x_bsc.index_select(1, rows.flatten()).view(b * windows, tokens, c)
        if len(bias) > 1:
            bias = bias.expand(b, *bias.shape).flatten(0, 1)
        q, k, v = self.attn.heads(self.attn.qkv(x), 3)
        attended = plain_attention(q, k, v, bias)
        return attended.transpose(1, 2).reshape(b, windows * tokens, c)


@dataclass
class ProjectedMaps:
    """Feature maps after the value projections of all decoder layers, which read them once.

    Attributes:
        values: of each layer and level `[b * m, d, h, w]`, 0 on padding.
        shapes: (h, w) of each level.
    """

    values: list[list[Tensor]]
    shapes: list[tuple[int, int]]


class ValueProjections(nn.Module):
    """The value projections of several deformable attentions as one product with the maps as they are, `[c, h * w]`.

    The bias is the weight of a further channel that is 1, and on padding 0.
    """

    def __init__(self, attentions: list[DeformableAttention]):
        super().__init__()
        self.heads, self.layers = attentions[0].heads, len(attentions)
        weights = [torch.cat([a.value_proj.weight, a.value_proj.bias[:, None]], dim=1) for a in attentions]
        self.register_buffer("weight", torch.cat(weights).detach())

    def forward(self, maps: list[Tensor], masks: list[Tensor]) -> ProjectedMaps:
        """Project maps `[b, c, h, w]` with padding masks `[b, h, w]`, True on padding."""
        of_level = []
        for feature, mask in zip(maps, masks, strict=True):
            seen = (~mask)[:, None].to(feature.dtype)
            rows = torch.cat([feature * seen, seen], dim=1).flatten(2)
            value = torch.matmul(self.weight, rows)
            b, h, w = mask.shape
            of_level.append([v.reshape(b * self.heads, -1, h, w) for v in value.chunk(self.layers, dim=1)])
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        return ProjectedMaps([list(of_layer) for of_layer in zip(*of_level, strict=True)], shapes)


class GridAttention(nn.Module):
    """A `DeformableAttention` that reads maps which are projected already, by `grid_sample`."""

    def __init__(self, attention: DeformableAttention, layer: int):
        super().__init__()
        self.inner, self.layer = attention, layer

    def forward(self, query_bqc: Tensor, references_bql: Tensor, memory: ProjectedMaps) -> Tensor:
        """What `DeformableAttention.forward` gives."""
        inner, (b, q, _) = self.inner, query_bqc.shape
        offsets = inner.sampling_offsets(query_bqc).view(b, q, inner.heads, inner.levels, inner.points, 2)
        weights = inner.attention_weights(query_bqc).view(b, q, inner.heads, -1).softmax(-1)
        weights = weights.view(b, q, inner.heads, inner.levels, 1, inner.points)
        out: Tensor | float = 0.0
        for level, value in enumerate(memory.values[self.layer]):
            reference = references_bql[:, :, None, level, None]
            places = self._places(reference, offsets[:, :, :, level], memory.shapes[level])
            grid = (2 * places - 1).transpose(1, 2).reshape(b * inner.heads, q, inner.points, 2)
            samples = F.grid_sample(value, grid, align_corners=False)  # [b * m, d, q, p]
            weight = weights[:, :, :, level].transpose(1, 2).reshape(b * inner.heads, 1, q, inner.points)
            out = out + (samples * weight).sum(-1)
        assert isinstance(out, Tensor)
        return inner.output_proj(out.view(b, -1, q).transpose(1, 2))

    def _places(self, reference: Tensor, offsets: Tensor, shape: tuple[int, int]) -> Tensor:
        """Where to sample, relative to the padded map."""
        if reference.shape[-1] == 4:
            return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / self.inner.points))
        return reference + torch.stack([offsets[..., 0] / shape[1], offsets[..., 1] / shape[0]], dim=-1)
