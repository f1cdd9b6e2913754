"""The projections before the decoder of ViDT and ViDT+, and the heads that predict from the det tokens of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detkit.vidt.decoder import HeadMlp


def input_projection(conv: type[nn.Module], channels: int, hidden_dim: int) -> nn.Sequential:
    """A 1 x 1 convolution and a group norm."""
    groups = min(32, hidden_dim // 8)
    if not groups or hidden_dim % groups:
        raise ValueError(f"hidden_dim must be a multiple of 8, and of 32 where it is larger than 256, got {hidden_dim}")
    layer = conv(channels, hidden_dim, 1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.GroupNorm(groups, hidden_dim))


def apply_heads(heads: nn.ModuleList, det_of_stage: Sequence[Tensor]) -> Tensor:
    """The predictions `[s, b, n, ...]` of all stages, each by its own head of the list."""
    return torch.stack([head(det) for head, det in zip(heads, det_of_stage, strict=True)])


def stage_heads(make: Callable[[], nn.Module], stages: int, *, shared: bool) -> nn.ModuleList:
    """The heads of all stages: one for each stage, or with `shared` one and the same for all."""
    return nn.ModuleList([make()] * stages if shared else [make() for _ in range(stages)])


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """A linear classifier whose scores start at 0.01."""
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - 0.01) / 0.01))
    return head


def vector_head(dim: int, hidden_dim: int, coefficients: int) -> HeadMlp:
    """The head for mask vectors. As in the authors' code its output starts at -2 from the third coefficient on."""
    head = HeadMlp(dim, hidden_dim, coefficients)
    nn.init.constant_(head.layers[-1].bias[2:], -2.0)
    return head


def iou_head(dim: int) -> HeadMlp:
    """The head for the logit of the IoU; unlike the other heads its last layer starts with random weights."""
    head = HeadMlp(dim, dim, 1)
    head.layers[-1].reset_parameters()
    return head
