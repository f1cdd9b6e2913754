"""How long ViDT+ takes and how much memory, beside the official code where a clone of it is at hand.

    git clone -b vidt-plus https://github.com/naver-ai/vidt
    python tools/benchmark_vidt.py --official vidt

forward: all predictions of one image, without gradients. train: one step with two images of five objects with masks,
which is forward pass, criterion, backward pass, clipping and AdamW. masks: from the predictions of 100 queries to
masks of 800 x 1216 pixels. Both sides load the same random weights in the official layout and see the same images.
Each measurement is a process of its own and the sides take turns. Times are CPU times. Memory (Linux only) is the
most that a process held during the timed calls, with Python and the libraries, and how much of it they added.

Of the official repository everything is run as it is, except its compiled deformable attention, which has no CPU
version: the repository's own version in PyTorch takes its place. The official side needs OpenCV (cv2).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _official import StandIns, add_process_options, check_clone, largest_error, measure, print_comparison, run, run_job
from torch import Tensor, nn

from detkit.backbones.layers import DropPath
from detkit.engine.optim import build_optimizer
from detkit.ops.boxes import box_area, xyxy_to_cxcywh
from detkit.ops.masks import MaskCrops, crop_masks
from detkit.registry import build
from detkit.structures import Annotations, ImageBatch
from detkit.vidt.convert import from_official
from detkit.vidt.outputs import Stages

BACKBONES = dict(nano="swin_nano", tiny="swin_tiny", small="swin_small", base="swin_base_win7_22k")
FLAGS = ["aux_loss", "with_box_refine", "epff", "iou_aware", "token_label", "with_vector", "masks"]
TOKENS, CLASSES, VECTORS = 300, 91, 256
CASES = dict(forward="forward, batch 1", train="training, batch 2", masks="masks, 100 queries")
OBJECTS, QUERIES, MASK_SIZE = 5, 100, (800, 1216)
RATES = dict(lr=1e-4, weight_decay=1e-4)


# Inputs that both sides share ---------------------------------------------------------------------------------------


def random_images(number: int, size: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(3, size, size, generator=rng) for _ in range(number)]


def random_objects(size: int, seed: int) -> Annotations:
    """Ellipses in boxes inside an image."""
    rng = torch.Generator().manual_seed(seed)
    sides = size * (0.06 + 0.34 * torch.rand(OBJECTS, 2, generator=rng))
    corner = torch.rand(OBJECTS, 2, generator=rng) * (size - sides)
    pixels = torch.arange(size) + 0.5
    x, y = (((pixels - corner[:, a, None]) / sides[:, a, None] - 0.5) ** 2 for a in (0, 1))
    labels = torch.randint(1, CLASSES, (OBJECTS,), generator=rng)
    boxes = torch.cat([corner, corner + sides], dim=1)
    return Annotations(boxes=boxes, labels=labels, masks=y[:, :, None] + x[:, None] <= 0.25)


def random_predictions() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, boxes (of all sizes) and mask vectors (smooth shapes) of an image."""
    rng = torch.Generator().manual_seed(2)
    sides = torch.exp(torch.empty(QUERIES, 2).uniform_(-4, -0.1, generator=rng))
    boxes = torch.cat([sides / 2 + torch.rand(QUERIES, 2, generator=rng) * (1 - sides), sides], dim=1)
    vectors = torch.randn(QUERIES, VECTORS, generator=rng) * 40 / (1 + torch.arange(VECTORS))
    return torch.randn(1, QUERIES, CLASSES, generator=rng), boxes[None], vectors[None]


# The sides ----------------------------------------------------------------------------------------------------------


