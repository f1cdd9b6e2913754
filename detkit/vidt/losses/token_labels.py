"""Token labeling of ViDT+ (arXiv 2204.07962): every position of the feature maps learns to classify what it shows.

Shape letters: b images, s positions of all levels, n objects, k classes, h/w pixels or cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detkit.ops.linear import Linear
from detkit.ops.masks import MASKS_AT_ONCE, MaskCrops
from detkit.structures import Annotations
from detkit.vidt.decoder import Memory

MARGIN = 0.01


class TokenHead(nn.Module):
    """Classifies the positions of the feature maps; features on padding and at the margin of the image are set to 0."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.output = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.classes = Linear(dim, num_classes)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.xavier_uniform_(self.classes.weight)
        nn.init.constant_(self.classes.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, memory: Memory) -> list[Tensor]:
        """Logits `[b, h, w, k]` of each level."""
        features = memory.features.masked_fill(~visible_positions(memory)[..., None], 0)
        logits = self.classes(self.norm(self.output(features)))
        levels = logits.split([h * w for h, w in memory.shapes], dim=1)
        return [level.unflatten(1, shape) for level, shape in zip(levels, memory.shapes, strict=True)]


def visible_positions(memory: Memory) -> Tensor:
    """`[b, s]` bool, True for positions that are not padding and whose centre is at least 1 % of the image's side away
    from its border."""
    inside = []
    for level, (h, w) in enumerate(memory.shapes):
        cells = (memory.valid_ratios[:, level] * memory.valid_ratios.new_tensor([w, h])).round()
        x = (torch.arange(w, device=cells.device) + 0.5) / cells[:, :1]
        y = (torch.arange(h, device=cells.device) + 0.5) / cells[:, 1:]
        in_x, in_y = ((at > MARGIN) & (at < 1 - MARGIN) for at in (x, y))
        inside.append((in_y[:, :, None] & in_x[:, None]).flatten(1))
    return torch.cat(inside, dim=1) & ~memory.padding


@torch.no_grad()
def token_targets(
    annotations: Sequence[Annotations],
    frame: tuple[int, int],
    shapes: Sequence[tuple[int, int]],
    num_classes: int,
    *,
    official: bool = False,
) -> list[Tensor]:
    """The targets of token labeling: the share of each cell that each class covers.

    Args:
        annotations: with masks where there are objects; where masks overlap, the pixel belongs to the first object.
        frame: (h, w) to which the images were padded.
        shapes: (h, w) of each level.
        num_classes: k.
        official: as in the authors' code, the target of output 0 is the share that any object covers. Their labels are
            raw COCO ids, which begin at 1, so that no class uses output 0.

    Returns:
        For each level `[b, h, w, k]` in 0..1.
    """
    device = annotations[0].boxes.device
    targets = [torch.zeros(len(annotations), *shape, num_classes, device=device) for shape in shapes]
    for i, objects in enumerate(annotations):
        masks = objects.mask_crops
        if masks is None:
            continue
        for group, places, pixels in first_owner(masks).groups(MASKS_AT_ONCE):
            for target, shape in zip(targets, shapes, strict=True):
                shares = cell_shares(pixels, places, frame, shape)
                target[i].index_add_(2, objects.labels[group], shares.permute(1, 2, 0))
    if official:
        for target in targets:
            target[..., 0] = target.sum(-1)
    return targets


def first_owner(masks: MaskCrops) -> MaskCrops:
    """Masks without overlap: each pixel stays only in the first mask that has it."""
    visible = replace(masks, pixels=torch.empty_like(masks.pixels))
    free = torch.ones(masks.size, dtype=torch.bool, device=masks.device)
    for (top, left, mask), (_, _, part) in zip(masks.regions(), visible.regions(), strict=True):
        region = free[top : top + mask.shape[0], left : left + mask.shape[1]]
        torch.logical_and(mask, region, out=part)
        region &= ~mask
    return visible


def cell_shares(pixels_nhw: Tensor, places: Tensor, frame: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """The share of each cell that masks cover: `adaptive_avg_pool2d` of the full masks.

    Pixels are counted by matrix products, which is exact.

    Args:
        pixels_nhw: bool, parts of the masks; what is beyond is False.
        places: [n, 4], their first two columns are the top row and the left column of each part.
        frame: (h, w) of the full masks.
        shape: (h, w) in cells.

    Returns:
        `[n, h, w]` in cells.
    """
    y, height = _windows(frame[0], shape[0], places[:, 0], pixels_nhw.shape[1])
    x, width = _windows(frame[1], shape[1], places[:, 1], pixels_nhw.shape[2])
    return y @ pixels_nhw.float() @ x.transpose(1, 2) / height[:, None] / width


def _windows(size: int, cells: int, start: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Which of `length` pixels from `start` on each cell along an axis contains, `[n, cells, length]` of 0 and 1, and
    how many pixels of the axis it contains, `[cells]`."""
    cell = torch.arange(cells, device=start.device)
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    pixel = (start[:, None] + torch.arange(length, device=start.device))[:, None]
    return ((pixel >= first[:, None]) & (pixel < end[:, None])).float(), end - first


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - the Dice coefficient of each image `[b]`, over all of its positions and classes at once."""
    prob = logits.sigmoid().flatten(1)
    targets = targets.flatten(1)
    return 1 - (2 * (prob * targets).sum(1) + 1) / (prob.sum(1) + targets.sum(1) + 1)
