"""Official PointWSSIS checkpoints (clovaai/PointWSSIS, Apache-2.0) as detkit models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from detkit.backbones.fpn import FPN
from detkit.backbones.pretrained import count
from detkit.backbones.resnet import ResNet, detectron_name, resnet_depth
from detkit.official.coco_classes import COCO_CLASSES
from detkit.official.layouts import COCO_PLACES, Layout, coco_detection, coco_split
from detkit.official.report import ConversionReport, load_completely, without_prefix
from detkit.pointseg.grid import STUDENT_RANGES, TEACHER_GRIDS, TEACHER_RANGES
from detkit.pointseg.postprocess import SoloPostprocess
from detkit.pointseg.refine.model import MaskRefiner
from detkit.pointseg.refine.network import MaskRefineNet, input_channels
from detkit.pointseg.solov2 import SOLOv2
from detkit.registry import build
from detkit.structures import LabelMap

# The official code feeds B, G, R in 0..255 without dividing by a standard deviation; here it is R, G, B in 0..1.
INPUT_RULE = dict(mean=(123.675 / 255, 116.28 / 255, 103.53 / 255), std=(1 / 255, 1 / 255, 1 / 255))
# Keys whose shapes give the sizes of the networks.
SOLO_LANDMARKS = (
    "ins_head.cate_pred.weight",
    "ins_head.kernel_pred.weight",
    "mask_head.convs_all_levels.0.conv0.0.weight",
    "backbone.fpn_lateral2.weight",
)
REFINE_LANDMARKS = ("layer0.0.weight", "aspp.project.0.weight")
UNUSED = ("pixel_mean", "pixel_std")
SOLO_NAMES = (
    (r"ins_head\.cate_pred\.", "instance_head.category."),
    (r"ins_head\.kernel_pred\.", "instance_head.kernel."),
    (r"mask_head\.convs_all_levels\.(\d)\.conv(\d)\.", r"mask_head.branches.\1.\2."),
    (r"mask_head\.conv_pred\.", "mask_head.output."),
)
REFINE_NAMES = (
    (r"layer0\.0\.", "encoder.conv1."),
    (r"layer0\.1\.", "encoder.bn1."),
    (r"layer1\.1\.", "encoder.layer1."),
    (r"layer([234])\.", r"encoder.layer\1."),
    (r"aspp\.convs\.0\.1\.", "pooling.pooled."),
    (r"aspp\.convs\.1\.", "pooling.point."),
    (r"aspp\.convs\.([234])\.", lambda found: f"pooling.dilated.{int(found[1]) - 2}."),
    (r"aspp\.project\.", "pooling.project."),
    (r"decoder_(\d)\.conv\.0\.", lambda found: f"decoder.{3 - int(found[1])}.reduce."),
    (r"decoder_(\d)\.conv\.1\.", lambda found: f"decoder.{3 - int(found[1])}.mix."),
)


def from_official(
    state_dict: Mapping[str, Tensor],
    num_grids: Sequence[int] = (40, 36, 24, 16, 12),
    *,
    scale_ranges: Sequence[Sequence[float]] | None = None,
) -> tuple[SOLOv2, ConversionReport]:
    """Build the SOLOv2 that an official state dict belongs to, by its key names and shapes, and load it completely.

    Args:
        state_dict: the `model` entry of the official checkpoint of a teacher or a student: ResNet-50 or 101, any
            number of classes.
        num_grids: cells along each side of the five grids, which no key tells: (80, 64, 32, 24, 12) in the paper's
            teachers, the default in its students. The former also sets the teacher's size ranges and mask NMS.
        scale_ranges: other size ranges.

    Returns:
        The model in eval mode and a report. A model of 80 classes has those of COCO, in the order of their ids.

    Raises:
        ValueError: not an official state dict, or one with a part that is unknown here; the keys are named.
    """
    state_dict = stripped(state_dict, SOLO_LANDMARKS)
    config = solo_config(state_dict, num_grids, scale_ranges)
    model = build(config, path="model")
    if config["num_classes"] == len(COCO_CLASSES):
        model.label_map = LabelMap(tuple(COCO_CLASSES.values()), tuple(COCO_CLASSES))
    return model, load_official(model, state_dict, solo_key, config)


def from_official_refine(state_dict: Mapping[str, Tensor]) -> tuple[MaskRefineNet, ConversionReport]:
    """Build the MaskRefineNet that an official state dict belongs to and load it completely.

    Returns:
        The network in eval mode, for as many classes as its first convolution tells, and a report.

    Raises:
        ValueError: as `from_official`.
    """
    model, report = from_official_refiner(state_dict)
    return model.network, report


def from_official_refiner(state_dict: Mapping[str, Tensor]) -> tuple[MaskRefiner, ConversionReport]:
    """As `from_official_refine`, but returns the `MaskRefiner`. A model of 80 classes has those of COCO."""
    state_dict = stripped(state_dict, REFINE_LANDMARKS)
    num_classes = state_dict["layer0.0.weight"].shape[1] - input_channels(0)
    depth = resnet_depth(count(r"layer3\.(\d+)\.", state_dict))
    config: dict[str, Any] = dict(type=MaskRefiner.__name__, num_classes=num_classes, encoder=f"resnet{depth}")
    config |= dict(width=len(state_dict["aspp.project.0.weight"]), official=True)
    model = build(config, path="model")
    if num_classes == len(COCO_CLASSES):
        model.label_map = LabelMap(tuple(COCO_CLASSES.values()), tuple(COCO_CLASSES))
    return model, load_official(model, state_dict, lambda key: f"network.{rename(key, REFINE_NAMES)}", config)


def solo_config(
    official: Mapping[str, Tensor], num_grids: Sequence[int], scale_ranges: Sequence[Sequence[float]] | None
) -> dict[str, Any]:
    """The config of the SOLOv2 that an official state dict belongs to; arguments as in `from_official`."""
    is_teacher = tuple(num_grids) == TEACHER_GRIDS
    ranges = scale_ranges or (TEACHER_RANGES if is_teacher else STUDENT_RANGES)
    depth = resnet_depth(count(r"backbone\.bottom_up\.res4\.(\d+)\.", official))
    num_classes, channels = official["ins_head.cate_pred.weight"].shape[:2]
    return dict(
        type=SOLOv2.__name__,
        backbone=dict(
            type=FPN.__name__,
            body=dict(type=ResNet.__name__, depth=depth, frozen_stages=2, stride_in_1x1=True),
            out_channels=len(official["backbone.fpn_lateral2.weight"]),
        ),
        num_classes=num_classes,
        num_grids=tuple(num_grids),
        scale_ranges=ranges,
        instance_channels=channels,
        instance_convs=(count(r"ins_head\.cate_tower\.(\d+)\.", official) + 1) // 3,
        kernel_channels=len(official["ins_head.kernel_pred.weight"]),
        mask_channels=len(official["mask_head.convs_all_levels.0.conv0.0.weight"]),
        postprocess=dict(type=SoloPostprocess.__name__, nms="mask" if is_teacher else "matrix"),
        input_rule=INPUT_RULE,
    )


def solo_key(official: str) -> str:
    """Our name of a parameter of the official SOLOv2."""
    if official.startswith("backbone.bottom_up."):
        return f"backbone.body.{detectron_name(official.removeprefix('backbone.bottom_up.'))}"
    if found := re.match(r"backbone\.fpn_(lateral|output)(\d)\.(.*)", official):
        return f"backbone.{found[1]}.{int(found[2]) - 2}.{found[3]}"
    if found := re.match(r"ins_head\.(cate|kernel)_tower\.(\d+)\.(.*)", official):
        tower = "category_tower" if found[1] == "cate" else "kernel_tower"
        block, part = divmod(int(found[2]), 3)
        return f"instance_head.{tower}.{block}.{part}.{found[3]}"
    return rename(official, SOLO_NAMES)


def rename(official: str, names: Iterable[tuple[str, str | Callable]]) -> str:
    """The key with its start replaced by the first (pattern, replacement) of `names` that fits, otherwise unchanged."""
    for pattern, name in names:
        own, found = re.subn(f"^{pattern}", name, official)
        if found:
            return own
    return official


def stripped(state_dict: Mapping[str, Tensor], landmarks: Sequence[str]) -> Mapping[str, Tensor]:
    """Remove the prefix of data-parallel wrappers from the keys, and check that all `landmarks` are among them.

    Raises:
        ValueError: one of `landmarks` is not among the keys.
    """
    state_dict = without_prefix(state_dict)
    if missing := [key for key in landmarks if key not in state_dict]:
        raise ValueError(f"not an official PointWSSIS state dict of this kind: it has no {' and no '.join(missing)}")
    return state_dict


def load_official(
    model: nn.Module, state_dict: Mapping[str, Tensor], own_key: Callable[[str], str], config: dict[str, Any]
) -> ConversionReport:
    """Load every tensor but the unused constants, and put the model in eval mode."""
    report, weights = ConversionReport(config=config), {}
    for key, value in state_dict.items():
        if key in UNUSED:
            report.unused.append(key)
            continue
        name = own_key(key)
        weights[name] = value.flip(1) if name == "backbone.body.conv1.weight" else value
        report.loaded.append(key)
    load_completely(model, weights)
    return report


def _refiner_config(model: Mapping[str, Any]) -> dict[str, Any]:
    train, val = (
        coco_split(split) | dict(type="RefineCrops", predictions=[f"predictions_{split}.json"])
        for split in ("train", "val")
    )
    return dict(
        data=dict(train=train, val=val, batch_size=16),
        train=dict(epochs=50, clip_norm=None),
        evaluator=dict(type="RefineEvaluator"),
    )


LAYOUTS = (
    Layout(
        name="SOLOv2",
        types=(SOLOv2.__name__,),
        landmarks=SOLO_LANDMARKS,
        convert=from_official,
        options=("num_grids",),
        config=lambda model: coco_detection(("segm",)),
        places=COCO_PLACES,
    ),
    Layout(
        name="MaskRefineNet",
        types=(MaskRefiner.__name__,),
        landmarks=REFINE_LANDMARKS,
        convert=from_official_refiner,
        options=(),
        config=_refiner_config,
        places=f"\"data.val.predictions=['JSON']\" {COCO_PLACES}",
    ),
)
