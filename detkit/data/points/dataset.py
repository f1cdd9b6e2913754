"""Images with points, from files as `detkit.data.points.file` describes them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.data.annotations import Problem, list_problems
from detkit.data.coco import CocoDataset
from detkit.data.points.file import read_points
from detkit.images import image_size, read_photo
from detkit.ops.points import check_inside
from detkit.registry import register
from detkit.structures import Annotations

logger = logging.getLogger(__name__)


@register
class PointDataset(CocoDataset):
    """Images with a point and a class for each object, by the protocol of datasets.

    Samples are `(image, Annotations)` whose `points` are those of the file and whose boxes are the given ones, or
    without extent at the point where none is given. Images without points stay: they have none. Annotations that
    cannot be used are left out and reported, see `problems`.

    Points are no ground truth for boxes and masks: compare predictions with the json of full annotations.

    Args:
        annotation_file: the json file, see `detkit.data.points.file`.
        image_folder: where the file names in it begin.

    Attributes:
        problems: the annotations left out, and why.
        has_boxes: whether every point has a box.

    Raises:
        ValueError: a file is missing or broken, or no annotation can be used; the message names it and the ids.
    """

    def __init__(self, annotation_file: str | Path | None, image_folder: str | Path | None):
        self.problems: list[Problem] = []
        self.has_boxes = False
        super().__init__(annotation_file, image_folder)
        if self.problems:
            message = "%s: left out %d annotations that are not usable as points: %s"
            logger.warning(message, self.annotation_file, len(self.problems), list_problems(self.problems))

    def annotation_ids(self, index: int) -> list[int]:
        """The file's ids of the points of a sample, in their order."""
        return self._annotation_ids[self._starts[index] : self._starts[index + 1]].tolist()

    def __getitem__(self, index: int) -> tuple[Tensor, Annotations]:
        """The image uint8 [3, h, w] and its points.

        Raises:
            ValueError: the image cannot be read, or is smaller than the file says and has points beyond its border;
                the message names the file and the image id.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        path, image_id = self._image_path(index), int(self._image_ids[index])
        where = f"image id {image_id} ({path}) of {self.annotation_file}"
        objects = slice(self._starts[index], self._starts[index + 1])
        try:
            image, frame = read_photo(path)
            height, width = image_size(image)
            turn = self._turn(index, frame)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        names = [f"annotation {i}" for i in self.annotation_ids(index)]
        points, boxes = turn.points(self._points[objects]), turn.boxes(self._boxes[objects])
        check_inside(points, (height, width), where, names)
        return image, Annotations(
            boxes=torch.from_numpy(boxes.clip(0, (width, height, width, height)).astype(np.float32)),
            labels=torch.from_numpy(self._labels[objects]),
            points=torch.from_numpy(points),
            image_id=image_id,
            original_size=(height, width),
            file_name=path,
        )

    def _read_file(self, *, quiet: bool = False) -> dict[str, Any]:
        content, self.problems, self.crowds = read_points(self.annotation_file)  # has no crowds any more
        points = content["annotations"]
        self.has_boxes = bool(points) and all("bbox" in a for a in points)
        return {**content, "annotations": [{"bbox": [*a["point"], 0, 0], **a} for a in points]}

    def _set_annotations(self, annotations: list[dict]) -> None:
        super()._set_annotations(annotations)
        point_of = {a["id"]: a["point"] for a in annotations}
        points = [point_of[i] for i in self._annotation_ids.tolist()]
        self._points = np.array(points, dtype=np.float32).reshape(-1, 2)
