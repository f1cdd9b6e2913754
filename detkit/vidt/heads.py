"""The prediction heads of ViDT and ViDT+: what is read from the det tokens of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from detkit.vidt.decoder import HeadMlp


def stage_heads(make: Callable[[], nn.Module], stages: int, *, shared: bool) -> nn.ModuleList:
    """A head for each stage, or one that stands at every stage."""
    return nn.ModuleList([make()] * stages if shared else [make() for _ in range(stages)])


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """Classifiers whose first scores are 0.01."""
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - 0.01) / 0.01))
    return head


def vector_head(dim: int, hidden_dim: int, coefficients: int) -> HeadMlp:
    """A mask vector; from the third coefficient on it starts at -2, as the official code has it."""
    head = HeadMlp(dim, hidden_dim, coefficients)
    nn.init.constant_(head.layers[-1].bias[2:], -2.0)
    return head


def iou_head(dim: int) -> HeadMlp:
    """A logit of the IoU; unlike the other heads it starts at random."""
    head = HeadMlp(dim, dim, 1)
    head.layers[-1].reset_parameters()
    return head
