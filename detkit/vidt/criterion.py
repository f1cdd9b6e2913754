"""The training objective of ViDT: matched focal, L1 and GIoU terms at every stage (arXiv 2110.03921, appendix A).

Shape letters: s stages, b images, q queries, t objects (padded), k classes, m matched pairs of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh
from detkit.registry import register
from detkit.structures import Annotations
from detkit.vidt.matching import Matches, Targets, match, matching_cost
from detkit.vidt.proposals import DensePredictions, assign_positions
from detkit.vidt.stages import Stages


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002) of independent classifiers, element by element; targets are 0 or 1."""
    prob = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = prob * (1 - targets) + (1 - prob) * targets
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * missed**gamma * cross_entropy


def pad_targets(annotations: Sequence[Annotations], sizes: Sequence[tuple[int, int]], device: torch.device) -> Targets:
    """Objects of a batch as one padded table; boxes become relative to the image sizes (h, w)."""
    counts = [len(a) for a in annotations]
    labels = torch.zeros(len(counts), max(counts, default=0), dtype=torch.int64, device=device)
    boxes = torch.zeros(*labels.shape, 4, device=device)
    for i, (objects, (h, w)) in enumerate(zip(annotations, sizes, strict=True)):
        scale = torch.tensor([w, h, w, h], dtype=torch.float32, device=device)
        labels[i, : counts[i]] = objects.labels.to(device)
        boxes[i, : counts[i]] = xyxy_to_cxcywh(objects.boxes.to(device).float()) / scale
    return Targets(labels, boxes, counts)


@register
class SetCriterion:
    """Weighted loss terms of `Stages` against annotations.

    The last stage's terms are `loss_ce`, `loss_bbox` and `loss_giou`; those of stage i end in `_i`. Each is summed
    over queries or matched pairs and divided by the number of objects. All arithmetic is float32.

    Args:
        class_weight: weight of the focal loss, and of the class cost in matching.
        box_weight: the same of the L1 distance of relative cxcywh boxes.
        giou_weight: the same of 1 - GIoU.
        positives: positions that each object claims in the dense predictions of a model with proposals; their terms
            end in `_dense` and are divided by `positives` too.
    """

    def __init__(
        self, *, class_weight: float = 2.0, box_weight: float = 5.0, giou_weight: float = 2.0, positives: int = 8
    ):
        self.class_weight, self.box_weight, self.giou_weight = class_weight, box_weight, giou_weight
        self.positives = positives

    def __call__(
        self,
        stages: Stages,
        annotations: Sequence[Annotations],
        sizes: Sequence[tuple[int, int]],
        num_objects: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms for images of `sizes` (h, w), over `num_objects` (default: those in the batch, at least 1)."""
        targets = pad_targets(annotations, sizes, stages.logits.device)
        with torch.autocast(stages.logits.device.type, enabled=False):
            if num_objects is None:
                num_objects = torch.tensor(float(max(1, sum(targets.counts))), device=stages.logits.device)
            terms = self.terms(stages, targets, self.match(stages, targets))
            losses = {
                name if s == len(term) - 1 else f"{name}_{s}": value / num_objects
                for name, term in terms.items()
                for s, value in enumerate(term.unbind())
            }
            return losses | self.dense_losses(stages.dense, targets, num_objects)

    def terms(self, stages: Stages, targets: Targets, matches: Matches) -> dict[str, Tensor]:
        """Weighted, summed terms of each stage, `[s]`."""
        l1, giou = self.box_losses(stages, targets, matches)
        return {
            "loss_ce": self.class_weight * self.class_loss(stages, targets, matches),
            "loss_bbox": self.box_weight * l1,
            "loss_giou": self.giou_weight * giou,
        }

    def dense_losses(self, dense: DensePredictions | None, targets: Targets, num_objects: Tensor) -> dict[str, Tensor]:
        """The same terms of dense predictions."""
        if dense is None:
            return {}
        stage = Stages(dense.logits[None], dense.boxes[None])
        cost = matching_cost(stage.logits, stage.boxes, targets, **self.costs)[0]
        matches = assign_positions(dense, targets, cost, self.positives)
        terms = self.terms(stage, targets, matches)
        return {f"{name}_dense": term[0] / (num_objects * self.positives) for name, term in terms.items()}

    @property
    def costs(self) -> dict[str, float]:
        """The weights of `matching_cost`, equal to those of the loss terms."""
        return dict(class_cost=self.class_weight, box_cost=self.box_weight, giou_cost=self.giou_weight)

    def match(self, stages: Stages, targets: Targets) -> Matches:
        return match(matching_cost(stages.logits, stages.boxes, targets, **self.costs), targets.counts)

    def class_loss(self, stages: Stages, targets: Targets, matches: Matches) -> Tensor:
        """Summed focal loss of each stage, `[s]`."""
        logits = stages.logits.float()
        wanted = torch.zeros_like(logits)
        labels = targets.labels[matches.image, matches.target]
        wanted[matches.stage, matches.image, matches.query, labels] = 1
        return sigmoid_focal_loss(logits, wanted).sum((1, 2, 3))

    def box_losses(self, stages: Stages, targets: Targets, matches: Matches) -> tuple[Tensor, Tensor]:
        """Summed L1 distance and 1 - GIoU of the matched pairs of each stage, both `[s]`."""
        predicted = stages.boxes[matches.stage, matches.image, matches.query].float()
        wanted = targets.boxes[matches.image, matches.target]
        l1 = (predicted - wanted).abs().sum(-1)
        giou = 1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        # Every stage has the same number of pairs, in order.
        return l1.view(len(stages.boxes), -1).sum(1), giou.view(len(stages.boxes), -1).sum(1)
