"""From predicted stages to detections in pixels of the original images."""

from __future__ import annotations

from collections.abc import Sequence

from detkit.ops.boxes import cxcywh_to_xyxy
from detkit.ops.masks import BoxMasks
from detkit.structures import Detections, LabelMap
from detkit.vidt.masks import vectors_to_masks
from detkit.vidt.outputs import Stages
from detkit.vidt.proposals import gather_rows


def postprocess(
    stages: Stages, original_sizes: Sequence[tuple[int, int]], label_map: LabelMap, top_k: int = 100
) -> list[Detections]:
    """The top-k of all scores of the last stage, over queries and classes, as in Deformable DETR.

    Args:
        stages: the predictions; only the last stage is used.
        original_sizes: (h, w) of each image. Boxes are scaled to its pixels; they may reach beyond it.
        label_map: of the classes.
        top_k: detections of an image.

    Returns:
        The detections of each image, with masks where the stages have mask vectors.
    """
    probabilities = stages.logits[-1].float().sigmoid()
    num_classes = probabilities.shape[-1]
    scores, best = probabilities.flatten(1).topk(min(top_k, probabilities[0].numel()), dim=1)
    queries, labels = best // num_classes, best % num_classes
    boxes = gather_rows(cxcywh_to_xyxy(stages.boxes[-1].float()), queries)
    boxes = boxes * boxes.new_tensor([(w, h, w, h) for h, w in original_sizes])[:, None]
    found = [Detections(*image, label_map=label_map) for image in zip(boxes, scores, labels, strict=True)]
    if stages.vectors is not None:
        bitmaps = vectors_to_masks(gather_rows(stages.vectors[-1], queries))
        for detections, bitmaps_nss, size in zip(found, bitmaps, original_sizes, strict=True):
            detections.masks = BoxMasks(bitmaps_nss, detections.boxes, size)
    return found
