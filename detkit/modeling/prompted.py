"""Models that can be told what a user knows about the objects of an image.

Shape letters: n objects.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.images import image_size, load_image
from detkit.modeling.image_model import ImageModel
from detkit.structures import Detections, ImageBatch, Prompt

PROMPTS = ("none", "class", "point", "point_with_size")
NEEDED = {"class": ("labels",), "point": ("points", "labels"), "point_with_size": ("points", "labels", "boxes")}


class PromptedModel(ImageModel):
    """A model that can be told about objects. A subclass gives `detect_prompted` besides `detect`."""

    @abstractmethod
    def detect_prompted(
        self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]], prompt: str, prompts: Sequence[Prompt]
    ) -> list[Detections]:
        """What is found of each image with its prompt, in pixels of images of (h, w) `original_sizes`.

        Args:
            images: normalised.
            prompt: "class", "point" or "point_with_size", see `predict`.
            prompts: what is known of each image, in pixels of the original images.

        Returns:
            `PromptedDetections`, best first.
        """

    @torch.inference_mode()
    def predict(
        self,
        images: Any,
        batch_size: int = 1,
        *,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        prompt: str | None = None,
        **options: Any,
    ) -> Any:
        """Find objects in images of any size, where wanted from what is known about them.

        Args:
            images: as in `ImageModel.predict`.
            batch_size: how many images go through the model together.
            points: of each image `[n, 2]`, x to the right and y down in pixels of the image as given. For a single
                image (not in a list) its own points.
            labels: of each image `[n]`, the classes of its objects.
            boxes: of each image `[n, 4]`, x1 y1 x2 y2 in the same pixels.
            prompt: what to use of it. By default "point" where points are given, else "none".
                "none": nothing.
                "class": `labels`, the classes that occur; with `points` and `boxes` also where they occur.
                "point": `points` and `labels`; one mask for each point.
                "point_with_size": also `boxes`, which tell how large the objects are.
                How a model makes use of each, its module says: `detkit.pointseg.candidates`, `detkit.vidt.prompts`.
            options: without a prompt those of `ImageModel.predict`: stream, min_score, classes, slice, overlap, tta.

        Returns:
            One `Detections` per image, in pixels of that image; with a prompt `PromptedDetections`, which know the
            points they answer. A point may have no answer.

        Raises:
            ValueError: an unknown prompt, something that it needs is missing or does not fit, a point outside, or
                options beside a prompt.
        """
        prompt = prompt or ("none" if points is None else "point")
        if prompt not in PROMPTS:
            raise ValueError(f"unknown prompt {prompt!r}: choose from {', '.join(PROMPTS)}")
        if prompt == "none":
            if any(given is not None for given in (points, labels, boxes)):
                raise ValueError("prompt 'none' uses no points, labels or boxes: leave them out, or choose another")
            return super().predict(images, batch_size, **options)
        if options:
            raise ValueError(f"prompt {prompt!r} does not go together with {', '.join(options)}: leave them out")
        self._check_ready(batch_size)
        if not isinstance(images, (list, tuple)):
            images = [images]
            points, labels, boxes = ([x] if x is not None else None for x in (points, labels, boxes))
        given = dict(points=points, labels=labels, boxes=boxes)
        prompts = read_prompts(prompt, len(images), len(self.label_map), self.device, **given)
        found: list[Detections] = []
        for start in range(0, len(images), batch_size):
            chunk = slice(start, start + batch_size)
            found += self._predict_chunk([load_image(image) for image in images[chunk]], prompt, prompts[chunk], start)
        return found

    def _predict_chunk(self, images: list[Tensor], prompt: str, prompts: list[Prompt], start: int) -> list[Detections]:
        sizes = [image_size(image) for image in images]
        for i, (known, size) in enumerate(zip(prompts, sizes, strict=True)):
            known.check_inside(size, f"image {start + i}")
        return self.detect_prompted(self.resized_batch(images), sizes, prompt, prompts)


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
