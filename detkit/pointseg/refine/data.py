"""The training data of MaskRefineNet: rough masks of a teacher, each with its true mask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from detkit.data.base import ImageDataset
from detkit.data.coco import CocoDataset
from detkit.data.coco_file import load_json
from detkit.data.views import EvaluationView, TrainingView
from detkit.ops.rle import decode_mask, mask_areas
from detkit.pointseg.geometry import centres_of_crops
from detkit.pointseg.refine.batches import Origin, RoughMasks, collate
from detkit.pointseg.refine.crops import SIZE, Crop, CropDraw, training_crop
from detkit.pointseg.refine.losses import match_masks
from detkit.registry import register
from detkit.registry.ranges import PictureSide, Scale, Texts
from detkit.structures import Annotations

logger = logging.getLogger(__name__)

# Why rough masks are left out.
EMPTY = "empty"
NO_TRUTH = "of a class that has no true mask in their image"
UNKNOWN = "of images or classes that the annotation file does not list"
KEYS = ("image_id", "category_id", "segmentation", "point")


class CropTrainingView(TrainingView):
    """Random training crops of rough masks, by sample key."""

    def __init__(self, dataset: RefineCrops, transforms: Sequence[Any] = (), **options: Any):
        last: Any = dataset.random_crop
        super().__init__(dataset, (*transforms, last), **options)


class RoughEvaluationView(EvaluationView):
    """Whole images with all their rough masks, by index of the image; `resize` is not used."""

    def __init__(self, dataset: RefineCrops, resize: Callable[[Tensor], Tensor], *, skip_broken: bool = True):
        super().__init__(dataset.by_image(), resize, skip_broken=skip_broken)

    def resized(self, image: Tensor, annotations: RoughMasks) -> tuple[Tensor, RoughMasks]:
        """The sample as it is: the model crops and resizes the image around each rough mask itself."""
        return image, annotations


class RoughImages:
    """The images of a `RefineCrops` with all their rough masks."""

    def __init__(self, crops: RefineCrops):
        self.crops = crops
        self.numbers, firsts = np.unique(crops.image_numbers, return_index=True)
        self._rows = np.split(np.arange(len(crops)), firsts[1:])
        self.image_ids = [crops.truth.image_ids[i] for i in self.numbers.tolist()]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Tensor, RoughMasks]:
        return self.crops.read(self._rows[index])


@register
class RefineCrops(ImageDataset):
    """Rough masks, each with the true mask of its class whose centre is nearest to its point.

    For training each rough mask is a sample: a random crop around it, as in the paper. Transforms may change colours
    before, but must not move pixels. For evaluation each image is a sample, with all its rough masks; the model crops
    them as at inference.

    Rough masks that are empty, of a class without a true mask in their image, or of images that are not in the
    annotation file are left out; one warning counts them.

    Args:
        predictions: files of COCO results with "image_id", "category_id", "segmentation" as compressed run lengths and
            "point", x y in pixels of the image. The paper pools those of two checkpoints of the teacher.
        annotation_file, image_folder: true masks and images, see `CocoDataset`.
        size: side of the training crops in pixels, that of the model.
        max_box: the sides of a crop are drawn from 1 to `max_box` times those of the rough mask.
        scales: smallest and largest scale of the pixels in a crop.
        classes: names of the classes to keep; None keeps all.

    Attributes:
        label_map: of the annotation file. image_ids, image_numbers, sizes: of each rough mask, by image.
        left_out: how many rough masks were left out, by reason.

    Raises:
        ValueError: a file that cannot be read or is of another form, or nothing to learn from.
    """

    training_view = CropTrainingView
    evaluation_view = RoughEvaluationView
    collate = staticmethod(collate)

    def __init__(
        self,
        predictions: Sequence[str | Path],
        annotation_file: str | Path,
        image_folder: str | Path,
        *,
        size: PictureSide = SIZE,
        max_box: Annotated[float, Ge(1), Le(100)] = 2.0,
        scales: tuple[Scale, Scale] = (0.5, 1.5),
        classes: Texts | None = None,
    ):
        if isinstance(predictions, (str, Path)) or not predictions:
            raise ValueError(f"predictions must be a list of files, got {predictions!r}")
        if size < 32 or max_box < 1 or not 0 < scales[0] <= scales[1]:
            raise ValueError(
                f"size must be at least 32, max_box at least 1 and scales ascend from above 0, "
                f"got {size}, {max_box}, {tuple(scales)}"
            )
        self.truth = CocoDataset(annotation_file, image_folder, masks=True, classes=classes)
        self.label_map = self.truth.label_map
        self.size, self.max_box, self.scales = size, max_box, (scales[0], scales[1])
        self.left_out = dict.fromkeys((EMPTY, NO_TRUTH, UNKNOWN), 0)
        rough = [entry for path in predictions for entry in read_rough_masks(Path(path))]
        self._keep(rough)
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        if len(self) == 0:
            raise ValueError(f"none of the rough masks in {', '.join(map(str, predictions))} can be used: {reasons}")
        if reasons:
            number = sum(self.left_out.values())
            logger.warning("data: %d of %d rough masks are left out: %s", number, len(rough), reasons)
        self.image_ids = [self.truth.image_ids[i] for i in self.image_numbers.tolist()]
        self.sizes = self.truth.sizes[self.image_numbers]

    def _keep(self, rough: list[dict[str, Any]]) -> None:
        """Store the usable rough masks in flat arrays, ordered by image."""
        number_of = {image_id: number for number, image_id in enumerate(self.truth.image_ids)}
        true = {(a["image_id"], a["category_id"]) for a in self.truth.coco()["annotations"] if not a.get("iscrowd")}
        kept = []
        for entry, area in zip(rough, mask_areas([entry["segmentation"] for entry in rough]).tolist(), strict=True):
            image_id, category_id = entry["image_id"], entry["category_id"]
            if image_id not in number_of or category_id not in self.label_map.category_ids:
                self.left_out[UNKNOWN] += 1
            elif (image_id, category_id) not in true:
                self.left_out[NO_TRUTH] += 1
            elif area == 0:
                self.left_out[EMPTY] += 1
            else:
                self._check_size(entry, number_of[image_id])
                kept.append(entry)
        kept.sort(key=lambda entry: number_of[entry["image_id"]])
        self.image_numbers = np.array([number_of[entry["image_id"]] for entry in kept], dtype=np.int64)
        self._category_ids = np.array([entry["category_id"] for entry in kept], dtype=np.int64)
        self._points = np.array([entry["point"] for entry in kept], dtype=np.float32).reshape(-1, 2)
        counts = [entry["segmentation"]["counts"].encode() for entry in kept]
        self._starts = np.cumsum([0, *map(len, counts)], dtype=np.int64)
        self._run_lengths = np.frombuffer(b"".join(counts), dtype=np.uint8)

    def _check_size(self, entry: dict[str, Any], number: int) -> None:
        """Check the size of a rough mask; rough masks belong to the upright picture."""
        size, given = self.truth.sizes[number].tolist(), list(entry["segmentation"]["size"])
        if given != size and given != list(self.truth.upright_size(number)):
            raise ValueError(
                f"a rough mask of image id {entry['image_id']} has height, width {entry['segmentation']['size']}, the "
                f"image has {size} in {self.truth.annotation_file}"
            )

    def __len__(self) -> int:
        return len(self.image_numbers)

    def by_image(self) -> RoughImages:
        """The same rough masks, with each image as a sample."""
        return RoughImages(self)

    def __getitem__(self, index: int) -> tuple[Tensor, RoughMasks]:
        """One rough mask with its image, uint8 [3, h, w].

        Raises:
            ValueError: the image or a mask cannot be read, or the true masks of the class have no pixels.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"rough mask {index} of {len(self)}")
        return self.read(np.array([index]))

    def read(self, rows: np.ndarray) -> tuple[Tensor, RoughMasks]:
        """The image of rough masks with these numbers, all of one image, and those masks that have a true mask."""
        image, annotations = self.truth[int(self.image_numbers[rows[0]])]
        where = f"image id {annotations.image_id} ({annotations.file_name})"
        rough = torch.from_numpy(np.stack([self._decode(row, annotations, where) for row in rows.tolist()]))
        points = torch.from_numpy(self._points[rows])
        category_ids = torch.from_numpy(self._category_ids[rows])
        masks = annotations.mask_crops
        assert masks is not None
        true_ids = torch.tensor(self.label_map.category_ids)[annotations.labels]
        pairs = match_masks(points, category_ids, centres_of_crops(masks)[0], true_ids)
        if len(pairs) == 0:
            raise ValueError(f"{where}: the true masks of the classes {category_ids.unique().tolist()} have no pixels")
        chosen, true = pairs.unbind(1)
        known = points[chosen], category_ids[chosen], masks[true].dense()
        return image, RoughMasks(rough[chosen], *known, annotations.image_id, annotations.file_name)

    def _decode(self, row: int, annotations: Annotations, where: str) -> np.ndarray:
        assert annotations.original_size is not None
        counts = self._run_lengths[self._starts[row] : self._starts[row + 1]].tobytes().decode()
        height, width = annotations.original_size
        try:
            return decode_mask({"size": [height, width], "counts": counts}, height, width)
        except ValueError as error:
            raise ValueError(f"rough mask of {where}: {error}") from error

    def random_crop(self, image: Tensor, known: RoughMasks, rng: np.random.Generator) -> tuple[Crop, Origin]:
        """The last training transform: a random crop of `size` x `size` pixels around the sample's only rough mask."""
        draw = CropDraw.random(rng, max_box=self.max_box, pixels=self.scales)
        label = self.label_map.category_ids.index(int(known.category_ids[0]))
        crop = training_crop(image, known.rough[0], known.true[0], label, draw, size=self.size)
        return crop, Origin(known.image_id, known.file_name)


def read_rough_masks(path: Path) -> list[dict[str, Any]]:
    """The entries of a prediction file.

    Raises:
        ValueError: it cannot be read, or an entry is of another form.
    """
    content = load_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of COCO results, got {type(content).__name__}")
    for number, entry in enumerate(content):
        if missing := [key for key in KEYS if not isinstance(entry, dict) or key not in entry]:
            raise ValueError(f"{path}[{number}] lacks {', '.join(map(repr, missing))}")
        segmentation, point = entry["segmentation"], entry["point"]
        if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
            raise ValueError(f"{path}[{number}]: its segmentation must be compressed run lengths")
        if not isinstance(point, list) or len(point) != 2 or not np.isfinite(point).all():
            raise ValueError(f"{path}[{number}]: its point must be x, y, got {point!r}")
    return content
