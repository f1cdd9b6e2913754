"""What every model of detkit has: an input rule, a label map, and one protocol for training and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detkit.images import check_multiple, check_shape, image_size, resize_image, resized_size
from detkit.modeling.weight_decay import undecayed_in_backbone
from detkit.registry.ranges import Deviation, Pixel, Pixels
from detkit.structures import ImageBatch, LabelMap

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputRule:
    """How a model wants its images.

    Resized so that the shortest side is `shortest` pixels, or less where the longest would pass `longest`, both
    rounded down to a multiple of `multiple`; then `(pixel / 255 - mean) / std` for the channels R, G, B.

    Attributes:
        shortest: pixels of the shortest side.
        longest: the most pixels of the longest side.
        multiple: both sides are multiples of it; not above `shortest` or `longest`.
        mean, std: of the pixel values of each channel, divided by 255.

    Raises:
        ValueError: `multiple` is above `shortest` or `longest`.
    """

    shortest: Pixels = 800
    longest: Pixels = 1333
    multiple: Pixels = 16
    mean: tuple[Pixel, Pixel, Pixel] = IMAGENET_MEAN
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_multiple(self.shortest, self.longest, self.multiple, "input_rule.")

    def resize(self, image: Tensor) -> Tensor:
        """Resize `[3, h, w]` (0..255, any dtype) by the rule, keeping its dtype.

        Raises:
            ThinImageError: see `detkit.images.check_shape`.
        """
        size = image_size(image)
        check_shape(size, self.longest, self.multiple)
        return resize_image(image, self.size_of(size))

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (h, w) that an image of (h, w) `size` is resized to."""
        return resized_size(size, self.shortest, self.longest, self.multiple)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as a checkpoint stores them."""
        return asdict(self)


class Model(nn.Module, ABC):
    """A model that the runner can train and the evaluation loop can run, whatever its task.

    One protocol (torchvision's): in training mode `model(batch)` returns a dict of weighted loss terms whose sum is
    the objective; in eval mode it returns one prediction for each entry of the batch. A subclass gives both as
    `batch_losses` and `batch_predictions`. The batch is what the dataset's `collate` makes, see
    `detkit.structures.protocols.Batch`.

    Attributes:
        label_map: what the class outputs mean.
        input_rule: how images are resized and normalised.
        thresholds: the score from which an object of each class counts, by name; None where none were chosen.
    """

    thresholds: dict[str, float] | None = None

    def __init__(self, label_map: LabelMap, input_rule: InputRule):
        super().__init__()
        self.label_map = label_map
        self.input_rule = input_rule

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels; outputs that no class uses are left out."""
        return tuple(name for name in self.label_map.names if name is not None)

    @property
    def max_detections(self) -> int | None:
        """The most objects that the model can find in an image; None where there is no such limit."""
        return None

    @abstractmethod
    def batch_losses(self, batch: Any) -> dict[str, Tensor]:
        """The weighted loss terms of a training batch, each a scalar tensor."""

    @abstractmethod
    def batch_predictions(self, batch: Any) -> list[Any]:
        """What is found in an evaluation batch: one entry for each of its annotations."""

    def forward(self, batch: Any) -> Any:
        """`batch_losses` in training mode, `batch_predictions` in eval mode."""
        return self.batch_losses(batch) if self.training else self.batch_predictions(batch)

    def count_objects(self, batch: Any) -> float:
        """How much of what the losses divide by is in a batch; the runner sums it up as `num_objects`."""
        return batch.count_objects()

    def no_weight_decay(self) -> set[str]:
        """The full names of the parameters without weight decay.

        By default those that the official ViDT code leaves alone: inside of `self.backbone` vectors, biases and what
        `backbone.no_weight_decay()` lists; nothing outside of it.
        """
        return undecayed_in_backbone(self)

    def synchronize_norms(self) -> None:
        """Make batch norms use the statistics of all processes; called before training on several GPUs.

        Does nothing by default: a model without batch norms, or with frozen ones, needs nothing.
        """

    def normalize(self, images: ImageBatch) -> ImageBatch:
        """Scale uint8 or 0..255 float images by the input rule; padding becomes 0."""
        mean = torch.tensor(self.input_rule.mean, device=images.images.device)[:, None, None] * 255
        std = torch.tensor(self.input_rule.std, device=images.images.device)[:, None, None] * 255
        normal = ((images.images - mean) / std).masked_fill_(images.mask[:, None], 0)
        return ImageBatch(normal, images.mask, images.sizes)

    def as_batch(self, images: Sequence[Tensor]) -> ImageBatch:
        """Pad and normalise RGB tensors `[3, h, w]` in 0..255, at the size that they have."""
        return self.normalize(ImageBatch.from_images([image.to(self.device).float() for image in images]))
