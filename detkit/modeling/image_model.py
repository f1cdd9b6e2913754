"""What every trainable image model of detkit shares: input rule, label map, the training protocol, `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detkit.images import image_size, load_image, resize_image, resized_size
from detkit.structures import Batch, Detections, ImageBatch, LabelMap

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputRule:
    """How a model wants its images.

    Resized so that the shortest side is `shortest` pixels, or less where the longest would pass `longest`, both
    rounded down to a multiple of `multiple`; then `(pixel / 255 - mean) / std` for the channels R, G, B.
    """

    shortest: int = 800
    longest: int = 1333
    multiple: int = 16
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def resize(self, image: Tensor) -> Tensor:
        """Resize `[3, h, w]` (0..255, any dtype) by the rule, keeping its dtype."""
        return resize_image(image, resized_size(image.shape[-2:], self.shortest, self.longest, self.multiple))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ImageModel(nn.Module):
    """A model that maps images to detections.

    One protocol (torchvision's): in training mode `model(batch)` returns a dict of weighted loss terms whose
    sum is the objective; in eval mode it returns one `Detections` per image. A subclass gives
    `losses(images, annotations, num_objects=None)` and `detect(images, original_sizes)`, both on normalised
    images.
    """

    def __init__(self, label_map: LabelMap, input_rule: InputRule):
        super().__init__()
        self.label_map = label_map
        self.input_rule = input_rule

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def losses(self, images: ImageBatch, annotations: Sequence, num_objects: Tensor | None = None) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} cannot be trained: it defines no losses")

    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        raise TypeError(f"{type(self).__name__} cannot predict: it defines no detect")

    def normalize(self, images: ImageBatch) -> ImageBatch:
        """Scale uint8 or 0..255 float images by the input rule; padding becomes 0."""
        mean = torch.tensor(self.input_rule.mean, device=images.images.device)[:, None, None] * 255
        std = torch.tensor(self.input_rule.std, device=images.images.device)[:, None, None] * 255
        normal = ((images.images - mean) / std).masked_fill_(images.mask[:, None], 0)
        return ImageBatch(normal, images.mask, images.sizes)

    def as_batch(self, images: Sequence[Tensor]) -> ImageBatch:
        """Pad and normalise RGB tensors `[3, h, w]` in 0..255, at the size that they have."""
        return self.normalize(ImageBatch.from_images([image.to(self.device).float() for image in images]))

    def resized_batch(self, images: Sequence[Tensor]) -> ImageBatch:
        """Resize RGB tensors `[3, h, w]` in 0..255 by the input rule, pad and normalise them."""
        return self.as_batch([self.input_rule.resize(image.to(self.device)) for image in images])

    def preprocess(self, images: Sequence[Tensor]) -> ImageBatch:
        """Resize, pad and normalise RGB tensors `[3, h, w]` in 0..255 as this model was trained."""
        return self.resized_batch(images)

    def count_objects(self, batch: Any) -> float:
        """How much of what the losses divide by is in a batch; the runner sums it up as `num_objects`."""
        return batch.count_objects()

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[Detections]:
        images = self.normalize(batch.images)
        if self.training:
            return self.losses(images, batch.annotations, batch.num_objects)
        sizes = [a.original_size or s for a, s in zip(batch.annotations, images.sizes, strict=True)]
        return self.detect(images, sizes)

    @torch.inference_mode()
    def predict(self, images: Any, batch_size: int = 1) -> list[Detections]:
        """Find objects in images of any size.

        Args:
            images: one image or a list of them: a path, a PIL image, a uint8 array `[h, w, 3]` (RGB) or
                `[h, w]` (grey), or a tensor `[3, h, w]` in 0..255.
            batch_size: how many images go through the model together.

        Returns:
            One `Detections` per image, in pixels of that image.
        """
        if self.training:
            raise RuntimeError("predict needs eval mode: call model.eval() first")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        sources = images if isinstance(images, (list, tuple)) else [images]
        found: list[Detections] = []
        for start in range(0, len(sources), batch_size):
            chunk = [load_image(source) for source in sources[start : start + batch_size]]
            sizes = [image_size(t) for t in chunk]
            found += self.detect(self.resized_batch(chunk), sizes)
        return found