class Official:
    """The official model, criterion and post-processing with the settings of ViDT+."""

    def __init__(self, clone: Path, config: str):
        check_clone(clone, "methods/vidt/fpn_fusion.py", "naver-ai/vidt (branch vidt-plus)")
        stand_in_for_libraries()
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        sys.path.insert(0, str(clone))
        functions = importlib.import_module("ops.functions.ms_deform_attn_func")
        core = functions.ms_deform_attn_core_pytorch
        by_torch = SimpleNamespace(apply=lambda value, shapes, starts, *rest: core(value, shapes, *rest[:2]))
        importlib.import_module("ops.modules.ms_deform_attn").MSDeformAttnFunction = by_torch
        settings = importlib.import_module("arguments").get_args_parser().parse_args([])
        vars(settings).update(method="vidt", backbone_name=BACKBONES[config], pre_trained="none", device="cpu")
        vars(settings).update(dict.fromkeys(FLAGS, True), det_token_num=TOKENS)
        with contextlib.redirect_stdout(io.StringIO()):
            built = importlib.import_module("methods").build_model(settings)
        self.model, self.criterion, self.postprocess = built[0].eval(), built[1], built[2]["bbox"]
        # The official file uses cv2 without importing it.
        importlib.import_module("methods.vidt.postprocessor").cv2 = importlib.import_module("cv2")
        self.batch = importlib.import_module("util.misc").nested_tensor_from_tensor_list

    def predictions(self, images: list[Tensor]) -> list[Tensor]:
        """Logits, boxes and mask vectors of all stages."""
        found = self.model(self.batch(images))
        stages = [*found["aux_outputs"], found]
        return [torch.stack([one[f"pred_{name}"] for one in stages]) for name in ("logits", "boxes", "vectors")]

    def objective(self, images: list[Tensor], objects: list[Annotations]) -> Tensor:
        targets = []
        for one in objects:
            boxes = xyxy_to_cxcywh(one.boxes) / images[0].shape[1]
            targets.append(dict(labels=one.labels, boxes=boxes, xyxy_boxes=one.boxes, masks=one.masks))
        losses, weights = self.criterion(self.model(self.batch(images)), targets), self.criterion.weight_dict
        return sum(losses[name] * weights[name] for name in losses if name in weights)

    def optimizer(self) -> torch.optim.Optimizer:
        """The groups and settings of the official training."""
        listed, groups = self.model.backbone.no_weight_decay(), ([], [], [])
        for name, parameter in self.model.named_parameters():
            undecayed = parameter.ndim == 1 or name.endswith(".bias") or name.split(".")[-1] in listed
            groups[0 if "backbone" not in name else 1 if undecayed else 2].append(parameter)
        sections = [dict(params=parameters) for parameters in groups]
        return torch.optim.AdamW([sections[0], dict(sections[1], weight_decay=0.0), sections[2]], **RATES)

    def masks(self, logits: Tensor, boxes: Tensor, vectors: Tensor) -> Tensor:
        outputs = dict(pred_logits=logits, pred_boxes=boxes, pred_vectors=vectors)
        return self.postprocess(outputs, torch.tensor([MASK_SIZE]))[0]["masks"][:, 0]


def roi_align(masks: Tensor, rois: Tensor, side: Sequence[int], *_: Any) -> Tensor:
    """Boxes `rois[:, 1:]` of masks `[n, 1, h, w]` as bitmaps of 0 and 1, `[n, 1, side, side]`."""
    crops = MaskCrops.of_masks(masks[:, 0] > 0, (masks.shape[2], masks.shape[3]))
    return crop_masks(crops, rois[:, 1:], side[0])[:, None].float()


def stand_in_for_libraries() -> None:
    """What the parts that are run need of timm and torchvision; cropping masks is detkit's own, a fast one."""
    StandIns(dict.fromkeys(["timm", "torchvision", "pycocotools", "MultiScaleDeformableAttention"])).install()
    layers = importlib.import_module("timm.models.layers")
    layers.DropPath, layers.trunc_normal_, layers.to_2tuple = DropPath, nn.init.trunc_normal_, lambda side: (side, side)
    torchvision, ops = importlib.import_module("torchvision"), importlib.import_module("torchvision.ops")
    torchvision.__version__, torchvision._is_tracing = "0.9.0", lambda: False
    ops.roi_align = roi_align
    importlib.import_module("torchvision.ops.boxes").box_area = box_area


