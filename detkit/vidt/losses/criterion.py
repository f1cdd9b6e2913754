"""The training objective of ViDT (arXiv 2110.03921, appendix A) and ViDT+ (arXiv 2204.07962).

Focal loss of all queries, and L1 and GIoU loss of the matched boxes, at every stage. ViDT+ adds losses of the mask
vectors and the IoU of the matched boxes, and of the classes of all positions of the feature maps (token labeling).

Shape letters: s stages, b images, q queries, t objects (padded), k classes, m matched pairs of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.boxes import box_iou, cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh
from detkit.registry import register
from detkit.registry.ranges import NonNegativeFloat, Objects
from detkit.structures import Annotations
from detkit.vidt.losses.denoising import Denoised
from detkit.vidt.losses.matching import Assignment, Targets, hungarian_assignment, matching_cost
from detkit.vidt.losses.token_labels import dice_loss, token_targets
from detkit.vidt.masks import check_masks, masks_to_vectors
from detkit.vidt.outputs import Stages
from detkit.vidt.proposals import DensePredictions, assign_positions


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002) of independent classifiers, elementwise.

    Args:
        logits: any shape.
        targets: of the same shape, in 0..1.
        alpha: weight of positive targets; negative ones have 1 - alpha.
        gamma: exponent of the probability that was missed.
    """
    prob = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = prob * (1 - targets) + (1 - prob) * targets
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * missed**gamma * cross_entropy


def pad_targets(annotations: Sequence[Annotations], sizes: Sequence[tuple[int, int]], device: torch.device) -> Targets:
    """The objects of a batch, padded to one number; boxes become cxcywh relative to the image sizes (h, w)."""
    counts = [len(a) for a in annotations]
    labels = torch.zeros(len(counts), max(counts, default=0), dtype=torch.int64, device=device)
    boxes = torch.zeros(*labels.shape, 4, device=device)
    for i, (objects, (h, w)) in enumerate(zip(annotations, sizes, strict=True)):
        scale = torch.tensor([w, h, w, h], dtype=torch.float32, device=device)
        labels[i, : counts[i]] = objects.labels.to(device)
        boxes[i, : counts[i]] = xyxy_to_cxcywh(objects.boxes.to(device).float()) / scale
    return Targets(labels, boxes, counts)


def gather_matched(x_sbqc: Tensor, assignment: Assignment) -> Tensor:
    """The predictions of the matched pairs of all stages, `[s * m, c]` in float32."""
    return x_sbqc[assignment.stage, assignment.image, assignment.query].float()


def sum_stages(values_m: Tensor, stages: Stages) -> Tensor:
    """The sum over the matched pairs of each stage, `[s]`, of values `[s * m]`.

    All stages have equally many pairs, and their values follow each other in the order of the stages.
    """
    return values_m.view(len(stages.boxes), -1).sum(1)


