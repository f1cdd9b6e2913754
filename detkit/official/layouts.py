"""The official checkpoints that can be converted: told apart by their keys, each with data to evaluate it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from detkit.correspondence.convert import from_official as matcher_from_official
from detkit.official.report import ConversionReport, without_prefix
from detkit.pointseg.convert import REFINE_LANDMARKS, SOLO_LANDMARKS, from_official_refiner
from detkit.pointseg.convert import from_official as solo_from_official
from detkit.structures import LabelMap
from detkit.vidt.convert import from_official as vidt_from_official

# Most categories of a benchmark of matching; their ids count from 1.
PAIR_CATEGORIES = 20
# What of the evaluation has to be set: where the data lies.
COCO_PLACES = "data.val.annotation_file=JSON data.val.image_folder=FOLDER"
PAIR_PLACES = "data.val.root=FOLDER"


@dataclass(frozen=True)
class Layout:
    """One kind of official checkpoint.

    Attributes:
        name: of the models.
        types: of the model sections that conversion gives.
        landmarks: keys that all of them have, and no others.
        convert: makes a model and a report of a state dict.
        options: arguments of `convert` for what no key tells.
        config: the sections of a config around a model's.
        places: settings that say where the data of the evaluation lies.
    """

    name: str
    types: tuple[str, ...]
    landmarks: tuple[str, ...]
    convert: Callable[..., tuple[nn.Module, ConversionReport]]
    options: tuple[str, ...]
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    places: str


def find_layout(state_dict: Mapping[str, Tensor]) -> Layout:
    """The layout of a state dict, with or without a wrapper's prefix.

    Raises:
        ValueError: none fits.
    """
    keys = without_prefix(state_dict)
    for layout in LAYOUTS:
        if all(landmark in keys for landmark in layout.landmarks):
            return layout
    known = "; ".join(f"{layout.name} has {' and '.join(layout.landmarks)}" for layout in LAYOUTS)
    raise ValueError(f"not an official state dict of a model that is known here ({known}); it has {_some(keys)}")


def convert_state_dict(state_dict: Mapping[str, Tensor], **options: Any) -> tuple[nn.Module, ConversionReport]:
    """The model of an official state dict, of whatever kind, and a report.

    Args:
        options: what no key tells: `cross_stages` of ViDT, `num_grids` of SOLOv2, `layers` of CATs. None leaves it to
            the default.

    Raises:
        ValueError: an unknown or incomplete state dict, or an option for another kind.
    """
    layout = find_layout(state_dict)
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in layout.options:
            raise ValueError(f"{name} is for {_owner(name)}; this is a checkpoint of {layout.name}")
    return layout.convert(without_prefix(state_dict), **options)


def config_around(model: Mapping[str, Any]) -> dict[str, Any]:
    """The sections "data", "train" and "evaluator" for the model section that a report holds."""
    return layout_of(model).config(model)


def layout_of(model: Mapping[str, Any]) -> Layout:
    """The layout whose conversion gives such a model section."""
    return next(layout for layout in LAYOUTS if model["type"] in layout.types)


def _matcher(state_dict: Mapping[str, Tensor], **options: Any) -> tuple[nn.Module, ConversionReport]:
    """A matcher, which does not use its classes, with those of any benchmark, so that it can be evaluated on each."""
    model, report = matcher_from_official(state_dict, **options)
    numbers = range(1, PAIR_CATEGORIES + 1)
    model.label_map = LabelMap(tuple(f"class_{i}" for i in numbers), tuple(numbers))
    return model, report


def _coco(split: str, **options: Any) -> dict[str, Any]:
    files = dict(
        annotation_file=f"data/coco/annotations/instances_{split}2017.json", image_folder=f"data/coco/{split}2017"
    )
    return {"type": "CocoDataset", **files, **options}


def _around_detector(model: Mapping[str, Any]) -> dict[str, Any]:
    masks = model["type"] == "SOLOv2" or bool(model.get("mask_vectors"))
    iou_types = ["segm"] if model["type"] == "SOLOv2" else ["bbox", "segm"] if masks else ["bbox"]
    train, val = (_coco(split, masks=masks) for split in ("train", "val"))
    return dict(
        data=dict(train=train, val=val, batch_size=2),
        train=dict(epochs=50),
        evaluator=dict(type="CocoEvaluator", iou_types=iou_types),
    )


def _around_refiner(model: Mapping[str, Any]) -> dict[str, Any]:
    train, val = (
        _coco(split) | dict(type="RefineCrops", predictions=[f"predictions_{split}.json"]) for split in ("train", "val")
    )
    return dict(
        data=dict(train=train, val=val, batch_size=16),
        train=dict(epochs=50, clip_norm=None),
        evaluator=dict(type="RefineEvaluator"),
    )


def _around_matcher(model: Mapping[str, Any]) -> dict[str, Any]:
    train, val = (dict(type="SPair71k", root="data/SPair-71k", split=split) for split in ("trn", "test"))
    return dict(
        data=dict(train=train, val=dict(val, direction="target_to_source"), batch_size=32),
        train=dict(epochs=100, clip_norm=None),
        evaluator=dict(type="PCKEvaluator"),
    )


def _owner(option: str) -> str:
    return " and ".join(layout.name for layout in LAYOUTS if option in layout.options) or "no model"


def _some(keys: Mapping[str, Tensor]) -> str:
    return ", ".join(list(keys)[:5]) + (", ..." if len(keys) > 5 else "")


LAYOUTS = (
    Layout(
        name="ViDT",
        types=("ViDT", "ViDTWithoutNeck"),
        landmarks=("backbone.det_token",),
        convert=vidt_from_official,
        options=("cross_stages",),
        config=_around_detector,
        places=COCO_PLACES,
    ),
    Layout(
        name="SOLOv2",
        types=("SOLOv2",),
        landmarks=SOLO_LANDMARKS,
        convert=solo_from_official,
        options=("num_grids",),
        config=_around_detector,
        places=COCO_PLACES,
    ),
    Layout(
        name="MaskRefineNet",
        types=("MaskRefiner",),
        landmarks=REFINE_LANDMARKS,
        convert=from_official_refiner,
        options=(),
        config=_around_refiner,
        places=f"\"data.val.predictions=['JSON']\" {COCO_PLACES}",
    ),
    Layout(
        name="CATs",
        types=("CATs",),
        landmarks=("proj.0.weight", "x_normal"),
        convert=_matcher,
        options=("layers",),
        config=_around_matcher,
        places=PAIR_PLACES,
    ),
    Layout(
        name="CATs++",
        types=("CATsPlusPlus",),
        landmarks=("hpn_learner.x_normal",),
        convert=_matcher,
        options=(),
        config=_around_matcher,
        places=PAIR_PLACES,
    ),
)
