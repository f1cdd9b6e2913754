"""From predicted stages to detections in pixels of the original images."""

from __future__ import annotations

from collections.abc import Sequence

from detkit.ops.boxes import cxcywh_to_xyxy
from detkit.structures import Detections, LabelMap
from detkit.vidt.stages import Stages


def postprocess(
    stages: Stages, original_sizes: Sequence[tuple[int, int]], label_map: LabelMap, top_k: int = 100
) -> list[Detections]:
    """The `top_k` best scores over queries x classes of the last stage, as Deformable DETR takes them.

    Args:
        original_sizes: (h, w) of each image, to whose pixels the boxes are scaled. Boxes may reach beyond it.
    """
    probabilities = stages.logits[-1].float().sigmoid()
    num_classes = probabilities.shape[-1]
    scores, best = probabilities.flatten(1).topk(min(top_k, probabilities[0].numel()), dim=1)
    queries, labels = best // num_classes, best % num_classes
    boxes = cxcywh_to_xyxy(stages.boxes[-1].float())
    boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    scale = boxes.new_tensor([(w, h, w, h) for h, w in original_sizes])
    boxes = boxes * scale[:, None]
    return [Detections(*image, label_map=label_map) for image in zip(boxes, scores, labels, strict=True)]
