"""The data types that pass between the rooms: images and what is known or found in them, and pairs of images."""

from detkit.structures.images import Annotations, Batch, Detections, ImageBatch, LabelMap
from detkit.structures.pairs import Flow, ImagePair, Matches, PairAnnotations, PairBatch

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
]
