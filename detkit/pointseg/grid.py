"""Target assignment of SOLOv2 (arXiv 2003.10152): which grid cells are positive for which object.

Source: SOLO, arXiv 1912.04488, section 3.3.

Shape letters: b images, n objects of a batch, l levels, p cells of all levels together, r pairs of cell and object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detkit.pointseg.geometry import centres_of_crops, quarter_crops
from detkit.structures import Annotations

STUDENT_GRIDS, STUDENT_RANGES = (40, 36, 24, 16, 12), ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
TEACHER_GRIDS, TEACHER_RANGES = (80, 64, 32, 24, 12), ((1, 72), (72, 144), (144, 288), (288, 584), (584, 2048))
# What configs may name instead of stating the numbers.
NAMED_GRIDS = {"student": STUDENT_GRIDS, "teacher": TEACHER_GRIDS}
NAMED_RANGES = {"student": STUDENT_RANGES, "teacher": TEACHER_RANGES}
# Ranges that put objects of any size on every level, for points without sizes.
ALL_SIZES = ((0, float("inf")),) * 5


@dataclass(frozen=True)
class GridLevels:
    """The grids of a model, fine to coarse, and which objects belong to them.

    Attributes:
        sides: cells along each side of a level's grid; it spans the padded image.
        ranges: of each level [low, high); it has the objects whose square root of the box area, in pixels, lies there.
        sigma: size of the positive region around the centre of mass, relative to the box; at most 3 x 3 cells.
    """

    sides: tuple[int, ...] = STUDENT_GRIDS
    ranges: tuple[tuple[float, float], ...] = STUDENT_RANGES
    sigma: float = 0.2

    def __post_init__(self):
        if len(self.sides) != len(self.ranges):
            raise ValueError(f"{len(self.sides)} grids but {len(self.ranges)} ranges of object sizes")
        if min(self.sides) < 1 or not all(low < high for low, high in self.ranges):
            raise ValueError(f"not grids and ranges of sizes: {self.sides}, {self.ranges}")
        if gaps := [(high, low) for high, low in self._borders() if low > high]:
            raise ValueError(f"scale_ranges: no grid has the objects of sizes from {gaps[0][0]:g} to {gaps[0][1]:g}")

    def _borders(self) -> list[tuple[float, float]]:
        """Where the ranges of smaller objects end, and where the next one begins."""
        ranges = sorted(self.ranges)
        ends = [max(high for _, high in ranges[:i]) for i in range(1, len(ranges))]
        return [(end, low) for end, (low, _) in zip(ends, ranges[1:], strict=True)]

    @classmethod
    def of(cls, sides: Sequence[int] | str, ranges: Sequence[Sequence[float]] | str, sigma: float) -> GridLevels:
        """The levels of numbers, or of the names "student" and "teacher" for those of the paper.

        Raises:
            ValueError: another name, or numbers that do not fit each other.
        """
        for name, known in ((sides, NAMED_GRIDS), (ranges, NAMED_RANGES)):
            if isinstance(name, str) and name not in known:
                raise ValueError(f"unknown grids {name!r}: choose from {', '.join(known)}, or state the numbers")
        sides = NAMED_GRIDS[sides] if isinstance(sides, str) else tuple(sides)
        ranges = NAMED_RANGES[ranges] if isinstance(ranges, str) else ranges
        return cls(sides, tuple((low, high) for low, high in ranges), sigma)

    @property
    def level_sizes(self) -> list[int]:
        """Number of cells of each level."""
        return [side * side for side in self.sides]

    def offsets(self, device: torch.device) -> Tensor:
        """The index of the first cell of each level, `[l]`, where cells are numbered through the levels."""
        sizes = torch.tensor([0, *self.level_sizes[:-1]], device=device)
        return sizes.cumsum(0)


@dataclass
class Objects:
    """The objects of a batch as one table, image after image.

    Attributes:
        image: [n] index of the image in the batch.
        labels: [n] int64.
        boxes: [n, 4] xyxy in pixels of the network's input.
        centres: [n, 2] x, y of the centre of mass, or of the prompted point, in the same pixels.
        masks: [n, h / 4, w / 4] uint8 at the size of the mask features, or None.
    """

    image: Tensor
    labels: Tensor
    boxes: Tensor
    centres: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_annotations(
        cls, annotations: Sequence[Annotations], frame: tuple[int, int], device: torch.device
    ) -> Objects:
        """The objects of a batch; those with an empty mask are left out.

        Args:
            annotations: with masks where there are objects.
            frame: (h, w) of the padded images.
            device: of the result.

        Raises:
            ValueError: an image whose objects have no masks.
        """
        parts: list[tuple[Tensor, ...]] = []
        for i, objects in enumerate(annotations):
            if len(objects) == 0:
                continue
            masks = objects.mask_crops
            if masks is None:
                name = objects.file_name or objects.image_id or i
                raise ValueError(f"image {name}: training needs masks, it has only boxes")
            masks = masks.to(device)
            centres, area = centres_of_crops(masks)
            small = quarter_crops(masks, (frame[0] // 4, frame[1] // 4))
            labels, boxes = objects.labels.to(device), objects.boxes.to(device).float()
            columns = torch.full_like(labels, i), labels, boxes, centres, small
            parts.append(tuple(column[area > 0] for column in columns))
        if not parts:
            nothing = torch.zeros(0, device=device)
            small = nothing.byte().view(0, 1, 1).expand(0, frame[0] // 4, frame[1] // 4)
            return cls(nothing.long(), nothing.long(), nothing.view(0, 4), nothing.view(0, 2), small)
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass
class GridTargets:
    """Which object each cell should predict.

    A cell may be positive for several objects. The class is that of its owner, the last of them; the mask is trained
    for all of them, one row for each pair of object and cell.

    Attributes:
        owner: [b, p] index of the object in the batch; -1 for none.
        row_cell: [r] cell of each pair.
        row_object: [r] object of each pair, ascending.
    """

    owner: Tensor
    row_cell: Tensor
    row_object: Tensor

    def labels(self, objects: Objects, background: int) -> Tensor:
        """The class of each cell `[b, p]`, `background` where no object is."""
        if len(objects) == 0:
            return torch.full_like(self.owner, background)
        return torch.where(self.owner >= 0, objects.labels[self.owner], background)


def cells_at(position: Tensor, size: int, sides: Sequence[int]) -> Tensor:
    """The row or column of positions `[n]`, in pixels of an axis of `size` pixels, in the grid of each level: `[n, l]`.

    This is torch's floor division of floats: exactly on a border between two cells, rounding may give the lower one.
    The published checkpoints were trained with that.
    """
    width = torch.tensor([1 / side for side in sides], dtype=position.dtype, device=position.device)
    return torch.div((position / size)[:, None], width, rounding_mode="floor").long()


def assign(
    objects: Objects, grids: GridLevels, frame: tuple[int, int], batch: int, *, centre_only: bool = False
) -> GridTargets:
    """Assign the grid cells of a batch to its objects.

    An object gets the cells around its centre, on the levels whose range of sizes holds it. Where several objects get a
    cell, the last one owns it.

    Args:
        objects: of the batch.
        grids: of the model.
        frame: (h, w) of the padded images.
        batch: number of images.
        centre_only: assign the cell of the centre only.
    """
    device = objects.boxes.device
    offsets, total = grids.offsets(device), sum(grids.level_sizes)
    sides = torch.tensor(grids.sides, device=device)
    rows, row_valid = _reach(objects, grids, frame[0], 1, centre_only)
    columns, column_valid = _reach(objects, grids, frame[1], 0, centre_only)
    valid = row_valid[..., :, None] & column_valid[..., None, :] & levels_of(objects.boxes, grids)[..., None, None]
    cell = (offsets[:, None] + rows * sides[:, None])[..., :, None] + columns[..., None, :]
    row_object, row_cell = valid.nonzero()[:, 0], cell[valid]
    owner = torch.full((batch * total,), -1, dtype=torch.int64, device=device)
    owner.scatter_reduce_(0, objects.image[row_object] * total + row_cell, row_object, "amax")
    return GridTargets(owner.view(batch, total), row_cell, row_object)


def levels_of(boxes: Tensor, grids: GridLevels) -> Tensor:
    """Which levels have boxes `[n, 4]` of these sizes, `[n, l]` bool."""
    sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()[:, None]
    low, high = torch.tensor(grids.ranges, dtype=sizes.dtype, device=sizes.device).unbind(1)
    return (sizes >= low) & (sizes < high)


def _reach(objects: Objects, grids: GridLevels, size: int, axis: int, centre_only: bool) -> tuple[Tensor, Tensor]:
    """The cell of the centre and its neighbours along an axis (0: x), `[n, l, 3]`, and which of them are positive."""
    centre = objects.centres[:, axis]
    last = torch.tensor(grids.sides, device=centre.device) - 1
    middle = cells_at(centre, size, grids.sides)
    if centre_only:
        middle = torch.minimum(middle.clamp(min=0), last)
        low = high = middle
    else:
        half = 0.5 * grids.sigma * (objects.boxes[:, axis + 2] - objects.boxes[:, axis])
        low = cells_at(centre - half, size, grids.sides).clamp(min=0)
        high = torch.minimum(cells_at(centre + half, size, grids.sides), last)
    around = middle[..., None] + torch.arange(-1, 2, device=centre.device)
    return around, (around >= low[..., None]) & (around <= high[..., None])
