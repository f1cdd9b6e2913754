"""Point prompts for ViDT+: which query gives the mask of a clicked point.

PointWSSIS (arXiv 2303.15062, section 3.2) defines point prompts for a model with grids. For a model with queries this
module is detkit's own design: the score of a query for a point of class c is its probability of c times how surely its
mask covers the point.

Shape letters: b images, n queries, p points, u classes of the points, s side of a bitmap, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detkit.ops.boxes import box_iou, cxcywh_to_xyxy
from detkit.ops.masks import BoxMasks
from detkit.structures import LabelMap, Prompt, PromptedDetections
from detkit.vidt.masks import vectors_to_masks, vectors_to_soft_masks
from detkit.vidt.outputs import Stages


@dataclass
class Queries:
    """The predictions of the last stage for one image.

    Attributes:
        probabilities: [n, classes] in 0..1.
        boxes: [n, 4] xyxy in pixels of the original image.
        vectors: [n, coefficients] mask vectors, or None.
        size: (h, w) of the original image.
    """

    probabilities: Tensor
    boxes: Tensor
    vectors: Tensor | None
    size: tuple[int, int]


def answer_prompts(
    stages: Stages,
    prompt: str,
    prompts: Sequence[Prompt],
    original_sizes: Sequence[tuple[int, int]],
    label_map: LabelMap,
    top_k: int = 100,
) -> list[PromptedDetections]:
    """The detections of the last stage that answer the prompts of each image.

    Args:
        stages: the predictions; only the last stage is used.
        prompt: the kind of prompt.
            "class": ordinary detections, of the prompted classes only. With points and boxes, only detections that
                cover a point of their class; each belongs to the object whose box it overlaps most.
            "point": one query for each point, see `answer_points`; the score is class probability x coverage.
            "point_with_size": as "point", with the score x the IoU of the query's box and the prompted box.
        prompts: the prompted objects of each image, in pixels of the original images.
        original_sizes: (h, w) of each original image.
        label_map: of the classes.
        top_k: detections kept for an image with "class".

    Returns:
        The detections of each image, best first.
    """
    found = []
    for i, (prompted, size) in enumerate(zip(prompts, original_sizes, strict=True)):
        boxes = (
            cxcywh_to_xyxy(stages.boxes[-1][i].float()) * stages.boxes.new_tensor([*size[::-1], *size[::-1]]).float()
        )
        vectors = None if stages.vectors is None else stages.vectors[-1][i]
        queries = Queries(stages.logits[-1][i].float().sigmoid(), boxes, vectors, size)
        if prompt == "class":
            selected = answer_classes(queries, prompted, top_k)
        else:
            selected = answer_points(queries, prompted, prompt)
        found.append(_detections(queries, prompted, label_map, *selected))
    return found


SelectedQueries = tuple[Tensor, Tensor, Tensor, Tensor]  # scores, queries, labels and owners, each [m]


def answer_points(queries: Queries, prompted: Prompt, prompt: str) -> SelectedQueries:
    """Assign at most one query to each point, and each query to at most one point of a class.

    Only a query whose mask covers the point can be assigned to it; where the model predicts no masks, its box must. The
    assignment maximises the sum of scores: of two clicks on one object the better one gets the object's query, and the
    other one the next best query that covers it, or none.
    """
    assert prompted.points is not None
    score = queries.probabilities[:, prompted.labels].T * coverage(queries, prompted.points)
    if prompt == "point_with_size":
        assert prompted.boxes is not None
        score = score * box_iou(prompted.boxes[:, None], queries.boxes)
    classes, column = prompted.labels.unique(return_inverse=True)
    own_class_pu = column[:, None] == torch.arange(len(classes), device=column.device)
    table = (score[:, None] * own_class_pu[:, :, None]).flatten(1).cpu().numpy()  # a column for each class and query
    owners, entries = (torch.from_numpy(x).to(score.device) for x in linear_sum_assignment(table, maximize=True))
    chosen, best = entries % score.shape[1], score[owners, entries % score.shape[1]]
    answers = (entries // score.shape[1] == column[owners]) & (best > 0)
    owners, chosen, best = owners[answers], chosen[answers], best[answers]
    order = best.argsort(descending=True, stable=True)
    return best[order], chosen[order], prompted.labels[owners[order]], owners[order]


def answer_classes(queries: Queries, prompted: Prompt, top_k: int) -> SelectedQueries:
    """The top-k scores over queries and prompted classes."""
    num_classes = queries.probabilities.shape[1]
    owner = torch.full_like(queries.probabilities, -1, dtype=torch.int64)
    if prompted.points is None or prompted.boxes is None:
        allowed = torch.zeros(num_classes, dtype=torch.bool, device=owner.device)
        allowed[prompted.labels] = True
        allowed = allowed.expand_as(owner)
    else:
        owner = _owners(queries, prompted, num_classes)
        allowed = owner >= 0
    query, label = allowed.nonzero(as_tuple=True)
    scores, best = queries.probabilities[query, label].sort(descending=True, stable=True)
    query, label = query[best[:top_k]], label[best[:top_k]]
    return scores[:top_k], query, label, owner[query, label]


def _owners(queries: Queries, prompted: Prompt, num_classes: int) -> Tensor:
    """For each query and class `[n, classes]` the prompted object of this class that the query covers and whose box it
    overlaps most; -1 for none."""
    assert prompted.points is not None and prompted.boxes is not None
    fit = (1 + box_iou(prompted.boxes[:, None], queries.boxes)) * (coverage(queries, prompted.points) > 0)
    best = fit.new_zeros(num_classes, len(queries.boxes))
    best.scatter_reduce_(0, prompted.labels[:, None].expand_as(fit), fit, "amax")
    point, query = ((fit > 0) & (fit == best[prompted.labels])).nonzero(as_tuple=True)
    owner = torch.full_like(best, len(prompted), dtype=torch.int64).flatten()
    owner.scatter_reduce_(0, prompted.labels[point] * best.shape[1] + query, point, "amin")  # the first of equal ones
    return owner.masked_fill(owner == len(prompted), -1).view_as(best).T


def coverage(queries: Queries, points_p2: Tensor) -> Tensor:
    """How surely the mask of each query covers each point, `[p, n]`: 0 where it does not, else up to 1.

    A mask covers a point if it has the pixel in which the point lies. Values inside a mask are relative to its smallest
    and largest value, so that its edge is at a half. Without masks the coverage is 1 inside of the box.
    """
    height, width = queries.size
    last = points_p2.new_tensor([width - 1, height - 1])
    centres = points_p2.floor().clamp(min=0).minimum(last) + 0.5
    low, extent = queries.boxes[:, :2], queries.boxes[:, 2:] - queries.boxes[:, :2]
    place = 2 * (centres - low[:, None]) / extent[:, None].clamp(min=1e-6) - 1  # -1 to 1 in the box, [n, p, 2]
    inside = (place.abs() <= 1).all(-1)
    if queries.vectors is None:
        return inside.T.to(queries.probabilities.dtype)
    layers = torch.stack([vectors_to_masks(queries.vectors).float(), vectors_to_soft_masks(queries.vectors)], dim=1)
    values = F.grid_sample(layers, place[:, None], align_corners=False)[:, :, 0]
    return (values[:, 1] * ((values[:, 0] >= 0.5) & inside)).T


def _detections(
    queries: Queries,
    prompted: Prompt,
    label_map: LabelMap,
    scores: Tensor,
    chosen: Tensor,
    labels: Tensor,
    owners: Tensor,
) -> PromptedDetections:
    boxes, points, masks = queries.boxes[chosen], None, None
    if prompted.points is not None:
        points = torch.cat([prompted.points, prompted.points.new_zeros(1, 2)])[owners]  # owner -1 gets the last, zeros
    if queries.vectors is not None:
        masks = BoxMasks(vectors_to_masks(queries.vectors[chosen]), boxes, queries.size)
    return PromptedDetections(boxes, scores, labels, masks, label_map, owners, points)