class Detkit:
    """ViDT+ of detkit, with the official weights where there are any."""

    def __init__(self, config: str, weights: Path | None):
        backbone = dict(type="Swin", variant=config, num_tokens=TOKENS)
        parts = dict(fusion=True, mask_vectors=VECTORS, iou_aware=True, token_labels=True)
        own = dict(type="ViDT", backbone=backbone, num_classes=CLASSES, **parts)
        self.model = from_official(torch.load(weights))[0] if weights else build(own, path="model").eval()

    def predictions(self, images: list[Tensor]) -> list[Tensor]:
        stages = self.model.forward_stages(ImageBatch.from_images(images))
        return [stages.logits, stages.boxes, stages.vectors]

    def objective(self, images: list[Tensor], objects: list[Annotations]) -> Tensor:
        return sum(self.model.losses(ImageBatch.from_images(images), objects).values())

    def optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, **RATES)

    def masks(self, logits: Tensor, boxes: Tensor, vectors: Tensor) -> Tensor:
        stages = Stages(logits[None], boxes[None], vectors=vectors[None])
        return self.model.postprocess(stages, [MASK_SIZE])[0].masks


# In a process of its own --------------------------------------------------------------------------------------------


def write_weights(options: argparse.Namespace) -> None:
    """Official initial weights and noise, so that no part of the network gives zeros."""
    torch.manual_seed(0)
    model = Official(options.official, options.config).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    torch.save(model.state_dict(), options.folder / "weights.pt")


def measure_side(options: argparse.Namespace) -> dict[str, float]:
    """The figures of one side and one case; what it computed goes into a file."""
    torch.set_num_threads(options.threads)
    weights = options.folder / "weights.pt" if options.official else None
    if options.job == "official":
        side: Official | Detkit = Official(options.official, options.config)
        side.model.load_state_dict(torch.load(weights))
    else:
        side = Detkit(options.config, weights)
    if options.only == "train":
        figures, found = measure_training(side, options)
    else:
        inputs = random_images(1, options.size), random_predictions()
        calls = dict(forward=lambda: side.predictions(inputs[0]), masks=lambda: [side.masks(*inputs[1])])
        with torch.no_grad():
            figures, found = measure(calls[options.only], options.calls)
    torch.save(found, options.folder / f"{options.job}-{options.only}.pt")
    return figures


def measure_training(side: Official | Detkit, options: argparse.Namespace) -> tuple[dict[str, float], list[Tensor]]:
    """The figures of training steps; the objective and the norm of the gradient, first without dropout."""
    images, objects = random_images(2, options.size), [random_objects(options.size, seed) for seed in range(2)]
    optimizer, parameters = side.optimizer(), [*side.model.parameters()]

    def step() -> list[Tensor]:
        objective = side.objective(images, objects)
        objective.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return [objective.detach(), norm]

    found = step()
    side.model.train()
    return measure(step, options.calls)[0], found


# The parent ---------------------------------------------------------------------------------------------------------


def agreement(options: argparse.Namespace, case: str) -> str:
    """How far the results of the two sides are apart."""
    own, official = (torch.load(options.folder / f"{side}-{case}.pt") for side in ("detkit", "official"))
    if case == "masks":
        return f"pixels that differ: {int((own[0] != official[0]).sum())} of {own[0].numel()}"
    what = "objective and gradient norm" if case == "train" else "predictions"
    return f"largest difference of the {what}, relative to the largest value: {largest_error(own, official)}"


def compare(options: argparse.Namespace) -> None:
    if options.official:
        run("weights", options)
    for case in [options.only] if options.only else CASES:
        print_comparison(CASES[case], options, "--only", case)
        if options.official:
            print(agreement(options, case), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_process_options(parser, calls=5)
    parser.add_argument("--config", choices=BACKBONES, default="nano", help="the backbone of ViDT+ (default nano)")
    parser.add_argument("--size", type=int, default=640, help="side of the images (default 640)")
    parser.add_argument("--only", choices=CASES, help="measure only this")
    options = parser.parse_args()
    run_job(options, write_weights, measure_side, compare)


if __name__ == "__main__":
    main()
