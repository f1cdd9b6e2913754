"""Detection and instance segmentation datasets in COCO's json format."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.config import missing_data_hint
from detkit.data.annotations import refuse_only_crowds
from detkit.data.base import ImageDataset
from detkit.data.coco_file import read_coco_file, select_categories, turn_content
from detkit.files import as_url, refuse_url
from detkit.images import Frame, image_size, read_frame, read_photo
from detkit.ops.masks import MaskCrops
from detkit.ops.orientation import Turn
from detkit.ops.rle import decode_mask
from detkit.registry import register
from detkit.registry.ranges import Texts
from detkit.structures import Annotations, LabelMap

logger = logging.getLogger(__name__)


@register
class CocoDataset(ImageDataset):
    """Images and objects of a COCO instances file.

    The file is parsed once. What training needs is kept in a few flat arrays, which worker processes share instead of
    copying them. Category ids may start anywhere and have gaps: labels number the categories in the order of their ids.

    Crowd regions are left out of the samples, counted in `summary()` and kept in `coco()`. Annotations that cannot be
    used, see `detkit.data.annotations`, are left out everywhere and reported.

    A photo is its upright picture. Whether its annotations mean that or the pixels as stored, the width and height in
    the file tell; in the second case boxes and masks are turned with the pixels.

    Args:
        annotation_file: the json file.
        image_folder: where the file names in it begin.
        masks: whether samples carry instance masks and `coco()` segmentations.
        classes: names of the classes to keep; None keeps all.
        drop_empty: leave out images without objects to train on. Not for evaluation: there every image counts.

    Attributes:
        label_map: class names and category ids of the labels.
        sizes: (height, width) of each image as the file says, int array [len, 2].
        crowds: the number of crowd regions of the classes kept.

    Raises:
        ValueError: a file is missing, not json or contradicts itself, or all annotations are crowd regions or cannot be
            used; the message names it and the ids.
    """

    def __init__(
        self,
        annotation_file: str | Path | None,
        image_folder: str | Path | None,
        *,
        masks: bool = False,
        classes: Texts | None = None,
        drop_empty: bool = False,
    ):
        if annotation_file is None or image_folder is None:
            raise ValueError("annotation_file (a COCO-format json) and image_folder are not given yet; set both")
        self.annotation_file, self.image_folder = Path(annotation_file), Path(image_folder)
        self.with_masks, self.crowds = masks, 0
        content = self._read_file()
        try:
            categories = select_categories(content["categories"], classes)
        except ValueError as error:
            raise ValueError(f"{self.annotation_file}: {error}") from error
        self.label_map = LabelMap(tuple(c["name"] for c in categories), tuple(c["id"] for c in categories))
        self._set_images(content["images"])
        self._set_annotations(content["annotations"])
        refuse_only_crowds(self.annotation_file, len(self._boxes), self.crowds)
        if drop_empty:
            self._drop_empty_images()
        if len(self) == 0:
            raise ValueError(f"{self.annotation_file}: has no images" + " with objects" * drop_empty)
        self._check_image_files()
        self._reported_sizes: set[int] = set()
        self._reported_masks: set[int] = set()
        logger.info("%s", self.summary())

    def summary(self) -> str:
        """The numbers of images, objects and crowd regions, in one line."""
        empty = int((np.diff(self._starts) == 0).sum())
        return (
            f"{self.annotation_file}: {len(self)} images ({empty} of them empty), {len(self._boxes)} objects of "
            f"{len(self.label_map)} classes, {self.crowds} left out as crowds"
        )

    def __len__(self) -> int:
        return len(self._image_ids)

    @property
    def image_ids(self) -> list[int]:
        """The id of each image in the file."""
        return self._image_ids.tolist()

    @property
    def max_objects_per_image(self) -> int:
        """The largest number of objects in one sample."""
        return int(np.diff(self._starts).max())

    def __getitem__(self, index: int) -> tuple[Tensor, Annotations]:
        """The image uint8 [3, h, w] and its annotations.

        A segmentation that does not fit the size of the image is left out with its object and reported.

        Raises:
            ValueError: the image cannot be read; the message names the file and the image id.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        path, image_id = self._image_path(index), int(self._image_ids[index])
        try:
            image, frame = read_photo(path)
            height, width = image_size(image)
            turn = self._turn(index, frame)
            objects = np.arange(self._starts[index], self._starts[index + 1])
            boxes = _clip_boxes(turn.boxes(self._boxes[objects]), height, width)
            keep = _has_area(boxes)
            masks = None
            if self.with_masks:
                masks = MaskCrops.of_masks(self._decode_masks(objects, keep, turn), (height, width))
        except ValueError as error:
            raise ValueError(f"image id {image_id} ({path}) of {self.annotation_file}: {error}") from error
        return image, Annotations(
            boxes=torch.from_numpy(boxes[keep]),
            labels=torch.from_numpy(self._labels[objects[keep]]),
            masks=masks,
            image_id=image_id,
            original_size=(height, width),
            file_name=path,
        )

    def upright_size(self, index: int) -> tuple[int, int]:
        """The (h, w) of an image as samples have it, read from the head of its file.

        Raises:
            ValueError: the image cannot be read.
        """
        return read_frame(self._image_path(index)).size

    def coco(self) -> dict[str, Any]:
        """The ground truth for evaluation, read from the file again: this dataset's images, crowds included.

        It is in pixels of the upright pictures, as the samples are, see `detkit.data.coco_file.turn_content`.

        Ids are those of the file, except that annotation ids count from 1 where the file counts from 0 (COCO's
        evaluation takes id 0 for "no object").
        """
        content = self._read_file(quiet=True)
        images, categories = set(self.image_ids), set(self.label_map.category_ids)
        kept = [a for a in content["annotations"] if a["image_id"] in images and a["category_id"] in categories]
        shift = int(any(a["id"] == 0 for a in kept))
        truth = {
            "images": [image for image in content["images"] if image["id"] in images],
            "annotations": [self._ground_truth(a, a["id"] + shift) for a in kept],
            "categories": [c for c in content["categories"] if c["id"] in categories],
        }
        return turn_content(truth, self.image_folder)

    def _read_file(self, *, quiet: bool = False) -> dict[str, Any]:
        return read_coco_file(self.annotation_file, masks=self.with_masks, quiet=quiet)

    def _ground_truth(self, annotation: dict, annotation_id: int) -> dict[str, Any]:
        _, _, width, height = annotation["bbox"]
        complete = {"area": width * height, "iscrowd": 0, **annotation, "id": annotation_id}
        if not self.with_masks:
            complete.pop("segmentation", None)
        return complete

    def _set_images(self, images: list[dict]) -> None:
        self._image_ids = np.array([image["id"] for image in images], dtype=np.int64)
        self.sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64).reshape(-1, 2)
        self._file_names = np.array([os.fsencode(image["file_name"]) for image in images], dtype=np.bytes_)

    def _set_annotations(self, annotations: list[dict]) -> None:
        """Set the flat arrays of objects; those of image i are at `_starts[i]` up to `_starts[i + 1]`."""
        label_of = {category_id: label for label, category_id in enumerate(self.label_map.category_ids)}
        index_of = {image_id: index for index, image_id in enumerate(self._image_ids.tolist())}
        annotations = [a for a in annotations if a["category_id"] in label_of]
        self.crowds += sum(a["iscrowd"] for a in annotations)
        annotations = [a for a in annotations if not a["iscrowd"]]
        image_index = np.array([index_of[a["image_id"]] for a in annotations], dtype=np.int64)
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        order = np.argsort(image_index, kind="stable")
        ordered = [annotations[i] for i in order]
        self._boxes = boxes[order].astype(np.float32)
        self._labels = np.array([label_of[a["category_id"]] for a in ordered], dtype=np.int64)
        self._annotation_ids = np.array([a["id"] for a in ordered], dtype=np.int64)
        counts = np.bincount(image_index[order], minlength=len(self))
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        if self.with_masks:
            self._set_segmentations(ordered)

    def _set_segmentations(self, annotations: list[dict]) -> None:
        texts = [json.dumps(a["segmentation"], separators=(",", ":")).encode() for a in annotations]
        self._segmentation_starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        self._segmentations = np.frombuffer(b"".join(texts), dtype=np.uint8)

    def _decode_masks(self, objects: np.ndarray, keep: np.ndarray, turn: Turn) -> Iterator[np.ndarray]:
        """The masks of the objects to keep, `[h, w]` each; those whose segmentation cannot be read leave `keep`."""
        for number in np.flatnonzero(keep):
            i = objects[number]
            text = self._segmentations[self._segmentation_starts[i] : self._segmentation_starts[i + 1]].tobytes()
            try:
                mask = decode_mask(json.loads(text), *turn.annotated_size)
            except ValueError as error:
                keep[number] = False
                self._report_mask(int(self._annotation_ids[i]), error)
                continue
            yield turn.masks(torch.from_numpy(mask)[None])[0].numpy() if turn else mask

    def _report_mask(self, annotation_id: int, error: ValueError) -> None:
        if annotation_id not in self._reported_masks:
            self._reported_masks.add(annotation_id)
            message = "%s: left out annotation %d, its segmentation does not fit its image: %s"
            logger.warning(message, self.annotation_file, annotation_id, error)

    def _drop_empty_images(self) -> None:
        filled = np.flatnonzero(np.diff(self._starts))
        self._image_ids, self.sizes = self._image_ids[filled], self.sizes[filled]
        self._file_names = self._file_names[filled]
        self._starts = np.append(self._starts[filled], self._starts[-1])

    def _image_path(self, index: int) -> str:
        return os.path.join(self.image_folder, os.fsdecode(self._file_names[index]))

    def _check_image_files(self) -> None:
        refuse_url(self.image_folder, "folder")
        if not self.image_folder.is_dir():
            raise ValueError(f"image folder {self.image_folder} does not exist{missing_data_hint(self.image_folder)}")
        present = set(os.listdir(self.image_folder))
        names = [os.fsdecode(name) for name in self._file_names]
        missing = [n for n in names if n not in present and not os.path.isfile(os.path.join(self.image_folder, n))]
        if missing:
            if url := as_url(missing[0]):
                hint = "download the images, and let file_name begin at image_folder"
                raise ValueError(f"{self.annotation_file}: the file_name {url[:100]} is a URL: {hint}")
            lost = f"{len(missing)} of {len(self)} images are not in {self.image_folder}"
            raise ValueError(f"{self.annotation_file}: {lost}: {', '.join(name[:100] for name in missing[:10])}")

    def _turn(self, index: int, frame: Frame) -> Turn:
        """How to turn the annotations of an image; where its size leaves doubts, they are reported once."""
        expected, path, image_id = tuple(self.sizes[index].tolist()), self._image_path(index), self._image_ids[index]
        if index not in self._reported_sizes:
            self._reported_sizes.add(index)
            if expected not in (frame.size, frame.stored_size):
                message = (
                    "%s (image id %d) has height, width %s, but %s says %s: its boxes are taken as pixels of the "
                    "upright image and clipped to it. Correct the file if the image was resized or cropped."
                )
                logger.warning(message, path, image_id, frame.size, self.annotation_file, expected)
            elif doubt := frame.doubt():
                logger.warning("%s (image id %d of %s): %s", path, image_id, self.annotation_file, doubt)
        return Turn.of(frame, expected)


def _clip_boxes(boxes: np.ndarray, height: int | np.ndarray, width: int | np.ndarray) -> np.ndarray:
    """Clip x1 y1 x2 y2 to images of `height` and `width` (one for all or one per box)."""
    clipped = np.empty_like(boxes)
    for i, limit in enumerate((width, height, width, height)):
        clipped[:, i] = np.clip(boxes[:, i], 0, limit)
    return clipped


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
