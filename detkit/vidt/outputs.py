"""The outputs of a ViDT model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detkit.vidt.losses.denoising import Denoised
from detkit.vidt.proposals import DensePredictions


@dataclass
class DistillationFeatures:
    """The features that the predictions are made from; distillation compares those of student and teacher.

    Attributes:
        patches: [b, s, c], the feature maps as the decoder reads them, flattened and concatenated over levels.
        shapes: (h, w) of each level.
        det: [b, n, c], the det tokens that enter the decoder.
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
        dense: the dense predictions from which proposals were chosen, or None.
        vectors: [s, b, n, coefficients], mask vectors (see `detkit.vidt.masks`), or None.
        ious: [s, b, n, 1], the logit of the IoU of the box with its object, or None.
        token_logits: [b, h, w, classes] of each level, the classes of the positions (token labeling), or None.
        features: what the predictions were made from, for distillation, or None.
        denoised: the predictions of denoising queries, or None.
    """

    logits: Tensor
    boxes: Tensor
    dense: DensePredictions | None = None
    vectors: Tensor | None = None
    ious: Tensor | None = None
    token_logits: list[Tensor] | None = None
    features: DistillationFeatures | None = None
    denoised: Denoised | None = None
