"""How long the parts of PointWSSIS take at COCO sizes, beside the official code where a clone of it is at hand.

    git clone https://github.com/clovaai/PointWSSIS
    python tools/benchmark_pointseg.py --official PointWSSIS

The scenes are synthetic: ellipses of several classes in an image of 800 x 1216 pixels, the grids of the paper's
teacher. Both sides get the same tensors and the same random weights and take turns. Of the official repository the
files of SOLOv2, of detectron2's ResNet and FPN and of MaskRefineNet are run as they are; torchvision's ResNet-101, on
which MaskRefineNet builds, is timm's. Times are CPU times of this process.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _official import StandIns, check_clone, largest_error, print_head, print_row, race
from torch import Tensor, nn

from detkit.backbones.fpn import FPN
from detkit.backbones.resnet import ResNet
from detkit.pointseg.convert import from_official, from_official_refine
from detkit.pointseg.grid import TEACHER_GRIDS, TEACHER_RANGES, GridLevels, Objects, assign
from detkit.pointseg.heads import SoloOutputs
from detkit.pointseg.nms import mask_nms, matrix_nms
from detkit.pointseg.postprocess import SoloPostprocess
from detkit.pointseg.refine.network import MaskRefineNet, input_channels
from detkit.pointseg.solov2 import SOLOv2
from detkit.structures import Annotations, ImageBatch, Prompt

NUM_CLASSES, CHANNELS = 80, 256
# Candidates of an image before the suppression; side of MaskRefineNet's crops.
CANDIDATES, CROP = 500, 256
# How far the sides of candidates are from those of their object, in sides of it: of 500 nearly 150 pass the mask NMS.
JITTER = 0.2
STAGES = ("res2", "res3", "res4", "res5")
DETECTRON2 = (
    "config.defaults",
    "layers.batch_norm",
    "layers.blocks",
    "layers.shape_spec",
    "layers.wrappers",
    "modeling.backbone.backbone",
    "modeling.backbone.fpn",
    "modeling.backbone.resnet",
    "structures.boxes",
    "structures.image_list",
    "structures.instances",
    "utils.env",
)
ADET = ("config.defaults", "modeling.solov2.solov2", "modeling.solov2.utils", "modeling.solov2.loss")


@dataclass
class Case:
    """One part to time: what the sides do, and how their results are compared."""

    name: str
    detkit: Callable[[], Any]
    official: Callable[[], Any] | None
    same: Callable[[Any, Any], str]


# Synthetic scenes --------------------------------------------------------------------------------------------------


def ellipses(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks `[n, h, w]` bool of the ellipses in boxes `[n, 4]`."""
    centre, radius = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    near = [((torch.arange(size[1 - a]) - centre[:, a, None]) / radius[:, a, None]) ** 2 for a in (0, 1)]
    return near[1][:, :, None] + near[0][:, None] <= 1


def scene(objects: int, classes: int, size: tuple[int, int], seed: int) -> Annotations:
    """Objects of sizes spread like those of COCO, with masks."""
    rng = torch.Generator().manual_seed(seed)
    frame = torch.tensor([size[1], size[0]])
    sides = torch.exp(torch.empty(objects, 2).uniform_(2.7, 6.2, generator=rng)).minimum(frame * 0.9)
    corner = torch.rand(objects, 2, generator=rng) * (frame - sides)
    boxes = torch.cat([corner, corner + sides], dim=1)
    labels = torch.randperm(NUM_CLASSES, generator=rng)[torch.randint(classes, (objects,), generator=rng)]
    return Annotations(boxes=boxes, labels=labels, masks=ellipses(boxes, size))


