"""A detector with slicing and test-time augmentation, as the evaluation loop takes it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detkit.modeling.base import InputRule, Model
from detkit.modeling.image_model import ImageModel
from detkit.modeling.views import OVERLAP, check_slices
from detkit.structures import Batch, Detections


class FullSize(InputRule):
    """The input rule that leaves images as they are."""

    def resize(self, image: Tensor) -> Tensor:
        """The image itself."""
        return image


class ViewedModel(Model):
    """Finds objects as `ImageModel.predict` does with these options; for evaluation only.

    Args:
        model: the detector.
        slice, overlap, tta: see `ImageModel.predict`.

    Raises:
        ValueError: a model that finds nothing in single images, or an option out of range.
    """

    def __init__(self, model: Any, *, slice: int | None = None, overlap: float = OVERLAP, tta: bool = False):
        if not isinstance(model, ImageModel):
            raise ValueError(f"slices and augmented copies are for detectors, not for a {type(model).__name__}")
        check_slices(slice, overlap)
        super().__init__(model.label_map, FullSize())
        self.model = model
        self.options: dict[str, Any] = dict(slice=slice, overlap=overlap, tta=tta)

    def batch_losses(self, batch: Any) -> dict[str, Tensor]:
        """It is not for training."""
        raise RuntimeError("a ViewedModel is for evaluation: call eval() first")

    def batch_predictions(self, batch: Batch) -> list[Detections]:
        """What is found in each image, not resized before."""
        images = zip(batch.images.images, batch.images.sizes, strict=True)
        return [self.model.find(image[:, :h, :w], lambda found: found, **self.options) for image, (h, w) in images]
