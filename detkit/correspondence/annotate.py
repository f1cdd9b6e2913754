"""Machine annotation: the reliable matches of a trained matcher, as labels for the next one.

This is the annotator in the rounds of MatchMe (arXiv 2311.18540). Which matches count as reliable follows SemiMatch
(arXiv 2203.16038): forward-backward consistency, confidence and boxes. A largest and a least number of matches for each
pair are detkit's addition.

Shape letters: b pairs, n points, k kept cells, h/w cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from detkit.correspondence.consistency import cells_in_box, consistency_margin
from detkit.correspondence.matcher import Matcher
from detkit.ops.correlation import cell_positions
from detkit.registry.ranges import NonNegativeFloat, Share
from detkit.structures import PairBatch

REFERENCE_GRID = 16  # cells along the side for which `absolute` is stated


@dataclass(frozen=True)
class Rules:
    """Which cells of the target have a reliable match.

    Attributes:
        relative, absolute: tolerances of the forward-backward check, see `consistency_margin`. `absolute` is in squared
            cells of a 16 x 16 grid and is scaled to the cells of other grids.
        confidence: least probability of the best source cell, 0..1.
        boxes: where boxes are known, matches must lead from the target's box into the source's box.
        cap: most cells kept of a pair; those with the highest confidence are kept.
        minimum: a pair with fewer reliable cells is not annotated.

    Raises:
        ValueError: a number out of its range.
    """

    relative: NonNegativeFloat = 0.1
    absolute: NonNegativeFloat = 0.5
    confidence: Share = 0.5
    boxes: bool = True
    cap: Annotated[int, Ge(1), Le(1_000_000)] = 512
    minimum: Annotated[int, Ge(1), Le(1_000_000)] = 8

    def __post_init__(self):
        if type(self.cap) is not int or type(self.minimum) is not int:
            raise ValueError(f"cap and minimum must be whole numbers, got {self.cap!r} and {self.minimum!r}")
        if self.relative < 0 or self.absolute < 0 or not 0 <= self.confidence <= 1:
            raise ValueError(f"relative and absolute must be at least 0, confidence must lie in 0..1, got {self}")
        if not 1 <= self.minimum <= self.cap:
            raise ValueError(f"minimum must lie in 1..cap, got minimum {self.minimum} and cap {self.cap}")


@dataclass
class MachinePoints:
    """The machine annotations of one pair: centres of reliable target cells and their matches in the source.

    Attributes:
        source, target: [n, 2] float, x y in pixels of the upright images.
        confidence: [n], 0..1, descending.
    """

    source: Tensor
    target: Tensor
    confidence: Tensor

    def __len__(self) -> int:
        return len(self.confidence)


@torch.inference_mode()
def annotate(matcher: Matcher, batch: PairBatch, rules: Rules) -> list[MachinePoints]:
    """The reliable matches of each pair of a batch, on the CPU. Key-points of the batch are not used.

    Args:
        matcher: in eval mode.
        batch: the pairs.
        rules: which matches are reliable.

    Raises:
        RuntimeError: the matcher is in training mode.
    """
    if matcher.training:
        raise RuntimeError("annotation needs eval mode: call matcher.eval() first")
    source, target = matcher.squares(batch.source), matcher.squares(batch.target)
    flow = matcher.flow_of(matcher.correlation(source, target))
    back = matcher.flow_of(matcher.correlation(target, source))
    own_2hw = cell_positions(matcher.grid, matcher.grid, flow.vectors)
    match_b2hw = own_2hw + flow.vectors
    reliable = (match_b2hw >= -0.5).all(1) & (match_b2hw <= matcher.grid - 0.5).all(1)
    absolute = rules.absolute * (matcher.grid / REFERENCE_GRID) ** 2
    margin = consistency_margin(flow.vectors, back.vectors, relative=rules.relative, absolute=absolute)
    reliable &= (margin <= 0) & (flow.weights >= rules.confidence)
    if rules.boxes:
        stride = matcher.side / matcher.grid
        boxes = [_square_boxes(matcher, batch, side).to(reliable.device) for side in ("target", "source")]
        reliable &= cells_in_box(boxes[0], own_2hw[None], stride) & cells_in_box(boxes[1], match_b2hw, stride)
    return _gather(matcher, batch, match_b2hw, flow.weights.masked_fill(~reliable, -1), rules)


def _square_boxes(matcher: Matcher, batch: PairBatch, side: str) -> Tensor:
    """The boxes of one `side`, "source" or "target", in pixels of the square, `[b, 4]`; without a box the square."""
    boxes = []
    for pair, size in zip(batch.annotations, _sizes(batch, side), strict=True):
        box = getattr(pair, f"{side}_box")
        whole = torch.tensor([0.0, 0.0, matcher.side, matcher.side])
        boxes.append(whole if box is None else matcher.to_square(box.float().cpu().view(2, 2), size).flatten())
    return torch.stack(boxes)


def _sizes(batch: PairBatch, side: str) -> list[tuple[int, int]]:
    """The (h, w) of the upright images of one side."""
    resized = getattr(batch, side).sizes
    stored = [getattr(pair, f"{side}_size") for pair in batch.annotations]
    return [size or own for size, own in zip(stored, resized, strict=True)]


def _gather(
    matcher: Matcher, batch: PairBatch, match_b2hw: Tensor, score_bhw: Tensor, rules: Rules
) -> list[MachinePoints]:
    """The top-k cells of each pair with a score of at least 0, in pixels of the upright images."""
    score_bk, cell_bk = score_bhw.flatten(1).topk(min(rules.cap, matcher.grid**2))
    match_bk2 = match_b2hw.flatten(2).gather(2, cell_bk[:, None].expand(-1, 2, -1)).transpose(1, 2)
    own_bk2 = torch.stack([cell_bk % matcher.grid, cell_bk // matcher.grid], dim=2)
    stride = matcher.side / matcher.grid
    source_bk2, target_bk2 = ((match_bk2 + 0.5) * stride).cpu(), ((own_bk2 + 0.5) * stride).cpu()
    counts, scores = (score_bhw >= 0).flatten(1).sum(1).tolist(), score_bk.float().cpu()
    found = []
    sizes = zip(counts, _sizes(batch, "source"), _sizes(batch, "target"), strict=True)
    for i, (count, source_size, target_size) in enumerate(sizes):
        n = 0 if count < rules.minimum else min(count, rules.cap)
        source = matcher.from_square(source_bk2[i, :n], source_size)
        target = matcher.from_square(target_bk2[i, :n], target_size)
        found.append(MachinePoints(source, target, scores[i, :n]))
    return found
