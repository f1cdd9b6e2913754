"""From candidates to instance masks (SOLOv2, arXiv 2003.10152, section 3.3).

Shape letters: m candidates, h/w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.pointseg.candidates import Candidates, OneImage
from detkit.pointseg.geometry import mask_boxes
from detkit.pointseg.heads import resize
from detkit.pointseg.nms import mask_nms, matrix_nms
from detkit.registry import register
from detkit.structures import Detections

# Masks of the original size that are float32 at the same time.
CHUNK = 16


@dataclass
class PromptedDetections(Detections):
    """Detections that know which prompt they answer.

    Attributes:
        owners: [n] number of the prompted object in its image; -1 for none. An object that no detection answers got
            no mask: none was found, or one of the same class at the same place was better.
        points: [n, 2] its point, x, y in pixels of the original image; 0, 0 where there is none.
    """

    owners: Tensor | None = None
    points: Tensor | None = None

    def _map(self, function) -> PromptedDetections:
        plain = super()._map(function)
        columns = (None if column is None else function(column) for column in (self.owners, self.points))
        return PromptedDetections(plain.boxes, plain.scores, plain.labels, plain.stored_masks, self.label_map, *columns)


@dataclass
class Found:
    """Masks in the making: scores [m], labels [m], owners [m], areas [m] and probabilities prob [m, h / 4, w / 4]."""

    scores: Tensor
    labels: Tensor
    owners: Tensor
    areas: Tensor
    prob: Tensor

    def __getitem__(self, keep: Tensor) -> Found:
        return Found(*(column[keep] for column in vars(self).values()))

    def best(self, most: int) -> Found:
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
        image: OneImage,
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

    def measure(self, image: OneImage, candidates: Candidates, strides: Tensor) -> Found:
        """Masks with their scores, best first: those of the candidates times the mean probability inside the mask."""
        nothing = image.features.new_zeros(0)
        best = Found(nothing, nothing.long(), nothing.long(), nothing, image.features[:0])
        for part in candidates.chunks():
            prob = image.masks_at(part.cells)
            inside = prob > self.mask_threshold
            areas = inside.sum((1, 2)).float()
            scores = part.scores * ((prob * inside).sum((1, 2)) / areas.clamp(min=1))
            new = Found(scores, part.labels, part.owners, areas, prob)[areas > strides[part.cells]]
            both = zip(vars(best).values(), vars(new).values(), strict=True)
            best = Found(*(torch.cat(columns) for columns in both)).best(self.pre_nms)
        return best

    def suppress(self, found: Found) -> Found:
        """Without the masks that repeat better ones, or whose scores fall too low for that."""
        masks = found.prob > self.mask_threshold
        if self.nms == "mask":
            return found[mask_nms(masks, found.labels, threshold=self.iou_threshold)]
        scores = matrix_nms(masks, found.labels, found.scores, kernel=self.kernel, sigma=self.sigma)
        return replace(found, scores=scores)[scores >= self.update_threshold]

    def full_masks(self, prob: Tensor, size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
        """Masks `[m, h, w]` bool at the original size."""
        masks = torch.zeros(len(prob), *original_size, dtype=torch.bool, device=prob.device)
        for part, into in zip(prob.split(CHUNK), masks.split(CHUNK), strict=True):
            larger = F.interpolate(part[:, None], scale_factor=4.0, mode="bilinear", align_corners=False)
            torch.gt(resize(larger[..., : size[0], : size[1]], original_size)[:, 0], self.mask_threshold, out=into)
        return masks
