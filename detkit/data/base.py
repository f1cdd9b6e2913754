"""What datasets of images share."""

from __future__ import annotations

from collections.abc import Callable

from detkit.data.sampling import SampleKeys
from detkit.data.views import EvaluationView, TrainingView
from detkit.structures import Batch
from detkit.structures.protocols import Keys, SampleBatch, View


class ImageDataset:
    """Base of datasets of single images: the parts of `detkit.structures.protocols.Dataset` that most have alike.

    A subclass has `label_map`, `image_ids`, `__len__` and `__getitem__`, which gives `(image uint8 [3, h, w],
    Annotations)`. To be evaluated with `CocoEvaluator` it also needs `coco()`, the ground truth as a COCO dict.
    """

    training_view: Callable[..., View] = TrainingView
    evaluation_view: Callable[..., View] = EvaluationView
    sample_keys: Callable[..., Keys] = SampleKeys
    collate: Callable[..., SampleBatch] = staticmethod(Batch.collate)

    @property
    def max_objects_per_image(self) -> int | None:
        """The largest number of objects in a sample, or of points in a pair; None where it is not known."""
        return None
