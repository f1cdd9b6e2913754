"""Training transforms: callables `transform(image, annotations, rng) -> (image, annotations)`.

Images are uint8 [3, h, w]. All randomness comes from `rng`. Boxes, masks and points move with the pixels. A point may
leave the image; an object is dropped only when its box or mask becomes empty.

Two optional attributes are known to `detkit.data.views.TrainingView`. A transform with `partners(rng)` joins a sample
with as many others of the dataset, see `detkit.data.transforms.joining`. A transform with `until` is left out at the
end of the training: it is used in the whole epochs within that share of all epochs, at least in the first.
"""

from detkit.data.transforms.basic import RandomFlip, Resize, Sample, check_probability
from detkit.data.transforms.copy_paste import CopyPaste
from detkit.data.transforms.detr import DetrAugment
from detkit.data.transforms.jitter import ScaleJitter
from detkit.data.transforms.joining import MixUp, Mosaic
from detkit.data.transforms.library import Albumentations, import_albumentations

__all__ = [
    "Albumentations",
    "CopyPaste",
    "DetrAugment",
    "MixUp",
    "Mosaic",
    "RandomFlip",
    "Resize",
    "Sample",
    "ScaleJitter",
    "check_probability",
    "import_albumentations",
]
