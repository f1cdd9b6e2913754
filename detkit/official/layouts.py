"""What tells one kind of official checkpoint from another, and the config that is put around its model.

Each system lists its own kinds as `LAYOUTS` in its `convert.py`; `detkit.checkpoints.convert` knows them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from detkit.official.report import ConversionReport, without_prefix

# The settings that a user still has to make before a converted COCO model can be evaluated: where the data lies.
COCO_PLACES = "data.val.annotation_file=JSON data.val.image_folder=FOLDER"


@dataclass(frozen=True)
class Layout:
    """One kind of official checkpoint.

    Attributes:
        name: of the models.
        types: of the model sections that conversion gives.
        landmarks: keys that all of them have, and no others.
        convert: makes a model and a report of a state dict.
        options: arguments of `convert` for what no key tells.
        config: the sections "data", "train" and "evaluator" of a config, for a model section.
        places: settings that say where the data of the evaluation lies.
    """

    name: str
    types: tuple[str, ...]
    landmarks: tuple[str, ...]
    convert: Callable[..., tuple[nn.Module, ConversionReport]]
    options: tuple[str, ...]
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    places: str


def find_layout(state_dict: Mapping[str, Tensor], layouts: Sequence[Layout]) -> Layout:
    """The layout of a state dict, with or without a wrapper's prefix.

    Raises:
        ValueError: none fits.
    """
    keys = without_prefix(state_dict)
    for layout in layouts:
        if all(landmark in keys for landmark in layout.landmarks):
            return layout
    known = "; ".join(f"{layout.name} has {' and '.join(layout.landmarks)}" for layout in layouts)
    first = ", ".join(list(keys)[:5]) + (", ..." if len(keys) > 5 else "")
    raise ValueError(f"not an official state dict of a model that is known here ({known}); it has {first}")


def coco_split(split: str, **options: Any) -> dict[str, Any]:
    """The config of COCO 2017 "train" or "val" at its usual place, with further arguments of `CocoDataset`."""
    files = dict(
        annotation_file=f"data/coco/annotations/instances_{split}2017.json", image_folder=f"data/coco/{split}2017"
    )
    return {"type": "CocoDataset", **files, **options}


def coco_detection(iou_types: Sequence[str]) -> dict[str, Any]:
    """The sections of a config that trains and evaluates on COCO 2017: "bbox", "segm" or both."""
    train, val = (coco_split(split, masks="segm" in iou_types) for split in ("train", "val"))
    return dict(
        data=dict(train=train, val=val, batch_size=2),
        train=dict(epochs=50),
        evaluator=dict(type="CocoEvaluator", iou_types=list(iou_types)),
    )
