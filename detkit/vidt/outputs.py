"""What a ViDT model predicts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detkit.vidt.proposals import DensePredictions


@dataclass
class DistillationFeatures:
    """What the predictions were made from, in the order of the network; a distilled student learns from these.

    Attributes:
        patches: [b, s, c], the maps as the decoder sees them, flattened and concatenated over levels.
        shapes: (h, w) of each level.
        det: [b, n, c], the det tokens as they enter the decoder.
        stages: [s, b, n, c], the det tokens of every stage.
    """

    patches: Tensor
    shapes: list[tuple[int, int]]
    det: Tensor
    stages: Tensor


@dataclass
class Stages:
    """The predictions of every stage: first the det tokens straight from the backbone, then each decoder layer.

    Attributes:
        logits: [s, b, n, classes], one sigmoid classifier for each class.
        boxes: [s, b, n, 4], cxcywh relative to the unpadded image, in 0..1.
        dense: the dense predictions that the det tokens started from, where the model makes proposals.
        vectors: [s, b, n, coefficients], the mask in the box (see `detkit.vidt.masks`), where the model predicts masks.
        ious: [s, b, n, 1], a logit of the IoU of the box with its object, where the model predicts it.
        token_logits: [b, h, w, classes] of each level, where the model classifies positions.
        tokens: what all this was predicted from.
    """

    logits: Tensor
    boxes: Tensor
    dense: DensePredictions | None = None
    vectors: Tensor | None = None
    ious: Tensor | None = None
    token_logits: list[Tensor] | None = None
    features: DistillationFeatures | None = None
