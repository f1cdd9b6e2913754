"""ViDT without neck ("w.o. Neck", arXiv 2110.03921, section 4): predictions straight from the backbone's det tokens.

It is trained as DETR (arXiv 2005.12872): a softmax over the classes and "no object", and one Hungarian matching.

Shape letters: b images, n det tokens, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.modeling.base import InputRule
from detkit.modeling.image_model import ImageModel
from detkit.ops.boxes import cxcywh_to_xyxy, generalized_iou
from detkit.registry import register
from detkit.registry.ranges import Channels, OptionsOf
from detkit.structures import Annotations, Detections, ImageBatch, LabelMap
from detkit.vidt.decoder import HeadMlp
from detkit.vidt.heads import input_projection
from detkit.vidt.losses.criterion import pad_targets
from detkit.vidt.losses.matching import Assignment, Targets, hungarian_assignment
from detkit.vidt.outputs import Stages

CLASS_COST, BOX_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
NO_OBJECT_WEIGHT = 0.1


@register
class ViDTWithoutNeck(ImageModel):
    """A backbone with [DET] tokens, a class head and a box head.

    Args:
        backbone: gives `DetFeatures`, of which only the det tokens are used.
        num_classes: classes; the classifier has one further output, the last, for "no object".
        hidden_dim: channels of the heads.
        input_rule: arguments of `InputRule`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        hidden_dim: Channels = 256,
        input_rule: Annotated[Mapping[str, Any], OptionsOf(InputRule)] | None = None,
    ):
        super().__init__(LabelMap.numbered(num_classes), InputRule(**(input_rule or {})))
        self.backbone = backbone
        self.input_proj = input_projection(nn.Conv1d, backbone.det_channels, hidden_dim)
        self.class_embed = HeadMlp(hidden_dim, hidden_dim, num_classes + 1)
        self.bbox_embed = HeadMlp(hidden_dim, hidden_dim, 4)
        for head in (self.class_embed, self.bbox_embed):
            head.layers[-1].reset_parameters()

    @property
    def max_detections(self) -> int:
        """The number of det tokens: each finds at most one object."""
        return self.backbone.num_tokens

    def forward_stages(self, images: ImageBatch) -> Stages:
        """The predictions of the only stage for normalised images.

        The logits are `[1, b, n, k + 1]`. Their softmax gives the probabilities of the k classes and, last, of "no
        object".
        """
        found = self.backbone(images.images, images.mask)
        det = self.input_proj(found.det.transpose(1, 2)).transpose(1, 2)
        if self.training:  # the last map is not used, but distributed training wants a gradient for every parameter
            det = det + 0 * found.features[-1].mean()
        boxes = self.bbox_embed(det).float().sigmoid()
        return Stages(self.class_embed(det)[None], boxes[None])

    def losses(
        self, images: ImageBatch, annotations: Sequence[Annotations], num_objects: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted loss terms; boxes of the annotations in pixels of the unpadded `images`."""
        stages = self.forward_stages(images)
        with torch.autocast(stages.logits.device.type, enabled=False):
            predicted = SoftmaxPredictions(stages.logits[0].float(), stages.boxes[0])
            return softmax_losses(predicted, pad_targets(annotations, images.sizes, stages.boxes.device), num_objects)

    def postprocess(self, stages: Stages, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """One detection for each det token, by its best class other than "no object"; highest scores first.

        Boxes are in pixels of images of (h, w) `original_sizes`; they may reach beyond the image.
        """
        scores, labels = stages.logits[-1].float().softmax(-1)[..., :-1].max(-1)
        scores, order = scores.sort(dim=1, descending=True)
        scale = stages.boxes.new_tensor([(w, h, w, h) for h, w in original_sizes])
        boxes = cxcywh_to_xyxy(stages.boxes[-1].float()) * scale[:, None]
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        images = zip(boxes, scores, labels.gather(1, order), strict=True)
        return [Detections(*image, label_map=self.label_map) for image in images]

    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """One detection for each det token, best first; see `postprocess`.

        Args:
            images: normalised and padded.
            original_sizes: (h, w) of the images, in whose pixels the detections are.
        """
        return self.postprocess(self.forward_stages(images), original_sizes)


def model_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `ViDTWithoutNeck`, besides the backbone, that fit official weights."""
    outputs, hidden_dim = weights["class_embed.layers.2.weight"].shape
    return dict(type=ViDTWithoutNeck.__name__, num_classes=outputs - 1, hidden_dim=hidden_dim)


@dataclass
class SoftmaxPredictions:
    """Predictions of one stage: logits [b, n, k + 1], whose last is "no object", and boxes [b, n, 4] (cxcywh, 0..1)."""

    logits: Tensor
    boxes: Tensor

    @torch.no_grad()
    def match(self, targets: Targets) -> Assignment:
        """The one-to-one assignment of det tokens and objects at the lowest cost (class probability, L1 and GIoU)."""
        labels = targets.labels[:, None].expand(-1, self.boxes.shape[1], -1)
        cost_class = -self.logits.softmax(-1).gather(-1, labels)
        predicted, wanted = self.boxes[:, :, None], targets.boxes[:, None]
        cost_box = (predicted - wanted).abs().sum(-1)
        cost_giou = -generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        cost = CLASS_COST * cost_class + BOX_WEIGHT * cost_box + GIOU_WEIGHT * cost_giou
        return hungarian_assignment(cost[None], targets.counts)


def softmax_losses(
    predicted: SoftmaxPredictions, targets: Targets, num_objects: Tensor | None = None
) -> dict[str, Tensor]:
    """The losses of DETR: weighted mean cross-entropy; L1 and 1 - GIoU, summed over pairs and divided by the objects.

    Args:
        predicted: the predictions.
        targets: the objects of the batch.
        num_objects: objects of the whole optimizer step, for each process. The cross-entropy of this batch is then
            weighted by its share of them, so that accumulated batches give the gradient of one large batch.
    """
    assignment = predicted.match(targets)
    own = max(1, sum(targets.counts))
    total = predicted.boxes.new_tensor(float(own)) if num_objects is None else num_objects
    wanted = predicted.boxes[assignment.image, assignment.query], targets.boxes[assignment.image, assignment.target]
    l1 = (wanted[0] - wanted[1]).abs().sum()
    giou = 1 - generalized_iou(*map(cxcywh_to_xyxy, wanted))
    return {
        "loss_ce": _cross_entropy(predicted.logits, targets, assignment) * own / total,
        "loss_bbox": BOX_WEIGHT * l1 / total,
        "loss_giou": GIOU_WEIGHT * giou.sum() / total,
    }


def _cross_entropy(logits: Tensor, targets: Targets, assignment: Assignment) -> Tensor:
    """The mean over all det tokens; those without object have the weight `NO_OBJECT_WEIGHT`."""
    no_object = logits.shape[-1] - 1
    classes = torch.full(logits.shape[:2], no_object, dtype=torch.int64, device=logits.device)
    classes[assignment.image, assignment.query] = targets.labels[assignment.image, assignment.target]
    weight = logits.new_ones(no_object + 1)
    weight[no_object] = NO_OBJECT_WEIGHT
    return F.cross_entropy(logits.transpose(1, 2), classes, weight)
