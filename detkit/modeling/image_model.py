"""Models that map single images to detections."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from detkit.images import image_size
from detkit.modeling.base import Model
from detkit.modeling.memory import return_free_memory
from detkit.modeling.sources import Source, sources_of
from detkit.modeling.views import OVERLAP, Keep, check_slices, find_augmented, find_sliced
from detkit.structures import Annotations, Batch, Detections, ImageBatch

MIN_SCORE = 0.3  # where somebody looks at the objects and there are no better thresholds
RETURN_EVERY = 8  # chunks of images between two times that free memory goes back to the system


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

    def predict(
        self,
        images: Any,
        batch_size: int = 1,
        *,
        stream: bool = False,
        min_score: float | None = None,
        classes: Sequence[str] | None = None,
        slice: int | None = None,
        overlap: float = OVERLAP,
        tta: bool = False,
    ) -> Any:
        """Find objects in images of any size.

        Args:
            images: a path, a glob, a folder (searched recursively), a URL, a PIL image, an array `[h, w, 3]` (RGB, not
                the BGR of OpenCV) or `[h, w]` (grey), a tensor `[3, h, w]`; or a list or any other iterable of them.
                uint8 in 0..255 or float in 0..1, see `detkit.images`.
            batch_size: how many images, or parts of an image, go through the model together.
            stream: return an iterator, which reads and predicts as it is asked; memory does not grow with the images.
            min_score: leave out what scores lower. By default `thresholds`, where the checkpoint has some, else
                0.3; 0 gives all.
            classes: names of the classes to find; None finds all.
            slice: also look into parts of so many pixels, for small objects in large images.
            overlap: the share of a part that neighbours have in common, see `slice`.
            tta: look at mirrored and scaled copies as well (test-time augmentation), which takes about four times as
                long.

        Returns:
            One `Detections` per image, best first, in pixels of that image; a list, or with `stream` an iterator.

        Raises:
            RuntimeError: the model is in training mode.
            ValueError: an option out of range, an unknown class, or something that is no image.
        """
        self._check_ready(batch_size)
        check_slices(slice, overlap)
        keep = self.keeper(min_score, classes)
        found = self._found_in(sources_of(images), batch_size, keep, slice=slice, overlap=overlap, tta=tta)
        return found if stream else list(found)

    @torch.inference_mode()
    def _found_in(
        self, sources: Iterable[Source], batch_size: int, keep: Keep, *, slice: int | None, overlap: float, tta: bool
    ) -> Iterator[Detections]:
        size_of_chunk = 1 if slice or tta else batch_size
        for number, chunk in enumerate(_chunks(sources, size_of_chunk), 1):
            images = [source.load() for source in chunk]
            if slice or tta:
                found = [self.find(images[0], keep, batch_size, slice=slice, overlap=overlap, tta=tta)]
            else:
                found = [keep(one) for one in self._find(images)]
            for one, source, image in zip(found, chunk, images, strict=True):
                yield one.noted(source.name, image_size(image))
            if number % RETURN_EVERY == 0:
                return_free_memory()

    def find(
        self, image: Tensor, keep: Keep, batch_size: int = 1, *, slice: int | None, overlap: float, tta: bool
    ) -> Detections:
        """The objects of an image, uint8 RGB `[3, h, w]`, in parts and copies of it; options as in `predict`.

        Args:
            keep: as of `keeper`.
        """
        if slice is None:
            return find_augmented(self, image, keep) if tta else keep(self._find([image])[0])

        def find(parts: Sequence[Tensor]) -> list[Detections]:
            return [find_augmented(self, part, keep) for part in parts] if tta else self._find(parts)

        return find_sliced(find, image, keep, slice, overlap, batch_size)

    def _find(self, images: Sequence[Tensor]) -> list[Detections]:
        return self.detect(self.resized_batch(images), [image_size(image) for image in images])

    def keeper(self, min_score: float | None = None, classes: Sequence[str] | None = None) -> Keep:
        """A function that leaves out of detections what scores too low or is of other classes; options as in `predict`.

        Raises:
            ValueError: a score that is no number, or an unknown class.
        """
        lowest = torch.full((len(self.label_map),), self._lowest_score(min_score))
        if min_score is None and self.thresholds:
            lowest[self.label_map.labels_of(*self.thresholds)] = torch.tensor([*self.thresholds.values()])
        if classes is not None:
            wanted = self.label_map.labels_of(*([classes] if isinstance(classes, str) else classes))
            lowest[[label for label in range(len(lowest)) if label not in wanted]] = torch.inf
        return lambda found: found[found.scores >= lowest.to(found.scores.device)[found.labels]]

    def _lowest_score(self, min_score: float | None) -> float:
        """That of a class without a threshold of its own."""
        if min_score is None:
            return MIN_SCORE
        if isinstance(min_score, bool) or not isinstance(min_score, Real) or math.isnan(min_score):
            raise ValueError(f"min_score must be a number, got {min_score!r}")
        return float(min_score)

    def _check_ready(self, batch_size: int) -> None:
        if self.training:
            raise RuntimeError("predict needs eval mode: call model.eval() first")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def _chunks(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    iterator = iter(sources)
    while chunk := list(islice(iterator, size)):
        yield chunk
