"""What all matchers share: the input rule, flow from a correlation, matching of points, the training protocol.

Shape letters: b pairs, n points, s source cells, t target cells, h/w pixels; the grid of both images is square.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from detkit.correspondence.losses import batch_flow, end_point_error
from detkit.images import image_size, load_image
from detkit.modeling.base import InputRule, Model
from detkit.modeling.weight_decay import undecayed_parameters
from detkit.ops.correlation import (
    expected_position,
    map_to_flow,
    normalized_positions,
    position_map,
    probabilities,
    sample_at,
    transfer_points,
    warp,
)
from detkit.ops.points import check_inside
from detkit.registry.ranges import OptionsOf, Pixels, PositiveFloat, ShareBelowOne
from detkit.structures import Flow, ImageBatch, LabelMap, Matches, PairBatch


class Matcher(Model):
    """A model that finds points of one image in another image of the same class.

    In training mode `model(batch)` returns the loss of the flow on the target, which points into the source. In eval
    mode it returns, for each pair, the matches of the source points in pixels of the upright target. A subclass
    defines `correlation(source, target)`.

    Both images are stretched to a square, whatever their size and aspect ratio.

    Args:
        side: pixels of the square along each side.
        grid: cells of the square along each side.
        temperature: of the softmax over the source cells; the flow leads to the mean of their positions.
        field: width in pixels of the window around a cell's centre in which key-points label the cell, see
            `sparse_flow`.
        num_classes: classes of the training pairs. A matcher does not use them; they are stored in its checkpoint.
        input_rule: other arguments of `InputRule`, such as `mean` and `std`.
        trim: share of the machine-made labels that the loss leaves out, see `end_point_error`.
        official: do as the authors' code (see docs/differences.md): train the positions of the source cells; pair the
            last source point of a cell with the mean of its target points, and read a displacement of exactly 0 as "no
            label"; cut points to whole pixels before they are transferred; decay all parameters.
    """

    def __init__(
        self,
        *,
        side: int,
        grid: int,
        temperature: PositiveFloat = 0.02,
        field: Pixels = 35,
        num_classes: int = 1,
        input_rule: Annotated[Mapping[str, Any], OptionsOf(InputRule)] | None = None,
        trim: ShareBelowOne = 0.0,
        official: bool = False,
    ):
        if not 0 <= trim < 1:
            raise ValueError(f"trim must lie in 0..1 and below 1, got {trim}")
        # With `multiple` equal to the side, every image is resized to the square.
        rule = InputRule(**{"shortest": side, "longest": side, "multiple": side, **(input_rule or {})})
        super().__init__(LabelMap.numbered(num_classes), rule)
        self.side, self.grid, self.temperature, self.field = side, grid, temperature, field
        self.official, self.trim = official, trim
        x, y = normalized_positions(grid, grid, torch.zeros(()))
        for name, positions in (("x_positions", x), ("y_positions", y)):
            if official:
                self.register_parameter(name, nn.Parameter(positions))
            else:
                self.register_buffer(name, positions)

    def no_weight_decay(self) -> set[str]:
        """All parameters without weight decay: norms, biases, tables of positions; none with `official`."""
        if self.official:
            return set()
        names = {name for name, _ in self.named_parameters() if name.endswith(".bias") or "position" in name}
        return names | undecayed_parameters(self)

    @abstractmethod
    def correlation(self, source_b3hw: Tensor, target_b3hw: Tensor) -> Tensor:
        """The final correlation `[b, s, t]` of normalised squares `[b, 3, side, side]`."""

    def flow(self, source_b3hw: Tensor, target_b3hw: Tensor) -> Tensor:
        """The flow on the target, place of the match minus place of the cell: `[b, 2, grid, grid]` in cells.

        Args:
            source_b3hw, target_b3hw: normalised squares of `side` pixels.
        """
        return self.flow_of(self.correlation(source_b3hw, target_b3hw)).vectors

    def flow_of(self, corr_bst: Tensor) -> Flow:
        """The flow of a correlation, `[b, 2, grid, grid]` in cells, to the softmax-weighted mean of the source cells.

        Its confidence is the probability of the best source cell, `[b, grid, grid]` in 0..1.
        """
        shape = (self.grid, self.grid)
        with torch.autocast(corr_bst.device.type, enabled=False):
            probability = probabilities(corr_bst, self.temperature)
            positions = expected_position(probability, self.x_positions, self.y_positions)
            vectors = map_to_flow(positions.unflatten(2, shape), shape)
        return Flow(vectors, probability.amax(1).unflatten(1, shape))

    def transfer(self, corr_bst: Tensor, points_bn2: Tensor) -> tuple[Tensor, Tensor]:
        """The source matches of target points `[b, n, 2]`, in pixels of the square, and the confidence `[b, n]`."""
        flow, frame = self.flow_of(corr_bst), (self.side, self.side)
        moved = transfer_points(flow.vectors, points_bn2, frame, whole_pixels=self.official)
        return moved, sample_at(flow.weights[:, None], points_bn2 * self.grid / self.side - 0.5)[..., 0]

    def squares(self, images: ImageBatch) -> Tensor:
        """Normalised squares `[b, 3, side, side]` of images of any size in 0..255."""
        parts = zip(images.images, images.sizes, strict=True)
        resized = [self.input_rule.resize(image[:, :h, :w]) for image, (h, w) in parts]
        return self.normalize(ImageBatch.from_images(resized)).images

    def to_square(self, points_n2: Tensor, size: tuple[int, int]) -> Tensor:
        """Points `[n, 2]` in pixels of an image of `size` (h, w), converted to pixels of the square."""
        return points_n2 * points_n2.new_tensor([self.side / size[1], self.side / size[0]])

    def from_square(self, points_n2: Tensor, size: tuple[int, int]) -> Tensor:
        """Points `[n, 2]` in pixels of the square, in pixels of an image of `size` (h, w) and clipped to it."""
        limit = points_n2.new_tensor([size[1], size[0]])
        return (points_n2 * limit / self.side).clamp(min=0).minimum(limit)

    def batch_losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """The mean end-point error in cells over the labelled cells of the batch.

        It is scaled by the share of the batch in `num_objects`, so that micro-batches add up.
        """
        source, target, wanted = self.squares(batch.source), self.squares(batch.target), self.targets(batch)
        error = end_point_error(self.flow(source, target), wanted, trim=self.trim)
        if batch.num_objects is not None:
            error = error * (wanted.weights.sum() / batch.num_objects)
        return {"loss_epe": error}

    def count_objects(self, batch: PairBatch) -> float:
        """The sum of the weights of all labelled cells, by which the loss of a batch is divided."""
        return float(self.targets(batch).weights.sum())

    def targets(self, batch: PairBatch) -> Flow:
        """The target flow of a batch, from its key-points."""
        known = batch.annotations
        sources, targets = (
            [self.to_square(points.float(), size) for points, size in zip(of_side, images.sizes, strict=True)]
            for of_side, images in (
                ([pair.source_points for pair in known], batch.source),
                ([pair.target_points for pair in known], batch.target),
            )
        )
        return batch_flow(
            sources,
            targets,
            [pair.weights for pair in known],
            grid=self.grid,
            side=self.side,
            field=self.field,
            official=self.official,
        )

    def batch_predictions(self, batch: PairBatch) -> list[Matches]:
        """The matches of the source points of each pair, in pixels of the upright target."""
        source, target = self.squares(batch.source), self.squares(batch.target)
        corr = self.correlation(target, source)
        found = []
        for i, pair in enumerate(batch.annotations):
            points = self.to_square(pair.source_points.float(), pair.source_size or batch.source.sizes[i])
            moved, confidence = self.transfer(corr[i : i + 1], points[None])
            moved = self.from_square(moved[0], pair.target_size or batch.target.sizes[i])
            found.append(Matches(moved, confidence[0]))
        return found

    @torch.inference_mode()
    def match(self, source: Any, target: Any, points: Any) -> Matches:
        """Find points of one image in another.

        Args:
            source, target: images of any size, as in `detkit.images.load_image`.
            points: [n, 2], x y in pixels of the source, inside of it; n may be 0.

        Returns:
            The matches in pixels of the target, always inside of it, with their confidence in 0..1.

        Raises:
            ValueError: not an image; points of another shape, or outside of the source.
            RuntimeError: the model is in training mode.
        """
        images, squares = self._load(source, target)
        source_size, target_size = (image_size(image) for image in images)
        checked = points_in_image(points, source_size).to(self.device)
        corr = self.correlation(squares[1], squares[0])
        moved, confidence = self.transfer(corr, self.to_square(checked, source_size)[None])
        return Matches(self.from_square(moved[0], target_size), confidence[0])

    @torch.inference_mode()
    def dense_flow(self, source: Any, target: Any) -> Flow:
        """The flow on the target and its confidence, for two images of any size.

        `detkit.ops.correlation.position_map` converts the flow, which is in cells, to pixels.
        """
        _, squares = self._load(source, target)
        return self.flow_of(self.correlation(*squares))

    @torch.inference_mode()
    def warp(self, source: Any, target: Any) -> Tensor:
        """The source image warped to the target: uint8 [3, h, w] of the target's size.

        Pixels are black where the flow leads outside of the source.
        """
        (image, other), squares = self._load(source, target)
        flow = self.flow(*squares)
        places = position_map(flow, image_size(other), image_size(image))
        return warp(image[None].float(), places)[0].round_().to(torch.uint8)

    def _load(self, source: Any, target: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Load two images; also as normalised squares [1, 3, side, side]."""
        if self.training:
            raise RuntimeError("matching needs eval mode: call model.eval() first")
        images = [load_image(image).to(self.device) for image in (source, target)]
        return images, [self.squares(ImageBatch.from_images([image])) for image in images]


# Arguments that a subclass passes on, `**options: MatcherOptions`; they are checked with its own.
MatcherOptions = Annotated[Any, OptionsOf(Matcher)]


def points_in_image(points: Any, size: Sequence[int]) -> Tensor:
    """Points as a float tensor [n, 2].

    Raises:
        ValueError: another shape, or points outside of an image of `size` (h, w), with their numbers.
    """
    checked = points.float() if isinstance(points, Tensor) else torch.from_numpy(np.array(points, np.float32))
    checked = checked.reshape(0, 2) if checked.numel() == 0 else checked
    if checked.ndim != 2 or checked.shape[1] != 2:
        raise ValueError(f"points have shape {tuple(checked.shape)}, expected [n, 2]")
    check_inside(checked, size, "the source image")
    return checked
