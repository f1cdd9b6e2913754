"""The prediction heads of ViDT and ViDT+, which are applied to the det tokens of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from detkit.vidt.decoder import HeadMlp


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
