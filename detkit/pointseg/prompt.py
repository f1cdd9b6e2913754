"""What a user knows about the objects of an image before the model looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detkit.pointseg.grid import Objects

PROMPTS = ("none", "class", "point", "point_with_size")
NEEDED = {"class": ("labels",), "point": ("points", "labels"), "point_with_size": ("points", "labels", "boxes")}


@dataclass
class Prompt:
    """The known objects of one image.

    Attributes:
        labels: [n] int64.
        points: [n, 2] x, y in pixels, or None.
        boxes: [n, 4] xyxy in pixels, or None.
    """

    labels: Tensor
    points: Tensor | None = None
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def scaled(self, x: float, y: float) -> Prompt:
        """The same objects after the image was resized by these factors."""
        factors = torch.tensor([x, y, x, y], device=self.labels.device)
        points = None if self.points is None else self.points * factors[:2]
        return replace(self, points=points, boxes=None if self.boxes is None else self.boxes * factors)

    def objects(self) -> Objects:
        """As a table; there must be points, and objects without a box have one without extent."""
        assert self.points is not None
        boxes = self.points.repeat(1, 2) if self.boxes is None else self.boxes
        return Objects(torch.zeros_like(self.labels), self.labels, boxes, self.points)

    def check_inside(self, size: tuple[int, int], name: str) -> None:
        """The points must lie in an image of (h, w) `size`, border included.

        Raises:
            ValueError: one that does not; it begins with `name`.
        """
        if self.points is None:
            return
        limit = self.points.new_tensor([size[1], size[0]])
        outside = ((self.points < 0) | (self.points > limit)).any(1).nonzero()[:, 0].tolist()
        if outside:
            shown = ", ".join(f"{i} at {tuple(self.points[i].tolist())}" for i in outside[:5])
            pixels = f"{size[1]} x {size[0]} pixels"
            raise ValueError(f"{name}: {len(outside)} points lie outside its {pixels}: {shown}")


def read_prompts(
    prompt: str, images: int, num_classes: int, device: torch.device, **given: Sequence[Any] | None
) -> list[Prompt]:
    """Check what a user gives for a list of images.

    Args:
        prompt: one of `PROMPTS`, not "none".
        images: their number.
        given: `points`, `labels` and `boxes`, each a list with something like an array for each image, or None.

    Raises:
        ValueError: something is missing, or of another length, shape or value.
    """
    needed = NEEDED[prompt]
    if prompt == "class" and (given["points"] is not None or given["boxes"] is not None):
        needed = NEEDED["point_with_size"]
    if missing := [name for name in needed if given[name] is None]:
        raise ValueError(f"prompt {prompt!r} needs {', '.join(needed)}; {', '.join(missing)} missing")
    if prompt == "point":
        given["boxes"] = None
    for name, values in given.items():
        if values is not None and len(values) != images:
            raise ValueError(f"{images} images but {name} for {len(values)}")
    columns = [given[name] or [None] * images for name in ("labels", "points", "boxes")]
    return [
        _read_one(f"image {i}", num_classes, device, *values) for i, values in enumerate(zip(*columns, strict=True))
    ]


def _read_one(name: str, num_classes: int, device: torch.device, labels: Any, points: Any, boxes: Any) -> Prompt:
    known = torch.as_tensor(labels, device=device)
    if known.ndim != 1 or (len(known) and known.is_floating_point()):
        raise ValueError(f"{name}: labels must be [n] integers, got {known.dtype} {tuple(known.shape)}")
    if len(known) and not (int(known.min()) >= 0 and int(known.max()) < num_classes):
        raise ValueError(f"{name}: labels must lie in 0..{num_classes - 1}, got {sorted(set(known.tolist()))}")
    places = {"points": (points, 2), "boxes": (boxes, 4)}
    numbers = {k: _read_numbers(f"{name}: {k}", v, len(known), width, device) for k, (v, width) in places.items()}
    return Prompt(known.long(), **numbers)


def _read_numbers(name: str, values: Any, count: int, width: int, device: torch.device) -> Tensor | None:
    if values is None:
        return None
    table = torch.as_tensor(values, dtype=torch.float32, device=device)
    table = table.reshape(0, width) if table.numel() == 0 else table
    if table.shape != (count, width):
        raise ValueError(f"{name} must be [{count}, {width}] for {count} labels, got {tuple(table.shape)}")
    if not table.isfinite().all():
        raise ValueError(f"{name} are not all finite numbers")
    return table
