"""From candidates to instance masks (SOLOv2, arXiv 2003.10152, section 3.3).

Shape letters: m candidates, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.pointseg.candidates import Candidates, ImagePredictions, area_and_sum
from detkit.pointseg.geometry import mask_boxes
from detkit.pointseg.nms import mask_nms, matrix_nms
from detkit.registry import register
from detkit.structures import Detections

# Parts of each axis in which masks are brought to the original size.
STRIPS = 8


@dataclass
class MaskCandidates:
    """Masks in the making: scores [m], labels [m], owners [m], areas [m] and probabilities prob [m, h / 4, w / 4]."""

    scores: Tensor
    labels: Tensor
    owners: Tensor
    areas: Tensor
    prob: Tensor

    def __getitem__(self, keep: Tensor) -> MaskCandidates:
        return MaskCandidates(*(column[keep] for column in vars(self).values()))

    def best(self, most: int) -> MaskCandidates:
        """Sorted by score, at most so many."""
        return self[self.scores.argsort(descending=True, stable=True)[:most]]


@register
class SoloPostprocess:
    """What becomes of candidates: scores of masks, suppression, masks at the original size.

    Args:
        nms: "matrix" or "mask", see `detkit.pointseg.nms`.
        kernel, sigma: of the matrix NMS.
        iou_threshold: of the mask NMS.
        score_threshold: candidates must be above it; prompted ones have score 1.
        update_threshold: the score after the matrix NMS must reach it.
        mask_threshold: a pixel belongs to a mask above this probability.
        pre_nms: candidates kept before the suppression.
        max_detections: kept for an image.

    Raises:
        ValueError: another `nms`.
    """

    def __init__(
        self,
        *,
        nms: str = "matrix",
        kernel: str = "gaussian",
        sigma: float = 2.0,
        iou_threshold: float = 0.5,
        score_threshold: float = 0.1,
        update_threshold: float = 0.05,
        mask_threshold: float = 0.5,
        pre_nms: int = 500,
        max_detections: int = 100,
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
        """The detections of one image, and whose candidates they were `[n]`.

        Args:
            strides: [p] stride of the level of each cell: masks of no more pixels of the features than that go.
            size: (h, w) of the unpadded input of the network.
            original_size: (h, w) of the masks and boxes to make.
        """
        found = self.suppress(self.measure(image, candidates, strides)).best(self.max_detections)
        masks = self.full_masks(found.prob, size, original_size)
        return Detections(mask_boxes(masks), found.scores, found.labels, masks), found.owners

    def measure(self, image: ImagePredictions, candidates: Candidates, strides: Tensor) -> MaskCandidates:
        """Masks with their scores, best first: those of the candidates times the mean probability inside the mask."""
        nothing = image.features.new_zeros(0)
        best = MaskCandidates(nothing, nothing.long(), nothing.long(), nothing, image.features[:0])
        for part in candidates.chunks():
            prob = image.masks_at(part.cells)
            areas, inside = area_and_sum(prob, self.mask_threshold)
            scores = part.scores * (inside / areas.clamp(min=1))
            new = MaskCandidates(scores, part.labels, part.owners, areas, prob)[areas > strides[part.cells]]
            both = zip(vars(best).values(), vars(new).values(), strict=True)
            best = MaskCandidates(*(torch.cat(columns) for columns in both)).best(self.pre_nms)
        return best

    def suppress(self, found: MaskCandidates) -> MaskCandidates:
        """Without the masks that repeat better ones, or whose scores fall too low for that."""
        masks = found.prob > self.mask_threshold
        if self.nms == "mask":
            return found[mask_nms(masks, found.labels, threshold=self.iou_threshold)]
        scores = matrix_nms(masks, found.labels, found.scores, kernel=self.kernel, sigma=self.sigma)
        return replace(found, scores=scores)[scores >= self.update_threshold]

    def full_masks(self, prob: Tensor, size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
        """Masks `[m, h, w]` bool at the original size.

        Tile by tile, each for the masks that have a part there: resizing cannot raise a probability.
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
    """How an axis of `prob [m, h / 4, w / 4]` is made four times as long, cut, and resized, all bilinear, in strips.

    Yields:
        The pixels of a strip, the pixels of `prob` that it is made of, and their weights `[strip, old]`.
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
