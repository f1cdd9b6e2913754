"""The training objective of SOLOv2 (arXiv 2003.10152, section 3.1).

Shape letters: b images, k classes, p cells of all levels, r pairs of cell and object, m rows, q pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from detkit.ops.linear import linear
from detkit.pointseg.grid import GridLevels, GridTargets, Objects, assign
from detkit.pointseg.heads import SoloOutputs
from detkit.registry import register
from detkit.registry.ranges import NonNegativeFloat, Share
from detkit.structures import Annotations


def dice_distance(prob: Tensor, target: Tensor) -> Tensor:
    """1 - the Dice coefficient with squared sums (V-Net, arXiv 1606.04797) of each row of `[m, q]`: `[m]`."""
    common = (prob * target).sum(1)
    return 1 - 2 * common / ((prob.square().sum(1) + 0.001) + (target.square().sum(1) + 0.001))


def focal_loss_sum(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002) of independent classifiers, summed.

    Args:
        logits: [b, k, p].
        labels: [b, p] int64; k means "no class".
        alpha: weight of positive entries; negative ones have 1 - alpha.
        gamma: exponent of the probability that was missed.
    """

    # All entries are summed as negative, then the few positive ones are corrected: no target as large as the logits.
    def term(logit: Tensor, weight: float) -> Tensor:
        """The loss of entries whose logit should be low."""
        return weight * (logit.sigmoid() ** gamma * F.softplus(logit)).sum()

    image, cell = (labels < logits.shape[1]).nonzero(as_tuple=True)
    positive = logits[image, labels[image, cell], cell]
    return term(logits, 1 - alpha) + term(-positive, alpha) - term(positive, 1 - alpha)


@register
class SoloCriterion:
    """The weighted loss terms of `SoloOutputs` against annotations with masks.

    `loss_mask` is the mean Dice distance over all pairs of an object and one of its cells; `loss_class` is the focal
    loss of all cells, divided by the number of positive cells + 1. All arithmetic is float32.

    With gradient accumulation or several processes the number of objects is given from outside. Both terms are then
    weighted by this batch's share of it (at least one object).

    Args:
        mask_weight, class_weight: weights of the terms.
        alpha, gamma: of the focal loss.

    Raises:
        ValueError: both weights are 0.
    """

    def __init__(
        self,
        *,
        mask_weight: NonNegativeFloat = 3.0,
        class_weight: NonNegativeFloat = 1.0,
        alpha: Share = 0.25,
        gamma: Annotated[float, Ge(0), Le(100)] = 2.0,
    ):
        if not mask_weight + class_weight > 0:
            raise ValueError("mask_weight and class_weight are both 0: nothing would be learned")
        self.mask_weight, self.class_weight = mask_weight, class_weight
        self.alpha, self.gamma = alpha, gamma

    def __call__(
        self,
        outputs: SoloOutputs,
        annotations: Sequence[Annotations],
        grids: GridLevels,
        num_objects: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms; boxes and masks of the annotations in pixels of the unpadded input of the network.

        Raises:
            ValueError: objects without masks.
        """
        features = outputs.mask_features
        frame = (4 * features.shape[2], 4 * features.shape[3])
        with torch.autocast(features.device.type, enabled=False):
            objects = Objects.from_annotations(annotations, frame, features.device)
            targets = assign(objects, grids, frame, len(annotations))
            distances = self.mask_distances(outputs, objects, targets)
            logits = outputs.flat_category().float()
            labels = targets.labels(objects, background=logits.shape[1])
            positives = (targets.owner >= 0).sum() + 1
            losses = {
                "loss_mask": self.mask_weight * distances.sum() / max(1, len(distances)),
                "loss_class": self.class_weight * self.class_loss(logits, labels) / positives,
            }
        if num_objects is None:
            return losses
        share = max(1, sum(len(a) for a in annotations)) / num_objects
        return {name: loss * share for name, loss in losses.items()}

    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The focal loss summed over all cells and classes, a scalar; see `focal_loss_sum` for the shapes."""
        return focal_loss_sum(logits, labels, alpha=self.alpha, gamma=self.gamma)

    def mask_distances(self, outputs: SoloOutputs, objects: Objects, targets: GridTargets) -> Tensor:
        """Dice distance of each pair of cell and object, `[r]`; a single 0 if there is no pair."""
        kernels, features = outputs.flat_kernels().float(), outputs.mask_features.float()
        if len(targets.row_cell) == 0:
            return (0 * (kernels.sum() + features.sum()))[None]  # keeps every parameter in the graph
        image = objects.image[targets.row_object]
        kernels = kernels[image, :, targets.row_cell]
        assert objects.masks is not None
        distances = []
        counts = image.bincount(minlength=len(features)).tolist()
        for feature, kernel, own in zip(features, kernels.split(counts), targets.row_object.split(counts), strict=True):
            wanted = objects.masks.index_select(0, own).flatten(1).float()
            distances.append(dice_distance(linear(kernel, feature.flatten(1).T).sigmoid(), wanted))
        return torch.cat(distances)
