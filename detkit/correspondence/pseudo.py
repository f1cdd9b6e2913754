"""Which matches of a network can be trusted, and the loss on them (SemiMatch, arXiv 2203.16038).

Correlations are `[b, s, t]`, flows `[b, 2, h, w]` in cells; see `detkit.ops.correlation`.

Shape letters: b pairs, s source cells, t target cells, h/w cells of the target, n of the source grid's sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.ops.correlation import cell_positions, probabilities, sample_at


def return_flow(flow_b2hw: Tensor, back_b2hw: Tensor, *, original: bool = False) -> Tensor:
    """The flow of the other direction at the place that each cell is matched with, `[b, 2, h, w]`; 0 outside.

    Args:
        flow_b2hw: on the target, pointing into the source.
        back_b2hw: on the source, pointing into the target.
        original: as the official code, which takes the centres of the outermost cells for the edges of the grid.
    """
    h, w = flow_b2hw.shape[2:]
    n_h, n_w = back_b2hw.shape[2:]
    match = cell_positions(h, w, flow_b2hw) + flow_b2hw
    size = match.new_tensor([n_w, n_h])[:, None, None]
    if original:
        return F.grid_sample(back_b2hw, (2 * match / (size - 1) - 1).permute(0, 2, 3, 1), align_corners=False)
    inside = ((match > -0.5) & (match < size - 0.5)).all(1, keepdim=True)
    found = sample_at(back_b2hw, match.flatten(2).transpose(1, 2)).transpose(1, 2)
    return found.view_as(flow_b2hw) * inside


def consistency_margin(
    flow_b2hw: Tensor, back_b2hw: Tensor, *, relative: float = 0.1, absolute: float = 0.5, original: bool = False
) -> Tensor:
    """How far each match misses the way back, `[b, h, w]` in squared cells; at most 0 where it is consistent.

    `|f + g|^2 - relative * (|f|^2 + |g|^2) - absolute`, where g is the `return_flow` of f.
    """
    back = return_flow(flow_b2hw, back_b2hw, original=original)
    lengths = flow_b2hw.square().sum(1) + back.square().sum(1)
    return (flow_b2hw + back).square().sum(1) - relative * lengths - absolute


def entropy(probability_bst: Tensor) -> Tensor:
    """The entropy over the source cells of each target cell, `[b, t]`, in nats."""
    shifted = probability_bst + 1e-6
    return -(shifted * shifted.log()).sum(1)


def cells_in_box(box_b4: Tensor, position_b2hw: Tensor, stride: float, *, original: bool = False) -> Tensor:
    """Whether places in cells `[b or 1, 2, h, w]` lie in the box (x1 y1 x2 y2 in pixels) of their image, `[b, h, w]`.

    Args:
        original: as the official code, which rounds the sides of the box, in cells, and takes their cells as inside.
            The default asks whether the place, the centre of a cell, lies in the box.
    """
    low, high = (corner[:, :, None, None] for corner in (box_b4[:, :2] / stride, box_b4[:, 2:] / stride))
    where = position_b2hw if original else position_b2hw + 0.5
    if original:
        low, high = low.round(), high.round()
    return ((where >= low) & (where <= high)).all(1)


@dataclass
class PseudoLabels:
    """What a correlation says about each target cell, all `[b, h, w]`.

    Attributes:
        index: the best source cell.
        confidence: its probability, 0..1.
        entropy: of the probabilities of all source cells, in nats.
    """

    index: Tensor
    confidence: Tensor
    entropy: Tensor

    @classmethod
    def from_correlation(cls, corr_bst: Tensor, size: tuple[int, int], temperature: float) -> PseudoLabels:
        """Read off `[b, s, t]`; `size` is (h, w) of the target."""
        probability = probabilities(corr_bst, temperature)
        confidence, index = probability.max(1)
        return cls(*(x.view(-1, *size) for x in (index, confidence, entropy(probability))))

    def source_positions(self, width: int) -> Tensor:
        """The x y of the best source cells, `[b, 2, h, w]` in cells; `width` is that of the source grid."""
        return torch.stack([self.index % width, self.index // width], dim=1).float()


def pseudo_label_loss(
    corr_bst: Tensor, labels: PseudoLabels, keep_bhw: Tensor, *, temperature: float = 0.1, uncertainty: float = 1.5
) -> Tensor:
    """The mean cross entropy of a correlation against pseudo labels over the kept cells; 0 without any.

    Args:
        keep_bhw: bool, the cells that count.
        temperature: of the softmax over the source cells.
        uncertainty: a cell counts `exp(-uncertainty * entropy)` of its label; 0 counts all alike.
    """
    losses = F.cross_entropy(corr_bst / temperature, labels.index.flatten(1), reduction="none").view_as(keep_bhw)
    losses = losses * (-uncertainty * labels.entropy).exp()
    return (losses * keep_bhw).sum() / keep_bhw.sum().clamp(min=1)
