"""From candidates to instance masks (SOLOv2, arXiv 2003.10152, section 3.3).

Shape letters: m candidates, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.pointseg.candidates import Candidates, ImagePredictions, area_and_sum
from detkit.pointseg.geometry import mask_boxes
from detkit.pointseg.nms import mask_nms, matrix_nms
from detkit.registry import register
from detkit.registry.ranges import InnerShare, Objects, OneOf, PositiveFloat, Share
from detkit.structures import Detections

# Parts of each axis in which masks are brought to the original size.
STRIPS = 8


@dataclass
class MaskCandidates:
    """Candidates with their masks.

    Attributes:
        scores: [m] in 0..1.
        labels: [m] int64.
        owners: [m] index of the prompted object; -1 for none.
        areas: [m] pixels of the mask at a quarter of the image's size.
        prob: [m, h / 4, w / 4] mask probabilities.
    """

    scores: Tensor
    labels: Tensor
    owners: Tensor
    areas: Tensor
    prob: Tensor

    def __getitem__(self, keep: Tensor) -> MaskCandidates:
        return MaskCandidates(*(column[keep] for column in vars(self).values()))

    def top_k(self, k: int) -> MaskCandidates:
        """The k highest scores, in order."""
        return self[self.scores.argsort(descending=True, stable=True)[:k]]


@register
class SoloPostprocess:
    """From candidates to detections: scores of the masks, suppression, masks at the original size.

    Args:
        nms: "matrix" or "mask", see `detkit.pointseg.nms`.
        kernel, sigma: of the matrix NMS.
        iou_threshold: of the mask NMS.
        score_threshold: least class probability of a candidate; prompted candidates have score 1.
        update_threshold: least score after the matrix NMS.
        mask_threshold: a pixel belongs to a mask if its probability is above this.
        pre_nms: top-k candidates kept before the suppression.
        max_detections: top-k detections of an image.

    Raises:
        ValueError: another `nms`.
    """

    def __init__(
        self,
        *,
        nms: Annotated[str, OneOf(("matrix", "mask"))] = "matrix",
        kernel: Annotated[str, OneOf(("gaussian", "linear"))] = "gaussian",
        sigma: PositiveFloat = 2.0,
        iou_threshold: Share = 0.5,
        score_threshold: Share = 0.1,
        update_threshold: Share = 0.05,
        mask_threshold: InnerShare = 0.5,
        pre_nms: Objects = 500,
        max_detections: Objects = 100,
    ):
        if nms not in ("matrix", "mask"):
            raise ValueError(f"nms must be matrix or mask, got {nms!r}")
        self.nms, self.kernel, self.sigma, self.iou_threshold = nms, kernel, sigma, iou_threshold
        self.score_threshold, self.update_threshold = score_threshold, update_threshold
        self.mask_threshold = mask_threshold
        self.pre_nms, self.max_detections = pre_nms, max_detections

    def __call__(
        self,
        image: ImagePredictions,
        candidates: Candidates,
        strides: Tensor,
        size: tuple[int, int],
        original_size: tuple[int, int],
    ) -> tuple[Detections, Tensor]:
        """The detections of one image.

        Args:
            image: the predictions.
            candidates: cells that give a mask.
            strides: [p] stride of the level of each cell; masks whose area is not larger than the stride are dropped.
            size: (h, w) of the unpadded input of the network.
            original_size: (h, w) of the image that masks and boxes refer to.

        Returns:
            The detections, best first, and the index of the prompted object of each, `[n]`, -1 for none.
        """
        found = self.suppress(self.measure(image, candidates, strides)).top_k(self.max_detections)
        masks = self.full_masks(found.prob, size, original_size)
        return Detections(mask_boxes(masks), found.scores, found.labels, masks), found.owners

    def measure(self, image: ImagePredictions, candidates: Candidates, strides: Tensor) -> MaskCandidates:
        """The masks of the candidates, best first; scores become score x mean probability inside the mask.

        Masks whose area, at a quarter of the image's size, is not larger than the stride of their level are dropped.
        """
        nothing = image.features.new_zeros(0)
        best = MaskCandidates(nothing, nothing.long(), nothing.long(), nothing, image.features[:0])
        for part in candidates.chunks():
            prob = image.masks_at(part.cells)
            areas, inside = area_and_sum(prob, self.mask_threshold)
            scores = part.scores * (inside / areas.clamp(min=1))
            new = MaskCandidates(scores, part.labels, part.owners, areas, prob)[areas > strides[part.cells]]
            both = zip(vars(best).values(), vars(new).values(), strict=True)
            best = MaskCandidates(*(torch.cat(columns) for columns in both)).top_k(self.pre_nms)
        return best

    def suppress(self, found: MaskCandidates) -> MaskCandidates:
        """Drop the masks that repeat better ones (mask NMS), or whose score falls too low by it (matrix NMS)."""
        masks = found.prob > self.mask_threshold
        if self.nms == "mask":
            return found[mask_nms(masks, found.labels, threshold=self.iou_threshold)]
        scores = matrix_nms(masks, found.labels, found.scores, kernel=self.kernel, sigma=self.sigma)
        return replace(found, scores=scores)[scores >= self.update_threshold]

    def full_masks(self, prob: Tensor, size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
        """Masks `[m, h, w]` bool at the original size.

        Each tile is computed for the masks with pixels there only: resizing never raises the largest probability.
        """
        masks = torch.zeros(len(prob), *original_size, dtype=torch.bool, device=prob.device)
        columns = list(resize_strips(prob, 2, size[1], original_size[1]))
        for into_y, from_y, weight_y in resize_strips(prob, 1, size[0], original_size[0]):
            for into_x, from_x, weight_x in columns:
                part = prob[:, from_y, from_x]
                present = (part.amax((1, 2)) > self.mask_threshold).nonzero()[:, 0]
                larger = weight_y @ (part[present] @ weight_x.T)
                masks[present, into_y, into_x] = larger > self.mask_threshold
        return masks


def resize_strips(prob: Tensor, axis: int, cut: int, new: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Weights to upsample an axis of `prob [m, h / 4, w / 4]` four times, cut the padding and resize it, in strips.

    Both resizes are bilinear.

    Args:
        prob: mask probabilities.
        axis: of `prob`, 1 or 2.
        cut: length of the unpadded input along the axis.
        new: length of the result.

    Yields:
        The pixels of a strip of the result, the pixels of `prob` that it depends on, and the weights `[strip, old]`.
    """
    pixels = torch.eye(prob.shape[axis], device=prob.device)[None]
    larger = F.interpolate(pixels, scale_factor=4.0, mode="linear", align_corners=False)[..., :cut]
    weights = F.interpolate(larger, size=new, mode="linear", align_corners=False)[0].T
    start = 0
    for strip in weights.split(-(-new // STRIPS)):
        used = strip.any(0).nonzero()[:, 0].tolist()
        source = slice(used[0], used[-1] + 1)
        yield slice(start, start + len(strip)), source, strip[:, source]
        start += len(strip)