def losses_by_stage(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split terms `[s]` into one term for each stage: "name_0", "name_1", ..., and "name" for the last stage."""
    return {
        name if stage == len(term) - 1 else f"{name}_{stage}": value
        for name, term in terms.items()
        for stage, value in enumerate(term.unbind())
    }


@register
class SetCriterion:
    """The weighted loss terms of `Stages` against annotations. There are only terms whose predictions the stages have.

    Terms of the last stage are `loss_ce`, `loss_bbox`, `loss_giou`, `loss_iouaware` and `loss_vector`; those of stage i
    end in `_i`. Each is summed over queries or matched pairs and divided by the number of objects. `loss_token_focal`
    and `loss_token_dice` are summed over the levels and divided by the number of objects. All arithmetic is float32.

    `loss_vector` is the mean over matched pairs and coefficients. With gradient accumulation or several processes the
    number of objects is given from outside and takes the place of the number of pairs; the two differ only where an
    image has more objects than queries.

    Terms of denoising queries are called `loss_ce_denoising` and so on; the number of groups divides them too.

    Args:
        class_weight: weight of the focal loss, and of the class cost in matching.
        box_weight: weight of the L1 distance of relative cxcywh boxes, as loss and as matching cost.
        giou_weight: weight of 1 - GIoU, as loss and as matching cost.
        iou_weight: weight of the cross entropy between the predicted and the actual IoU of box and object. It has a
            gradient for the boxes too, through the actual IoU.
        vector_weight: weight of the L1 distance of mask vectors.
        token_weight: weight of both the focal and the Dice loss of token labels.
        official: token labels as in the authors' code: output 0 is "any object", see `token_targets`. By default label
            0 is a class like any other.
        positives: with proposals, positions of the dense predictions that are assigned to each object. The terms of
            dense predictions end in `_dense` and are divided by `positives` too.

    Raises:
        ValueError: the weights of classes and boxes are all 0.
    """

    def __init__(
        self,
        *,
        class_weight: NonNegativeFloat = 2.0,
        box_weight: NonNegativeFloat = 5.0,
        giou_weight: NonNegativeFloat = 2.0,
        iou_weight: NonNegativeFloat = 2.0,
        vector_weight: NonNegativeFloat = 3.0,
        token_weight: NonNegativeFloat = 2.0,
        official: bool = False,
        positives: Objects = 8,
    ):
        if not class_weight + box_weight + giou_weight > 0:
            raise ValueError("class_weight, box_weight and giou_weight are all 0: nothing would be learned")
        self.class_weight, self.box_weight, self.giou_weight = class_weight, box_weight, giou_weight
        self.iou_weight, self.vector_weight, self.token_weight = iou_weight, vector_weight, token_weight
        self.official = official
        self.positives = positives

    def __call__(
        self,
        stages: Stages,
        annotations: Sequence[Annotations],
        sizes: Sequence[tuple[int, int]],
        num_objects: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms for images of `sizes` (h, w), over `num_objects` (default: those in the batch, at least 1).

        Raises:
            ValueError: masks or token labels are predicted, but objects have no masks.
        """
        device = stages.logits.device
        annotations = [objects.to(device) for objects in annotations]
        if stages.vectors is not None or stages.token_logits is not None:
            check_masks(annotations, sizes)
        targets = pad_targets(annotations, sizes, device)
        with torch.autocast(device.type, enabled=False):
            assignment = self.match(stages, targets)
            vector_losses = self.vector_losses(stages, annotations, sizes, assignment, num_objects)
            if num_objects is None:
                num_objects = torch.tensor(float(max(1, sum(targets.counts))), device=device)
            terms = self.terms(stages, targets, assignment)
            losses = losses_by_stage({name: term / num_objects for name, term in terms.items()})
            token_losses = self.token_losses(stages.token_logits, annotations, sizes, num_objects)
            dense_losses = self.dense_losses(stages.dense, targets, num_objects)
            denoising_losses = self.denoising_losses(stages.denoised, targets, num_objects)
            return losses | vector_losses | token_losses | dense_losses | denoising_losses

    def terms(self, stages: Stages, targets: Targets, assignment: Assignment) -> dict[str, Tensor]:
        """The weighted terms of each stage, `[s]`, summed over queries or matched pairs."""
        l1, giou = self.box_losses(stages, targets, assignment)
        terms = {
            "loss_ce": self.class_weight * self.class_loss(stages, targets, assignment),
            "loss_bbox": self.box_weight * l1,
            "loss_giou": self.giou_weight * giou,
        }
        if stages.ious is not None:
            terms["loss_iouaware"] = self.iou_weight * self.iou_loss(stages.ious, stages, targets, assignment)
        return terms

    def dense_losses(self, dense: DensePredictions | None, targets: Targets, num_objects: Tensor) -> dict[str, Tensor]:
        """The weighted terms of a proposal head's dense predictions, each a scalar; no terms where there are none."""
        if dense is None:
            return {}
        stage = Stages(dense.logits[None], dense.boxes[None])
        cost = matching_cost(stage.logits, stage.boxes, targets, **self.costs)[0]
        assignment = assign_positions(dense, targets, cost, self.positives)
        terms = self.terms(stage, targets, assignment)
        return {f"{name}_dense": term[0] / (num_objects * self.positives) for name, term in terms.items()}

    def denoising_losses(self, denoised: Denoised | None, targets: Targets, num_objects: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the denoising queries, each a scalar; no terms where there are none."""
        if denoised is None:
            return {}
        stages = Stages(denoised.counted_logits(), denoised.boxes)
        terms = self.terms(stages, targets, denoised.assignment())
        scale = num_objects * denoised.noised.groups
        return losses_by_stage({f"{name}_denoising": term / scale for name, term in terms.items()})

    @property
    def costs(self) -> dict[str, float]:
        """The weights of `matching_cost`, equal to those of the loss terms."""
        return dict(class_cost=self.class_weight, box_cost=self.box_weight, giou_cost=self.giou_weight)

    def match(self, stages: Stages, targets: Targets) -> Assignment:
        """The one-to-one assignment of queries and objects at the lowest cost in every stage (Hungarian matching)."""
        return hungarian_assignment(matching_cost(stages.logits, stages.boxes, targets, **self.costs), targets.counts)

    def class_loss(self, stages: Stages, targets: Targets, assignment: Assignment) -> Tensor:
        """Summed focal loss of each stage, `[s]`."""
        logits = stages.logits.float()
        wanted = torch.zeros_like(logits)
        labels = targets.labels[assignment.image, assignment.target]
        wanted[assignment.stage, assignment.image, assignment.query, labels] = 1
        return sigmoid_focal_loss(logits, wanted).sum((1, 2, 3))

    def box_losses(self, stages: Stages, targets: Targets, assignment: Assignment) -> tuple[Tensor, Tensor]:
        """Summed L1 distance and 1 - GIoU of the matched pairs of each stage, both `[s]`."""
        predicted, wanted = gather_matched(stages.boxes, assignment), targets.boxes[assignment.image, assignment.target]
        l1 = (predicted - wanted).abs().sum(-1)
        giou = 1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        return sum_stages(l1, stages), sum_stages(giou, stages)

    def iou_loss(self, ious_sbq1: Tensor, stages: Stages, targets: Targets, assignment: Assignment) -> Tensor:
        """Summed cross entropy of the IoU that each matched query predicts and that it has, `[s]`."""
        predicted, wanted = gather_matched(stages.boxes, assignment), targets.boxes[assignment.image, assignment.target]
        iou = box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        logits = gather_matched(ious_sbq1, assignment)[:, 0]
        return sum_stages(F.binary_cross_entropy_with_logits(logits, iou, reduction="none"), stages)

    def vector_losses(
        self,
        stages: Stages,
        annotations: Sequence[Annotations],
        sizes: Sequence[tuple[int, int]],
        assignment: Assignment,
        num_objects: Tensor | None,
    ) -> dict[str, Tensor]:
        """Weighted mean L1 distance of the mask vectors, a scalar for each stage; empty where there are no vectors."""
        if stages.vectors is None:
            return {}
        wanted = masks_to_vectors(annotations, sizes, stages.vectors.shape[-1])[assignment.image, assignment.target]
        distance = (gather_matched(stages.vectors, assignment) - wanted).abs().mean(-1)
        pairs = max(1, len(distance) // len(stages.vectors)) if num_objects is None else num_objects
        return losses_by_stage({"loss_vector": self.vector_weight * sum_stages(distance, stages) / pairs})

    def token_losses(
        self,
        token_logits: Sequence[Tensor] | None,
        annotations: Sequence[Annotations],
        sizes: Sequence[tuple[int, int]],
        num_objects: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted focal and Dice loss of token labels, both summed over the levels and divided by `num_objects`.

        The focal loss of a level is averaged over its positions. There are no terms where there are no token logits.

        Args:
            token_logits: [b, h, w, k] of each level.
            annotations: objects with masks.
            sizes: (h, w) of the unpadded images.
            num_objects: what the terms are divided by.
        """
        if token_logits is None:
            return {}
        frame = max(h for h, _ in sizes), max(w for _, w in sizes)
        shapes = [(level.shape[1], level.shape[2]) for level in token_logits]
        num_classes = token_logits[0].shape[-1]
        targets = token_targets(annotations, frame, shapes, num_classes, official=self.official)
        focal = dice = torch.zeros((), device=num_objects.device)
        for logits, (h, w), target in zip(token_logits, shapes, targets, strict=True):
            focal = focal + sigmoid_focal_loss(logits.float(), target).sum() / (h * w)
            dice = dice + dice_loss(logits.float(), target).sum()
        scale = self.token_weight / num_objects
        return {"loss_token_focal": focal * scale, "loss_token_dice": dice * scale}
