"""A model, a dataset and an evaluator that train in milliseconds."""

import os
import signal

import numpy as np
import torch
import torch.nn.functional as F
from processes import run_ranks
from torch import nn

from detkit.data.base import ImageDataset
from detkit.engine.runner import Runner, train
from detkit.modeling.base import InputRule
from detkit.modeling.image_model import ImageModel
from detkit.registry import register
from detkit.runtime.processes import all_gather_object
from detkit.structures import Annotations, Detections, LabelMap

SIZE = 16


@register
class ToyScenes(ImageDataset):
    """Noise images; with `crowded`, only the image of that index has objects."""

    def __init__(self, length=24, seed=0, crowded=None, bad_image=None):
        rng = np.random.default_rng(seed)
        self.label_map = LabelMap(("cat", "dog"), (3, 7))
        self.image_ids = list(range(100, 100 + length))
        self.sizes = np.full((length, 2), SIZE)
        self.images = torch.from_numpy(rng.integers(0, 256, (length, 3, SIZE, SIZE), dtype=np.uint8))
        counts = rng.integers(0, 4, length) if crowded is None else np.where(np.arange(length) == crowded, 3, 0)
        self.boxes = [torch.from_numpy(np.sort(rng.random((n, 4)), axis=1).astype(np.float32)) * SIZE for n in counts]
        self.labels = [torch.from_numpy(rng.integers(0, 2, n)) for n in counts]
        if bad_image is not None:
            self.boxes[bad_image] = torch.full((1, 4), torch.nan)
            self.labels[bad_image] = torch.zeros(1, dtype=torch.int64)

    def __len__(self):
        return len(self.image_ids)

    def __getitem__(self, i):
        fields = dict(image_id=self.image_ids[i], original_size=(SIZE, SIZE), file_name=f"{i}.png")
        return self.images[i], Annotations(self.boxes[i], self.labels[i], **fields)


@register
class ToyModel(ImageModel):
    """Predicts one box and one class for each image; two stages share one head."""

    def __init__(self, num_classes, dropout=0.1, batch_norm=True, pretrained=None):
        super().__init__(LabelMap.numbered(num_classes), InputRule(SIZE, SIZE, 1))
        if pretrained:
            raise ValueError(f"{pretrained} does not exist any more")
        norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Flatten(2))
        head = nn.Linear(8, 4 + num_classes)
        self.heads = nn.ModuleList([head, head])
        self.dropout = nn.Dropout(dropout)

    def _stages(self, images):
        features = self.dropout(self.backbone(images.images).mean(2))
        return [head(features) for head in self.heads]

    def losses(self, images, annotations, num_objects=None):
        of_image = torch.cat([torch.full((len(a),), i) for i, a in enumerate(annotations)])
        boxes, labels = torch.cat([a.boxes for a in annotations]), torch.cat([a.labels for a in annotations])
        losses = {}
        for stage, found in enumerate(self._stages(images)):
            found = found[of_image]
            losses[f"loss_box_{stage}"] = F.l1_loss(found[:, :4], boxes / SIZE, reduction="sum") / num_objects
            losses[f"loss_class_{stage}"] = F.cross_entropy(found[:, 4:], labels, reduction="sum") / num_objects
        return losses

    def detect(self, images, original_sizes):
        found = self._stages(images)[-1]
        scores, labels = found[:, 4:].softmax(1).max(1)
        parts = zip(found[:, None, :4] * SIZE, scores[:, None], labels[:, None], strict=True)
        return [Detections(*part, label_map=self.label_map) for part in parts]


@register
class ToyEvaluator:
    """How near the first box of each image is to its detection, 0..1."""

    def __init__(self, dataset, scale=1.0):
        self.dataset, self.scale = dataset, scale
        self.reset()

    def reset(self):
        self.found = []

    def update(self, predictions, annotations):
        for detections, truth in zip(predictions, annotations, strict=True):
            boxes = truth.boxes if len(truth) else torch.zeros(1, 4)
            distance = (detections.boxes[0] - boxes[0]).abs().mean().item() / SIZE
            self.found.append((truth.image_id, detections.boxes[0].tolist(), distance))

    def compute(self):
        self.found = sorted(found for of_rank in all_gather_object(self.found) for found in of_rank)
        return {"AP": -self.scale * sum(d for *_, d in self.found) / len(self.found), "images": len(self.found)}

    def results(self):
        return [{"image_id": image_id, "bbox": box} for image_id, box, _ in self.found]

    def table(self, *, per_class=False):
        return f"{len(self.found)} images"


def toy_config(**changes):
    """A config of 3 epochs of 6 steps; `changes` such as `train__epochs=1`."""
    config = dict(
        model=dict(type="ToyModel"),
        data=dict(train=dict(type="ToyScenes"), val=dict(type="ToyScenes", length=5, seed=1), batch_size=4, workers=0),
        optimizer=dict(lr=0.01),
        schedule=dict(type="cosine", per_step=True, warmup_steps=2),
        train=dict(epochs=3, log_every=2, device="cpu", tensorboard=False, draw_samples=0),
        evaluator=dict(type="ToyEvaluator"),
    )
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for key in parents:
            section = section[key]
        section[last] = value
    return config


def step_before(action, step):
    """Call `action` within optimizer step `step`, before the weights change."""
    original = Runner.train_step

    def train_step(runner, *arguments):
        if runner.step + 1 == step:
            action()
        original(runner, *arguments)

    return train_step


def train_killed(config, out, *, kill_at=None, resume=False):
    """Train, and die by SIGKILL within optimizer step `kill_at`; for processes of their own."""
    if kill_at:
        Runner.train_step = step_before(lambda: os.kill(os.getpid(), signal.SIGKILL), kill_at)
    train(config, out, resume=resume)


def run_two(config, out, *, patience=30.0, run=train_killed, **options):
    """Train on two ranks; their exit codes and what they wrote. `options` are those of `run`."""
    log = out.with_suffix(f".{len(list(out.parent.glob('*.log')))}.log")
    return run_ranks(lambda: run(config, out, **options), log, patience=patience)
