"""Candidates of SOLOv2: which grid cells give a mask, with and without prompts.

Source: PointWSSIS, arXiv 2303.15062, section 3.2.

Shape letters: n prompted objects, l levels, m candidates, k classes, d kernel channels, p cells of all levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.linear import linear
from detkit.pointseg import codes
from detkit.pointseg.grid import ALL_SIZES, GridLevels, GridTargets, Objects, assign, cells_at
from detkit.pointseg.heads import SoloOutputs
from detkit.pointseg.nms import point_nms
from detkit.structures import Prompt

# Candidates whose masks are computed at the same time.
CANDIDATES_AT_ONCE = 256


@dataclass
class Candidates:
    """Cells of one image that give a mask, ordered by level, row, column and class.

    Attributes:
        scores: [m] in 0..1.
        labels: [m] int64.
        cells: [m] cell, numbered through the levels.
        owners: [m] index of the prompted object that the candidate belongs to; -1 for none.
    """

    scores: Tensor
    labels: Tensor
    cells: Tensor
    owners: Tensor

    def chunks(self) -> Iterator[Candidates]:
        """Split into chunks whose masks fit into memory; at least one chunk, which may be empty."""
        columns = (column.split(CANDIDATES_AT_ONCE) for column in vars(self).values())
        return (Candidates(*part) for part in zip(*columns, strict=True))


@dataclass
class ImagePredictions:
    """The predictions for one image: kernels [d, p], class logits [k, p], mask features [d, h / 4, w / 4]."""

    kernels: Tensor
    logits: Tensor
    features: Tensor

    @property
    def frame(self) -> tuple[int, int]:
        """(h, w) of the padded image."""
        return 4 * self.features.shape[1], 4 * self.features.shape[2]

    def masks_at(self, cells: Tensor) -> Tensor:
        """Mask probabilities `[m, h / 4, w / 4]` of the cells `[m]`."""
        masks = linear(self.kernels[:, cells].T, self.features.flatten(1).T)
        return masks.sigmoid_().unflatten(1, self.features.shape[1:])


def split_images(outputs: SoloOutputs) -> list[ImagePredictions]:
    """The predictions of each image of a batch, in float32."""
    parts = outputs.flat_kernels().float(), outputs.flat_category().float(), outputs.mask_features.float()
    return [ImagePredictions(*image) for image in zip(*parts, strict=True)]


def peaks(outputs: SoloOutputs) -> Tensor:
    """Class probabilities `[b, k, p]` after `point_nms`: 0 for cells that are no local maximum."""
    return torch.cat([point_nms(level.float().sigmoid()).flatten(2) for level in outputs.category], dim=2)


def score_candidates(prob_kp: Tensor, threshold: float, owners: Tensor | None = None) -> Candidates:
    """All cells and classes whose probability is above a threshold.

    Args:
        prob_kp: class probabilities.
        threshold: in 0..1.
        owners: [p] the prompted object of each cell, -1 for none; None without prompts.
    """
    likely_kp = prob_kp > threshold
    cells, labels = likely_kp.T.nonzero(as_tuple=True)
    owner = torch.full_like(cells, -1) if owners is None else owners[cells]
    return Candidates(prob_kp[labels, cells], labels, cells, owner)


def class_candidates(
    prob_kp: Tensor, prompt: Prompt, grids: GridLevels, frame: tuple[int, int], threshold: float
) -> Candidates:
    """Ordinary candidates of the prompted classes only, for the prompt "class".

    With boxes, only those in the cells of a prompted object of that class, as in the authors' code.
    """
    if prompt.boxes is None:
        known = torch.zeros(len(prob_kp), 1, dtype=torch.bool, device=prob_kp.device)
        known[prompt.labels] = True
        return score_candidates(prob_kp.where(known, 0), threshold)
    owners, labels = _owners(prompt, grids, frame, background=len(prob_kp))
    classes = torch.arange(len(prob_kp), device=prob_kp.device)[:, None]
    return score_candidates(prob_kp.where(classes == labels, 0), threshold, owners)


def sized_candidates(prompt: Prompt, grids: GridLevels, frame: tuple[int, int]) -> Candidates:
    """All cells that are positive for the prompted boxes in training, with score 1, for "point_with_size"."""
    owners, labels = _owners(prompt, grids, frame, background=-1)
    cells = (owners >= 0).nonzero()[:, 0]
    return Candidates(torch.ones(len(cells), device=cells.device), labels[cells], cells, owners[cells])


def point_candidates(
    image: ImagePredictions, prompt: Prompt, grids: GridLevels, *, official: bool = False
) -> Candidates:
    """One candidate for each point: the cell of the point on the level with the best mask, with score 1.

    Points of one class in one cell of that level share one candidate, which belongs to the first of them. A point
    without a mask on any level has no candidate.

    Args:
        official: as the authors' code, find cells by rounded point codes and the owner of a candidate by its cell. A
            candidate may then belong to another object's point, or to none.
    """
    if official:
        targets = _targets(prompt, grids, image.frame, centre_only=True)
        owners = targets.owner.unique()
        numbers = owners[owners >= 0]  # a point is lost where later points own all of its cells
    else:
        assert prompt.points is not None
        numbers = torch.arange(len(prompt.points), device=prompt.points.device)
    cells_nl = point_cells(prompt, grids, image.frame, official=official)[numbers]
    labels = prompt.labels[numbers]
    value, level = level_values(image, cells_nl, labels).max(dim=1)
    cells = cells_nl.gather(1, level[:, None])[:, 0]
    cells, labels, numbers = cells[value > 0], labels[value > 0], numbers[value > 0]
    entries, entry = (cells * len(image.logits) + labels).unique(return_inverse=True)
    first = torch.full_like(entries, len(prompt.labels)).scatter_reduce_(0, entry, numbers, "amin")
    cells, labels = entries // len(image.logits), entries % len(image.logits)
    owners = targets.owner[0, cells] if official else first
    return Candidates(torch.ones(len(cells), device=cells.device), labels, cells, owners)


def point_cells(prompt: Prompt, grids: GridLevels, frame: tuple[int, int], *, official: bool = False) -> Tensor:
    """The cell of each point on each level, numbered through the levels: `[n, l]`."""
    assert prompt.points is not None
    points, sides = prompt.points, torch.tensor(grids.sides, device=prompt.points.device)
    if official:
        rows, columns = codes.cells_of(codes.encode(points, frame), grids.sides)
    else:
        rows, columns = (
            torch.minimum(cells_at(points[:, axis], frame[1 - axis], grids.sides).clamp(min=0), sides - 1)
            for axis in (1, 0)
        )
    return grids.offsets(points.device) + rows * sides + columns


def level_values(image: ImagePredictions, cells_nl: Tensor, labels: Tensor) -> Tensor:
    """The score of the mask at each cell, `[n, l]`: mean mask probability inside the mask x class probability."""
    confident = []
    for cells in cells_nl.flatten().split(CANDIDATES_AT_ONCE):
        prob = image.masks_at(cells)
        area, inside = area_and_sum(prob, 0.5)
        confident.append(inside / (area + 1e-8))
    maskness = torch.cat(confident).view(cells_nl.shape)
    return maskness * image.logits[labels[:, None], cells_nl].sigmoid()


def area_and_sum(prob: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The number of pixels of `[m, h, w]` above a threshold, and the sum of these, both `[m]` in the type of `prob`."""
    area = (prob > threshold).sum((1, 2), dtype=torch.int32)
    return area.to(prob.dtype), F.threshold(prob, threshold, 0.0).sum((1, 2))


def _objects(prompt: Prompt) -> Objects:
    """The prompted objects as a table. There must be points; without boxes each has an empty box at its point."""
    assert prompt.points is not None
    boxes = prompt.points.repeat(1, 2) if prompt.boxes is None else prompt.boxes
    return Objects(torch.zeros_like(prompt.labels), prompt.labels, boxes, prompt.points)


def _targets(prompt: Prompt, grids: GridLevels, frame: tuple[int, int], *, centre_only: bool) -> GridTargets:
    known = grids if prompt.boxes is not None else replace(grids, ranges=ALL_SIZES[: len(grids.sides)])
    return assign(_objects(prompt), known, frame, 1, centre_only=centre_only)


def _owners(prompt: Prompt, grids: GridLevels, frame: tuple[int, int], background: int) -> tuple[Tensor, Tensor]:
    """The object of each cell `[p]`, -1 for none, and its class."""
    targets = _targets(prompt, grids, frame, centre_only=False)
    return targets.owner[0], targets.labels(_objects(prompt), background)[0]
