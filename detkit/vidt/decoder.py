"""The encoder-free deformable decoder of ViDT (arXiv 2110.03921, section 3.2).

Shape letters: b images, q queries ([DET] tokens), s positions of all levels together, c channels, m heads,
l levels, p points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.ops.deformable_attention import project_and_attend
from detkit.ops.linear import Linear, linear


@dataclass
class AttentionMask:
    """Which queries a decoder layer's self-attention may not look at.

    Attributes:
        blocked: [q, q] bool, True where the query of the row may not look at that of the column.
        padding: [b, q] bool, True for queries that nobody may look at.
    """

    blocked: Tensor
    padding: Tensor


@dataclass
class Memory:
    """The feature maps of one batch, flattened and concatenated over levels.

    Attributes:
        features: [b, s, c].
        padding: [b, s] bool, True on padding.
        shapes: (h, w) of each level.
        valid_ratios: [b, l, 2], unpadded width over width and unpadded height over height of each level, in 0..1.
    """

    features: Tensor
    padding: Tensor
    shapes: list[tuple[int, int]]
    valid_ratios: Tensor

    @classmethod
    def from_maps(cls, maps: Sequence[Tensor], masks: Sequence[Tensor]) -> Memory:
        """Of the maps `[b, c, h, w]` of each level and their padding masks `[b, h, w]`, True on padding."""
        features = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        padding = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        ratios = [torch.stack([(~m[:, 0]).float().mean(1), (~m[:, :, 0]).float().mean(1)], dim=-1) for m in masks]
        return cls(features, padding, [(m.shape[2], m.shape[3]) for m in maps], torch.stack(ratios, dim=1))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """logit(x) of values in 0..1, in float32; between logit(eps) and logit(1 - eps), so finite at 0 and 1."""
    x = x.float().clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class DeformableAttention(nn.Module):
    """Each query samples `points` places around its reference on every level (arXiv 2010.04159, section 4.1).

    Args:
        dim: channels of queries and maps.
        levels: feature maps.
        heads: attention heads, a divisor of `dim`.
        points: places that a head samples on a level.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, levels: int, heads: int, points: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} channels do not divide into {heads} heads")
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = Linear(dim, heads * levels * points * 2)
        self.attention_weights = Linear(dim, heads * levels * points)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self._init_weights()

    def _init_weights(self):
        """Each head starts with a direction of its own; its point i lies i + 1 cells away from the reference."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angles.cos(), angles.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1.0, self.points + 1)
        offsets = direction[:, None, None, :] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for weight in (self.sampling_offsets.weight, self.attention_weights.weight):
            nn.init.zeros_(weight)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)

    def forward(self, query_bqc: Tensor, references_bql: Tensor, memory: Memory) -> Tensor:
        """What each query gathers from the places that it samples, `[b, q, c]`.

        Args:
            query_bqc: the queries with their positions added.
            references_bql: `[b, q, l, 2]` points or `[b, q, l, 4]` boxes (cxcywh), relative to the padded maps. Offsets
                from a point are in cells of the level, those from a box in 1 / (2 * points) of its width and height.
            memory: the maps.
        """
        b, q, _ = query_bqc.shape
        offsets = self.sampling_offsets(query_bqc).float()
        offsets = offsets.view(b, q, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query_bqc).float().view(b, q, self.heads, -1).softmax(-1)
        references = references_bql[:, :, None, :, None, :]
        if references.shape[-1] == 2:
            scale = 1 / references.new_tensor([(w, h) for h, w in memory.shapes])[:, None, :]
        else:
            scale = references[..., 2:] * (0.5 / self.points)
        locations = references[..., :2] + offsets * scale
        weights = weights.view(*offsets.shape[:-1])
        sampled = project_and_attend(
            memory.features, memory.padding, self.value_proj, memory.shapes, locations, weights
        )
        return self.output_proj(sampled)


class DecoderLayer(nn.Module):
    """[DET] self-attention, deformable attention to the maps, and a feed-forward network, each followed by a norm."""

    def __init__(self, dim: int, levels: int, *, heads: int, points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, levels, heads, points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, ffn_dim)
        self.linear2 = Linear(ffn_dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.xavier_uniform_(self.self_attn.out_proj.weight)

    def forward(
        self, det_bqc: Tensor, det_pos: Tensor, references: Tensor, memory: Memory, mask: AttentionMask | None = None
    ) -> Tensor:
        """The refined det tokens, `[b, q, c]`.

        Args:
            det_bqc: [DET] tokens.
            det_pos: position embeddings, `[1, q, c]` or `[b, q, c]`; added to queries and keys, not to values.
            references: where the deformable attention looks, see `DeformableAttention.forward`.
            memory: the maps.
            mask: which queries the self-attention may not look at; by default it looks at all.
        """
        query = det_bqc + det_pos
        det = self.norm2(det_bqc + self.dropout(self._attend(query, det_bqc, mask)))
        sampled = self.cross_attn(det + det_pos, references, memory)
        det = self.norm1(det + self.dropout(sampled))
        hidden = self.dropout(F.relu(self.linear1(det)))
        return self.norm3(det + self.dropout(self.linear2(hidden)))

    def _attend(self, query_bqc: Tensor, value_bqc: Tensor, mask: AttentionMask | None = None) -> Tensor:
        """The self-attention; without gradients its products are those of `detkit.ops.linear`."""
        attn = self.self_attn
        if mask is not None:
            masks = dict(key_padding_mask=mask.padding, attn_mask=mask.blocked)
            return attn(query_bqc, query_bqc, value_bqc, need_weights=False, **masks)[0]
        if self.training or torch.is_grad_enabled():
            return attn(query_bqc, query_bqc, value_bqc, need_weights=False)[0]
        weights, biases = (p.tensor_split([2 * attn.embed_dim]) for p in (attn.in_proj_weight, attn.in_proj_bias))
        parts = [*linear(query_bqc, weights[0], biases[0]).chunk(2, dim=-1), linear(value_bqc, weights[1], biases[1])]
        heads = [x.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for x in parts]
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return linear(attended, attn.out_proj.weight, attn.out_proj.bias)


class HeadMlp(nn.Module):
    """A prediction head: linear layers with ReLU between; the last layer starts with zeros."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, num_layers: int = 3):
        super().__init__()
        dims = [dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(dims))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` to `[..., out_dim]`."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
