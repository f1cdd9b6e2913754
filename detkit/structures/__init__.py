"""The data types that pass between packages: images, their annotations and detections, and pairs of images."""

from detkit.structures.detections import Detections, PromptedDetections
from detkit.structures.images import Annotations, Batch, ImageBatch
from detkit.structures.labels import LabelMap
from detkit.structures.pairs import Flow, ImagePair, Matches, PairAnnotations, PairBatch
from detkit.structures.prompts import Prompt

__all__ = [
    "Annotations",
    "Batch",
    "Detections",
    "Flow",
    "ImageBatch",
    "ImagePair",
    "LabelMap",
    "Matches",
    "PairAnnotations",
    "PairBatch",
    "Prompt",
    "PromptedDetections",
]
