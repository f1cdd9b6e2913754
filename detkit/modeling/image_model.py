"""Models that map single images to detections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.images import image_size, load_image
from detkit.modeling.base import Model
from detkit.structures import Annotations, Batch, Detections, ImageBatch


class ImageModel(Model):
    """A detector or segmenter. A subclass gives `losses` and `detect`, both on normalised images."""

    @abstractmethod
    def losses(
        self, images: ImageBatch, annotations: Sequence[Annotations], num_objects: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted loss terms, each a scalar tensor.

        Args:
            images: normalised and padded.
            annotations: one for each image, boxes and masks in pixels of the unpadded image.
            num_objects: what the terms are divided by, see `detkit.structures.Batch`; None takes the batch's own.
        """

    @abstractmethod
    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """One `Detections` for each image, best first, in pixels of images of (h, w) `original_sizes`."""

    def batch_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Normalise the images of a batch and return the weighted loss terms, each a scalar tensor; see `losses`."""
        return self.losses(self.normalize(batch.images), batch.annotations, batch.num_objects)

    def batch_predictions(self, batch: Batch) -> list[Detections]:
        """Normalise the images of a batch and detect in each of them.

        Detections are in pixels of the image in full size (`original_size` of its annotations) or, where that is None,
        of the unpadded image in the batch.
        """
        sizes = [a.original_size or s for a, s in zip(batch.annotations, batch.images.sizes, strict=True)]
        return self.detect(self.normalize(batch.images), sizes)

    def resized_batch(self, images: Sequence[Tensor]) -> ImageBatch:
        """Resize RGB tensors `[3, h, w]` in 0..255 by the input rule, pad and normalise them."""
        return self.as_batch([self.input_rule.resize(image.to(self.device)) for image in images])

    def preprocess(self, images: Sequence[Tensor]) -> ImageBatch:
        """Resize, pad and normalise RGB tensors `[3, h, w]` in 0..255 as this model was trained."""
        return self.resized_batch(images)

    @torch.inference_mode()
    def predict(self, images: Any, batch_size: int = 1) -> list[Detections]:
        """Find objects in images of any size.

        Args:
            images: one image or a list of them: a path, a PIL image, an array `[h, w, 3]` (RGB) or `[h, w]`
                (grey), or a tensor `[3, h, w]`; uint8 in 0..255 or float in 0..1, see `detkit.images`.
            batch_size: how many images go through the model together.

        Returns:
            One `Detections` per image, in pixels of that image.

        Raises:
            RuntimeError: the model is in training mode.
            ValueError: a batch size below 1, or something that is no image.
        """
        self._check_ready(batch_size)
        sources = images if isinstance(images, (list, tuple)) else [images]
        detections: list[Detections] = []
        for start in range(0, len(sources), batch_size):
            chunk = [load_image(source) for source in sources[start : start + batch_size]]
            sizes = [image_size(image) for image in chunk]
            detections += self.detect(self.resized_batch(chunk), sizes)
        return detections

    def _check_ready(self, batch_size: int) -> None:
        if self.training:
            raise RuntimeError("predict needs eval mode: call model.eval() first")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
