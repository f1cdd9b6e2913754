"""Datasets, training transforms and loaders. Importing this registers the first two."""

from detkit.data.coco import CocoDataset
from detkit.data.loading import EvaluationView, SampleKeys, TrainingView, eval_loader, train_loader
from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import DetrAugment, RandomFlip, Resize

__all__ = [
    "CocoDataset",
    "DetrAugment",
    "EvaluationView",
    "RandomFlip",
    "Resize",
    "SampleKeys",
    "SyntheticScenes",
    "TrainingView",
    "eval_loader",
    "train_loader",
]
