"""Images with what was found and what is true, coloured by what is wrong, small enough for a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detkit.ops.rle import decode_mask
from detkit.reports.errors import CONFUSED, DOUBLED, IGNORED, INVENTED, MISPLACED, RIGHT, Errors
from detkit.reports.evaluated import Evaluated
from detkit.reports.matching import Matching
from detkit.visualize import draw_boxes

SIDE = 560  # pixels of the longer side of a picture
SMALLEST = 160  # a picture that does not fit at this side is left out
GREEN, MAGENTA = (40, 170, 70), (230, 0, 150)
COLORS = {
    RIGHT: GREEN,
    CONFUSED: (250, 140, 0),
    DOUBLED: (130, 70, 220),
    MISPLACED: (235, 205, 20),
    INVENTED: (225, 40, 40),
    IGNORED: (150, 150, 150),
}


@dataclass
class Photo:
    """A validation image, scaled for a page.

    Attributes:
        name: where it came from.
        picture: scaled.
        size: (w, h) before that.
    """

    name: str
    picture: Image.Image
    size: tuple[int, int]

    @classmethod
    def read(cls, evaluated: Evaluated, image_id: int) -> Photo:
        """Read an image of the validation data.

        Raises:
            ValueError: the file cannot be read.
        """
        pixels, annotations = evaluated.dataset[evaluated.dataset.image_ids.index(image_id)]
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        factor = SIDE / max(picture.size)
        small = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))
        return cls(annotations.file_name or f"image {image_id}", small, picture.size)

    def draw(self, boxes: Any, masks: Sequence | None, texts: Sequence[str], colors: Sequence) -> Image.Image:
        """A copy with boxes `[n, 4]` (x, y, width, height in pixels of the image) and masks as COCO has them."""
        factor = np.array([side / full for side, full in zip(self.picture.size, self.size, strict=True)] * 2)
        scaled = torch.from_numpy(np.array(boxes, dtype=np.float64).reshape(-1, 4) * factor)
        corners = torch.cat([scaled[:, :2], scaled[:, :2] + scaled[:, 2:]], dim=1)
        small = None if masks is None else _small_masks(masks, self.size, self.picture.size)
        return draw_boxes(self.picture.copy(), corners, small, texts, colors, range(len(boxes)))


def draw_found(photo: Photo, evaluated: Evaluated, matching: Matching, errors: Errors, image: int) -> Image.Image:
    """The detections of an image by their errors; those that are wrong have a tag.

    Args:
        image: its index in `matching`.
    """
    found = np.flatnonzero(matching.image == image)[::-1]  # the best on top
    kinds = [int(kind) for kind in errors.kind[found]]
    names = [evaluated.names[k] for k in matching.category[found]]
    tags = [f"{name} {score:.2f}" for name, score in zip(names, matching.score[found], strict=True)]
    texts = ["" if kind in (RIGHT, IGNORED) else tag for kind, tag in zip(kinds, tags, strict=True)]
    masks = None if matching.masks is None else [matching.masks[i] for i in found]
    return photo.draw(matching.rows["box"][found], masks, texts, [COLORS[kind] for kind in kinds])


def draw_true(photo: Photo, evaluated: Evaluated, matching: Matching, errors: Errors, image: int) -> Image.Image:
    """The true objects of an image; those that were missed have a tag."""
    objects = np.flatnonzero(matching.objects.image == image)
    annotations = [evaluated.truth["annotations"][i] for i in matching.objects.position[objects]]
    missed = [not errors.found[i] for i in objects]
    names = [evaluated.names[matching.objects.category[i]] for i in objects]
    texts = [name if is_missed else "" for name, is_missed in zip(names, missed, strict=True)]
    masks = None if matching.masks is None else [a["segmentation"] for a in annotations]
    return photo.draw([a["bbox"] for a in annotations], masks, texts, [MAGENTA if m else GREEN for m in missed])


def _small_masks(segmentations: Sequence, size: tuple[int, int], small: tuple[int, int]) -> Tensor:
    masks = [Image.fromarray(decode_mask(s, size[1], size[0])) for s in segmentations]
    scaled = [np.asarray(mask.resize(small, Image.Resampling.NEAREST)) for mask in masks]
    stacked = np.array(scaled, dtype=bool).reshape(-1, small[1], small[0])
    return torch.from_numpy(stacked)


def as_jpeg(picture: Image.Image, most: int) -> bytes | None:
    """A picture in at most so many bytes, of less quality and then smaller where it must be; None if it cannot be."""
    while max(picture.size) >= SMALLEST:
        for quality in (82, 65, 45):
            target = io.BytesIO()
            picture.save(target, format="JPEG", quality=quality)
            if target.tell() <= most:
                return target.getvalue()
        picture = picture.resize((picture.width * 2 // 3, max(1, picture.height * 2 // 3)))
    return None


def legend() -> str:
    """What the colours mean, as HTML."""
    names: Mapping[str, tuple[int, int, int]] = {
        "right or found": GREEN,
        "missed": MAGENTA,
        "confused": COLORS[CONFUSED],
        "doubled": COLORS[DOUBLED],
        "misplaced": COLORS[MISPLACED],
        "invented": COLORS[INVENTED],
        "on a crowd region, does not count": COLORS[IGNORED],
    }
    parts = (f'<span class="swatch" style="background:rgb{color}"></span>{name}' for name, color in names.items())
    return f'<p class="note">{"".join(parts)}</p>'
