"""What a ViDT model predicts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detkit.vidt.proposals import DensePredictions


@dataclass
class Stages:
    """The predictions of every stage: first the det tokens straight from the backbone, then each decoder layer.

    Attributes:
        logits: [s, b, n, classes], one sigmoid classifier for each class.
        boxes: [s, b, n, 4], cxcywh relative to the unpadded image, in 0..1.
        dense: the dense predictions that the det tokens started from, where the model makes proposals.
    """

    logits: Tensor
    boxes: Tensor
    dense: DensePredictions | None = None
