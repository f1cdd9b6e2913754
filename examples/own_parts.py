"""Parts of your own in one file: a backbone, a transform, a loss and a hook. Copy what you need.

`own_parts_config.py` names this file in its `imports` and uses all four:

    detkit train examples/own_parts_config.py
    detkit predict runs/own_parts_config/best.safetensors photo.jpg --out drawn --import examples/own_parts.py

docs/own_parts.md says what each kind of part must have.
"""

import json
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from detkit.backbones.layers import DetFeatures
from detkit.engine.hook import Hook
from detkit.ops.boxes import box_iou, cxcywh_to_xyxy
from detkit.registry import register
from detkit.runtime.processes import is_main
from detkit.vidt.losses.criterion import SetCriterion


def conv(in_channels, out_channels, stride):
    """A 3 x 3 convolution, a group norm and a ReLU."""
    layer = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(8, out_channels), nn.ReLU(inplace=True))


@register
class TinyConvNet(nn.Module):
    """A small convolutional network as the backbone of ViDT.

    Args:
        channels: of the maps of stride 8, 16 and 32, each divisible by 8.
        num_tokens: learned [DET] tokens, the most objects that can be found in an image.
        pos_dim: channels of the tokens, of their positions and of the map of stride 64.
    """

    def __init__(self, channels=(64, 128, 256), num_tokens=20, pos_dim=128):
        super().__init__()
        self.stem = nn.Sequential(conv(3, channels[0] // 2, 2), conv(channels[0] // 2, channels[0], 2))
        widths = [channels[0], *channels, pos_dim]
        self.stages = nn.ModuleList(
            nn.Sequential(conv(before, width, 2), conv(width, width, 1)) for before, width in pairwise(widths)
        )
        self.det_token = nn.Parameter(torch.randn(1, num_tokens, pos_dim) * 0.02)
        self.det_pos_embed = nn.Parameter(torch.randn(1, num_tokens, pos_dim) * 0.02)
        # What ViDT asks of a backbone: the channels of its maps, tokens and positions, and the number of tokens.
        self.num_channels, self.det_channels, self.pos_dim = [*channels, pos_dim], pos_dim, pos_dim
        self.num_tokens = num_tokens

    def no_weight_decay(self):
        """Names of parameters without weight decay, besides biases and norms."""
        return {"det_token", "det_pos_embed"}

    def forward(self, images, mask):
        """Normalised images `[b, 3, h, w]` and their padding `[b, h, w]` to maps, tokens and positions."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return DetFeatures(maps, self.det_token.expand(len(images), -1, -1), self.det_pos_embed)


@register
class RandomErase:
    """Fill a random rectangle with noise (arXiv 1708.04896); boxes and masks stay as they are.

    Args:
        probability: of an image to be changed.
        area: smallest and largest part of the image that is erased.
    """

    def __init__(self, probability=0.5, area=(0.02, 0.15)):
        if not 0 <= probability <= 1 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"probability and area must lie in 0..1, got {probability} and {area}")
        self.probability, self.area = probability, area

    def __call__(self, image, annotations, rng):
        """Image uint8 `[3, h, w]` and `Annotations` to the same; all random numbers come from `rng`, a numpy one."""
        if rng.random() >= self.probability:
            return image, annotations
        side = rng.uniform(*self.area) ** 0.5
        h, w = (max(1, round(side * length)) for length in image.shape[1:])
        y, x = rng.integers(image.shape[1] - h + 1), rng.integers(image.shape[2] - w + 1)
        image = image.clone()  # the dataset may keep its image
        image[:, y : y + h, x : x + w] = torch.from_numpy(rng.integers(0, 256, (3, h, w), dtype="uint8"))
        return image, annotations


@register
class QualityCriterion(SetCriterion):
    """The loss of ViDT with quality focal loss (arXiv 2006.04388): a class score learns the IoU of its box.

    Args:
        beta: how fast the weight falls as a score comes near its target.
        weights: of `SetCriterion`.
    """

    def __init__(self, *, beta=2.0, **weights):
        super().__init__(**weights)
        self.beta = beta

    def class_loss(self, stages, targets, matches):
        """The loss of each stage, `[s]`, summed over images, queries and classes."""
        boxes = stages.boxes[matches.stage, matches.image, matches.query].detach().float()
        iou = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes[matches.image, matches.target]))
        logits = stages.logits.float()
        quality = torch.zeros_like(logits)
        labels = targets.labels[matches.image, matches.target]
        quality[matches.stage, matches.image, matches.query, labels] = iou
        weight = (logits.sigmoid() - quality).abs() ** self.beta
        return (F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * weight).sum((1, 2, 3))


@register
class EpochFiles(Hook):
    """Write a small json file after each epoch, `epochs/001.json` in the folder of the run.

    Args:
        folder: its name.
    """

    def __init__(self, folder="epochs"):
        self.folder = folder

    def after_epoch(self, runner):
        """Called on every process after the hooks of detkit, so that the figures of this epoch are known."""
        if not is_main():
            return
        losses = {name: round(float(loss), 4) for name, loss in runner.losses.items()}
        path = runner.out / self.folder / f"{runner.epoch:03}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"step": runner.step, "losses": losses, "metrics": runner.metrics}, indent=1))
