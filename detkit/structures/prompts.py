"""What a user knows about the objects of an image before the model looks at it.

Shape letters: n objects, h/w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detkit.ops.points import check_inside
from detkit.structures.tensors import TensorStruct


@dataclass
class Prompt(TensorStruct):
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

    def check_inside(self, size: tuple[int, int], name: str) -> None:
        """The points must lie in an image of (h, w) `size`, border included.

        Raises:
            ValueError: one that does not; it begins with `name`.
        """
        if self.points is not None:
            check_inside(self.points, size, name)
