"""Denoising queries (DN-DETR, arXiv 2203.01305), in training only.

Beside its own queries the decoder gets groups of noised copies of the objects: boxes that are moved and scaled at
random, and the embeddings of their classes, some of them wrong. They have to become the objects again. As it is known
which query belongs to which object, they are learned without matching. A mask keeps what they know from the other
queries. This is an option of detkit; the published ViDT has none.

Shape letters: s stages, b images, q queries of the detector, d denoising queries, g groups, t objects (padded),
c channels, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detkit.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detkit.vidt.decoder import AttentionMask
from detkit.vidt.losses.matching import Assignment, Targets
from detkit.vidt.proposals import ProposalHead, Queries

BOX_NOISE, LABEL_NOISE = 0.4, 0.2
SMALLEST_SIDE = 1e-4
NEVER = -100.0  # the logit of a query that counts for nothing


@dataclass
class NoisedObjects:
    """The objects of a batch as denoising queries, in groups of which each has all objects of its image.

    Attributes:
        labels: [b, d] int64, some of them wrong.
        boxes: [b, d, 4] cxcywh relative to the unpadded image, in 0..1.
        padding: [b, d] bool, True where an image has fewer objects than the largest number.
        groups: their number; d is `groups` times the largest number of objects.
    """

    labels: Tensor
    boxes: Tensor
    padding: Tensor
    groups: int


@dataclass
class Denoised:
    """What the decoder layers made of the denoising queries.

    Attributes:
        logits: [s, b, d, k], with no stage for the queries as they enter the decoder.
        boxes: [s, b, d, 4] cxcywh in 0..1.
        noised: what they were made from.
    """

    logits: Tensor
    boxes: Tensor
    noised: NoisedObjects

    def assignment(self) -> Assignment:
        """Which query belongs to which object: `groups` queries to each in every stage."""
        padding = self.noised.padding.expand(len(self.logits), -1, -1)
        stage, image, query = torch.where(~padding)
        return Assignment(stage, image, query, query % (padding.shape[2] // self.noised.groups))

    def counted_logits(self) -> Tensor:
        """The logits, those of padding so low that they add nothing to a focal loss."""
        return self.logits.masked_fill(self.noised.padding[None, ..., None], NEVER)


@torch.no_grad()
def noised_objects(targets: Targets, number: int, num_classes: int) -> NoisedObjects:
    """About `number` noised copies of the objects of each image: as many groups as fit into it, at least one.

    The centre of a box moves by up to `BOX_NOISE` of half its size, its sides change by up to `BOX_NOISE`. The share
    `LABEL_NOISE` of the objects gets a random class. Without any object there is one query, which is padding.
    """
    most, device = max(1, *targets.counts), targets.boxes.device
    groups = max(1, number // most)
    padding = torch.arange(most, device=device) >= torch.tensor(targets.counts, device=device)[:, None]
    boxes, labels = targets.boxes, targets.labels
    if not labels.shape[1]:
        boxes, labels = boxes.new_full((len(boxes), 1, 4), 0.5), labels.new_zeros(len(labels), 1)
    boxes, labels = boxes.repeat(1, groups, 1), labels.repeat(1, groups)
    wrong = torch.rand(labels.shape, device=device) < LABEL_NOISE
    labels = torch.where(wrong, torch.randint_like(labels, num_classes), labels)
    return NoisedObjects(labels, noised_boxes(boxes), padding.repeat(1, groups), groups)


def noised_boxes(boxes: Tensor) -> Tensor:
    """Boxes `[..., 4]` (cxcywh in 0..1) moved and scaled at random, inside of the image."""
    centre, size = boxes.split(2, dim=-1)
    noise = (torch.rand_like(boxes) * 2 - 1) * BOX_NOISE
    moved = torch.cat([centre + noise[..., :2] * size / 2, size * (1 + noise[..., 2:])], dim=-1)
    inside = xyxy_to_cxcywh(cxcywh_to_xyxy(moved).clamp(0, 1))
    return torch.cat([inside[..., :2], inside[..., 2:].clamp(min=SMALLEST_SIDE)], dim=-1)


def attention_mask(queries: int, noised: NoisedObjects) -> AttentionMask:
    """The detector's queries see each other; a denoising query sees those and its own group."""
    images, total = noised.labels.shape
    device = noised.labels.device
    group = torch.arange(total, device=device) // (total // noised.groups)
    group = torch.cat([torch.full((queries,), -1, device=device), group])
    blocked = (group[None] != group[:, None]) & (group[None] != -1)
    own = torch.zeros(images, queries, dtype=torch.bool, device=device)
    return AttentionMask(blocked, torch.cat([own, noised.padding], dim=1))


class Denoising(nn.Module):
    """Makes denoising queries.

    Args:
        hidden_dim: channels of the decoder.
        num_classes: of the detector.
        number: of denoising queries, about.
    """

    def __init__(self, hidden_dim: int, num_classes: int, number: int):
        super().__init__()
        self.label_embed = nn.Embedding(num_classes, hidden_dim)
        self.number = number

    def noised(self, targets: Targets) -> NoisedObjects:
        """Noised copies of the objects, see `noised_objects`."""
        return noised_objects(targets, self.number, self.label_embed.num_embeddings)

    def join(self, queries: Queries, noised: NoisedObjects, proposals: ProposalHead) -> tuple[Queries, AttentionMask]:
        """The detector's queries, the denoising queries behind them, and what they may look at."""
        content = self.label_embed(noised.labels).to(queries.content.dtype)
        positions = proposals.embed_boxes(noised.boxes)
        joined = Queries(
            torch.cat([queries.content, content], dim=1),
            torch.cat([queries.positions, positions], dim=1),
            torch.cat([queries.references, noised.boxes], dim=1),
        )
        return joined, attention_mask(queries.content.shape[1], noised)


def split_denoised(tokens: Sequence[Tensor], boxes: Sequence[Tensor], queries: int) -> list[list[Tensor]]:
    """The tokens and boxes of the detector's own queries in all stages, and those of the denoising queries."""
    own = [[x[:, :queries] for x in stages] for stages in (tokens, boxes)]
    return [*own, *([x[:, queries:] for x in stages[1:]] for stages in (tokens, boxes))]