def repeated_masks(scene: Annotations, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Many masks near the objects at a quarter of the size, best first, with labels and scores."""
    rng = torch.Generator().manual_seed(1)
    owner = torch.randint(len(scene), (CANDIDATES,), generator=rng)
    sides = (scene.boxes[:, 2:] - scene.boxes[:, :2])[owner].repeat(1, 2)
    boxes = scene.boxes[owner] + JITTER * sides * torch.randn(CANDIDATES, 4, generator=rng)
    boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 12)
    scores = torch.rand(CANDIDATES, generator=rng).sort(descending=True).values
    return ellipses(boxes / 4, (size[0] // 4, size[1] // 4)), scene.labels[owner], scores


def outputs_for(scene: Annotations, points: Tensor, size: tuple[int, int]) -> SoloOutputs:
    """Outputs of a network that knows the objects: at their points the filters of their masks, with some noise."""
    rng = torch.Generator().manual_seed(2)
    quarter = (size[0] // 4, size[1] // 4)
    features = torch.rand(1, CHANNELS, *quarter, generator=rng)
    centre, radius = (scene.boxes[:, 2:] + scene.boxes[:, :2]) / 8, (scene.boxes[:, 2:] - scene.boxes[:, :2]) / 8
    for i, (c, r) in enumerate(zip(centre.tolist(), radius.tolist(), strict=True)):
        x, y = ((torch.arange(quarter[1 - axis]) - c[axis]) / r[axis] for axis in (0, 1))
        features[0, i] = (2 - (y[:, None] ** 2 + x**2)).clamp(min=0)
    features[0, -1] = 1
    category, kernels = [], []
    for side in TEACHER_GRIDS:
        logits = torch.randn(1, NUM_CLASSES, side, side, generator=rng) - 4
        filters = 0.02 * torch.randn(1, CHANNELS, side, side, generator=rng)
        column, row = (points / torch.tensor([size[1], size[0]]) * side).long().unbind(1)
        filters[0, torch.arange(len(scene)), row, column] += 12
        filters[0, -1, row, column] -= 12
        logits[0, scene.labels, row, column] += 2 + 3 * torch.rand(len(scene), generator=rng)
        category.append(logits)
        kernels.append(filters)
    return SoloOutputs(category, kernels, features)


# The official code -------------------------------------------------------------------------------------------------


class Settings(dict):
    """As much of a configuration node as default settings need."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Official:
    """The official SOLOv2, with the settings of the paper's teacher, and MaskRefineNet."""

    def __init__(self, clone: Path):
        check_clone(clone, "AdelaiDet/adet/modeling/solov2/solov2.py", "clovaai/PointWSSIS")
        packages = {
            "detectron2": clone / "detectron2" / "detectron2",
            "adet": clone / "AdelaiDet" / "adet",
            "network": clone / "MaskRefineNet" / "network",
            "fvcore": None,
            "torchvision": None,
        }
        real = [f"detectron2.{name}" for name in DETECTRON2] + [f"adet.{name}" for name in ADET]
        StandIns(packages, [*real, "network.modules", "network.unet"]).install()
        for name in ("detectron2.config", "detectron2.config.config"):
            importlib.import_module(name).CfgNode = Settings
        self.solov2 = importlib.import_module("adet.modeling.solov2.solov2")
        self.utils = importlib.import_module("adet.modeling.solov2.utils")
        self.structures = importlib.import_module("detectron2.structures")

    def settings(self) -> Settings:
        settings = importlib.import_module("adet.config.defaults")._C
        model = settings.MODEL
        model.DEVICE = "cpu"
        model.RESNETS.DEPTH, model.RESNETS.OUT_FEATURES, model.FPN.IN_FEATURES = 101, STAGES, STAGES
        model.SOLOV2.NUM_GRIDS, model.SOLOV2.FPN_SCALE_RANGES = TEACHER_GRIDS, TEACHER_RANGES
        model.SOLOV2.NMS_TYPE, model.SOLOV2.PROMPT = "mask", "point"
        return settings

    def network(self) -> nn.Module:
        """SOLOv2 on ResNet-101 and FPN, in eval mode."""
        fpn = importlib.import_module("detectron2.modeling.backbone.fpn")
        images = importlib.import_module("detectron2.layers").ShapeSpec(channels=3)
        self.solov2.build_backbone = lambda settings: fpn.build_resnet_fpn_backbone(settings, images)
        return self.solov2.SOLOv2(self.settings()).eval()

    def refine_network(self) -> nn.Module:
        import timm

        models = SimpleNamespace(resnet101=lambda pretrained: timm.create_model("resnet101"))
        importlib.import_module("torchvision").models = models
        unet = importlib.import_module("network.unet")
        return unet.UNet_ResNet101(2, input_channels(NUM_CLASSES)).eval()

    def instances(self, scene: Annotations) -> SimpleNamespace:
        """The objects as the official target assignment reads them."""
        boxes, masks = SimpleNamespace(tensor=scene.boxes), SimpleNamespace(tensor=scene.masks)
        return SimpleNamespace(gt_boxes=boxes, gt_classes=scene.labels, gt_masks=masks)

    def targets(self, model: nn.Module, scenes: list[Annotations], size: tuple[int, int], *, training: bool) -> tuple:
        model.training = training
        found = model.get_ground_truth([self.instances(one) for one in scenes], (size[0] // 4, size[1] // 4))
        model.training = False
        return found

    def answer(self, model: nn.Module, scene: Annotations, outputs: SoloOutputs, size: tuple[int, int]) -> Callable:
        """A call that turns given outputs of the network and points into masks."""
        model.scale_ranges = [(1, 100000)] * 5
        targets = self.targets(model, [scene], size, training=False)
        # What the network itself and the simulation of points cost is not counted.
        model.get_ground_truth = lambda *_: targets
        model.preprocess_image = lambda _: SimpleNamespace(tensor=None, image_sizes=[size])
        model.split_feats = lambda features: features
        model.backbone = Constant({f"p{level}": None for level in range(2, 7)})
        model.ins_head = Constant((outputs.category, outputs.kernels))
        model.mask_head = Constant(outputs.mask_features)
        image = dict(instances=SimpleNamespace(to=lambda _: None), height=size[0] * 3 // 5, width=size[1] * 3 // 5)
        return lambda: model([image])[0]["instances"]


class Constant(nn.Module):
    """A part of a network that always gives the same."""

    out_channels = CHANNELS

    def __init__(self, value: Any):
        super().__init__()
        self.value = value

    def forward(self, *_: Any) -> Any:
        return self.value


# What is timed -----------------------------------------------------------------------------------------------------


def suppression_cases(scene: Annotations, size: tuple[int, int], official: Official | None) -> Iterator[Case]:
    masks, labels, scores = repeated_masks(scene, size)
    areas = masks.sum((1, 2)).float()
    utils = official and official.utils
    yield Case(
        f"matrix NMS, {len(masks)} masks",
        lambda: matrix_nms(masks, labels, scores),
        utils and (lambda: utils.matrix_nms(labels, masks, areas, scores)),
        largest_error,
    )
    yield Case(
        f"mask NMS, {len(masks)} masks",
        lambda: mask_nms(masks, labels),
        utils and (lambda: utils.mask_nms(labels, masks, areas, scores)),
        lambda own, other: f"{equal(torch.equal(own, other.bool()))}, {int(own.sum())} kept",
    )


def equal(same: bool) -> str:
    return "equal" if same else "DIFFERENT"


def target_case(scenes: list[Annotations], size: tuple[int, int], official: Official | None, model: Any) -> Case:
    """Cells, classes and masks of a training batch."""
    grids = GridLevels(TEACHER_GRIDS, TEACHER_RANGES)

    def own() -> tuple:
        objects = Objects.from_annotations(scenes, size, torch.device("cpu"))
        targets = assign(objects, grids, size, len(scenes))
        return objects, targets, targets.labels(objects, NUM_CLASSES), objects.masks.index_select(0, targets.row_object)

    def same(found: tuple, other: tuple) -> str:
        objects, targets, labels, masks = found
        starts = torch.tensor([0, *grids.level_sizes]).cumsum(0).tolist()
        image = objects.image[targets.row_object]
        for i in range(len(scenes)):
            for level, (start, end) in enumerate(pairwise(starts)):
                rows = (image == i) & (targets.row_cell >= start) & (targets.row_cell < end)
                if not torch.equal(labels[i, start:end], other[1][i][level].flatten()):
                    return equal(False)
                if (targets.row_cell[rows] - start).tolist() != other[3][i][level]:
                    return equal(False)
                if not torch.equal(masks[rows], other[0][i][level]):
                    return equal(False)
        return equal(True)

    name = f"targets, {len(scenes)} images of {len(scenes[0])} objects"
    return Case(name, own, official and (lambda: official.targets(model, scenes, size, training=True)), same)


def prompt_case(scene: Annotations, size: tuple[int, int], official: Official | None, model: Any) -> Case:
    """From outputs of the network and points to masks of the original size."""
    rows = scene.masks.sum(2).float(), scene.masks.sum(1).float()
    y, x = ((count * torch.arange(count.shape[1])).sum(1) / count.sum(1) for count in rows)
    points = torch.stack([x, y], dim=1)
    outputs = outputs_for(scene, points, size)
    own_model = SOLOv2(
        Constant(None),
        NUM_CLASSES,
        num_grids=TEACHER_GRIDS,
        scale_ranges=TEACHER_RANGES,
        postprocess=SoloPostprocess(nms="mask"),
    )
    original, prompts = (size[0] * 3 // 5, size[1] * 3 // 5), [Prompt(scene.labels, points)]

    def same(own: Any, other: Any) -> str:
        if own.labels.tolist() != other.pred_classes.tolist():
            return equal(False)
        pixels = (own.masks != other.pred_masks).float().mean()
        return f"{len(own)} masks, {pixels:.1e} of pixels differ, scores {largest_error(own.scores, other.scores)}"

    return Case(
        f"prompts, {len(scene)} points to masks",
        lambda: own_model.detections(outputs, [size], [original], prompt="point", prompts=prompts)[0],
        official and official.answer(model, scene, outputs, size),
        same,
    )


def solov2_case(size: tuple[int, int], official: Official | None, model: Any) -> Case:
    """From a normalised image to class logits, filters and mask features."""
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    batch = ImageBatch.from_images(list(images))
    if official:
        own_model = from_official(model.state_dict(), TEACHER_GRIDS)[0]
    else:
        own_model = SOLOv2(FPN(ResNet(101, stride_in_1x1=True)), NUM_CLASSES, num_grids=TEACHER_GRIDS).eval()

    def official_heads() -> list[Tensor]:
        features = list(model.backbone(images.flip(1)).values())
        category, kernels = model.ins_head(model.split_feats(features))
        return [*category, *kernels, model.mask_head(features[:4])]

    def own_heads() -> list[Tensor]:
        outputs = own_model.forward_heads(batch)
        return [*outputs.category, *outputs.kernels, outputs.mask_features]

    return Case("SOLOv2 R101-FPN forward", own_heads, official and official_heads, largest_error)


def refine_case(official: Official | None) -> Case:
    crops = torch.randn(1, input_channels(NUM_CLASSES), CROP, CROP, generator=torch.Generator().manual_seed(4))
    other = official and official.refine_network()
    own = from_official_refine(other.state_dict())[0] if other else MaskRefineNet(NUM_CLASSES).eval()
    return Case("MaskRefineNet forward", lambda: own(crops), other and (lambda: other(crops)), largest_error)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    size = (options.size[0] // 32 * 32, options.size[1] // 32 * 32)
    scenes = [scene(options.objects, options.classes, size, seed) for seed in range(2)]
    official = Official(options.official) if options.official else None
    model = official and official.network()
    if not options.skip_networks:
        yield solov2_case(size, official, model)
        yield refine_case(official)
    yield from suppression_cases(scenes[0], size, official)
    yield target_case(scenes, size, official, model)
    yield prompt_case(scene(options.points, options.classes, size, 7), size, official, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="a clone of the official repository")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each side (default 5)")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1216], help="height and width of the image")
    parser.add_argument("--objects", type=int, default=20, help="of an image")
    parser.add_argument("--classes", type=int, default=5, help="different classes in an image (default 5)")
    parser.add_argument("--points", type=int, default=25, help="prompts")
    parser.add_argument("--skip-networks", action="store_true", help="leave out the forward passes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print_head()
    with torch.inference_mode():
        for case in cases(options):
            sides = {"official": case.official, "detkit": case.detkit} if case.official else {"detkit": case.detkit}
            note = case.same(case.detkit(), case.official()) if case.official else ""
            print_row(case.name, race(sides, options.rounds), note)


if __name__ == "__main__":
    sys.exit(main())
