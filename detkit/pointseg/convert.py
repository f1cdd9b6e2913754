"""Official PointWSSIS checkpoints (clovaai/PointWSSIS, Apache-2.0) as detkit models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from detkit.backbones.fpn import FPN
from detkit.backbones.pretrained import count
from detkit.backbones.resnet import DEPTHS, ResNet, detectron_name
from detkit.coco_classes import COCO_CLASSES
from detkit.pointseg.grid import STUDENT_RANGES, TEACHER_GRIDS, TEACHER_RANGES
from detkit.pointseg.postprocess import SoloPostprocess
from detkit.pointseg.refine import MaskRefineNet, input_channels
from detkit.pointseg.solov2 import SOLOv2
from detkit.structures import LabelMap

# The official code feeds B, G, R in 0..255 without dividing by a standard deviation; here it is R, G, B in 0..1.
INPUT_RULE = dict(mean=(123.675 / 255, 116.28 / 255, 103.53 / 255), std=(1 / 255, 1 / 255, 1 / 255))
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


@dataclass
class ConversionReport:
    """What became of an official state dict.

    Attributes:
        loaded: official keys whose tensors the model now holds.
        unused: keys of constants that the model does not need: the mean and deviation of the pixels.
    """

    loaded: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.loaded)} tensors loaded, {len(self.unused)} not needed"


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
    state_dict = without_wrapper(state_dict, "ins_head.cate_pred.weight")
    is_teacher = tuple(num_grids) == TEACHER_GRIDS
    blocks = count(r"backbone\.bottom_up\.res4\.(\d+)\.", state_dict)
    depths = [depth for depth, stages in DEPTHS.items() if stages[2] == blocks]
    if not depths:
        raise ValueError(f"cannot convert: no ResNet of 50 or 101 layers, stage res4 has {blocks} blocks")
    lateral, category = state_dict["backbone.fpn_lateral2.weight"], state_dict["ins_head.cate_pred.weight"]
    body = ResNet(depths[0], frozen_stages=2, stride_in_1x1=True)
    model = SOLOv2(
        FPN(body, out_channels=len(lateral)),
        len(category),
        num_grids=num_grids,
        scale_ranges=scale_ranges or (TEACHER_RANGES if is_teacher else STUDENT_RANGES),
        instance_channels=category.shape[1],
        instance_convs=(count(r"ins_head\.cate_tower\.(\d+)\.", state_dict) + 1) // 3,
        kernel_channels=len(state_dict["ins_head.kernel_pred.weight"]),
        mask_channels=len(state_dict["mask_head.convs_all_levels.0.conv0.0.weight"]),
        postprocess=SoloPostprocess(nms="mask" if is_teacher else "matrix"),
        input_rule=INPUT_RULE,
    )
    if len(category) == len(COCO_CLASSES):
        model.label_map = LabelMap(tuple(COCO_CLASSES.values()), tuple(COCO_CLASSES))
    return model, load_completely(model, state_dict, solo_key)


def from_official_refine(state_dict: Mapping[str, Tensor]) -> tuple[MaskRefineNet, ConversionReport]:
    """Build the MaskRefineNet that an official state dict belongs to and load it completely.

    Returns:
        The network in eval mode, for as many classes as its first convolution tells, and a report.

    Raises:
        ValueError: as `from_official`.
    """
    state_dict = without_wrapper(state_dict, "layer0.0.weight")
    num_classes = state_dict["layer0.0.weight"].shape[1] - input_channels(0)
    model = MaskRefineNet(num_classes)
    return model, load_completely(model, state_dict, lambda key: rename(key, REFINE_NAMES))


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
    for pattern, name in names:
        own, found = re.subn(f"^{pattern}", name, official)
        if found:
            return own
    return official


def without_wrapper(state_dict: Mapping[str, Tensor], landmark: str) -> Mapping[str, Tensor]:
    """Without the prefix that training on several devices adds to each key.

    Raises:
        ValueError: `landmark` is not among the keys.
    """
    stripped = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if landmark not in stripped:
        raise ValueError(f"not an official PointWSSIS state dict of this kind: it has no {landmark}")
    return stripped


def load_completely(
    model: nn.Module, state_dict: Mapping[str, Tensor], own_key: Callable[[str], str]
) -> ConversionReport:
    """Load every tensor but the unused constants, and put the model in eval mode."""
    report, weights = ConversionReport(), {}
    for key, value in state_dict.items():
        if key in UNUSED:
            report.unused.append(key)
            continue
        name = own_key(key)
        weights[name] = value.flip(1) if name == "backbone.body.conv1.weight" else value
        report.loaded.append(key)
    problems = model.load_state_dict(weights, strict=False)
    if problems.missing_keys or problems.unexpected_keys:
        raise ValueError(
            f"cannot convert: {len(problems.unexpected_keys)} tensors belong to no part known here "
            f"{problems.unexpected_keys[:5]}, {len(problems.missing_keys)} are missing {problems.missing_keys[:5]}"
        )
    model.eval()
    return report
