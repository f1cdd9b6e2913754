"""Token labeling of ViDT+ (arXiv 2204.07962): every position of the feature maps learns to classify what it shows.

Shape letters: b images, s positions of all levels, n objects, k classes, h/w pixels or cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.ops.linear import Linear
from detkit.ops.masks import MASKS_AT_ONCE
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
        if objects.masks is None or len(objects) == 0:
            continue
        padding = (0, frame[1] - objects.masks.shape[2], 0, frame[0] - objects.masks.shape[1])
        visible = first_owner(objects.masks)
        for masks, labels in zip(visible.split(MASKS_AT_ONCE), objects.labels.split(MASKS_AT_ONCE), strict=True):
            padded = F.pad(masks.float(), padding)
            for target, shape in zip(targets, shapes, strict=True):
                target[i].index_add_(2, labels, F.adaptive_avg_pool2d(padded, shape).permute(1, 2, 0))
    if official:
        for target in targets:
            target[..., 0] = target.sum(-1)
    return targets


def first_owner(masks: Tensor) -> Tensor:
    """Masks `[n, h, w]` bool without overlap: each pixel stays only in the first mask that has it."""
    visible = torch.empty_like(masks)
    free = torch.ones_like(masks[0])
    for mask, part in zip(masks, visible, strict=True):
        torch.logical_and(mask, free, out=part)
        free &= ~mask
    return visible


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - the Dice coefficient of each image `[b]`, over all of its positions and classes at once."""
    prob = logits.sigmoid().flatten(1)
    targets = targets.flatten(1)
    return 1 - (2 * (prob * targets).sum(1) + 1) / (prob.sum(1) + targets.sum(1) + 1)
