"""Speed, memory and size of a model."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detkit.ops.linear import ONEDNN, conv_flops, linear_flops
from detkit.runtime.components import build_model, import_components
from detkit.runtime.evaluate import autocast
from detkit.structures import Annotations, Batch, LabelMap

NUM_COCO_CLASSES = 80
PHOTO = (480, 640)  # (h, w), as most of COCO's are


def build_for_benchmark(config: dict[str, Any]) -> nn.Module:
    """The model of a config with random weights and, where the config leaves it open, 80 classes."""
    import_components(config.get("imports", ()))
    num_classes = config["model"].get("num_classes", NUM_COCO_CLASSES)
    return build_model(config["model"], LabelMap.numbered(num_classes), pretrained=False)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters, of the whole model and of each of its parts."""
    figures = {"parameters": sum(p.numel() for p in model.parameters())}
    return figures | {
        f"parameters of {name}": sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }


def random_batch(size: tuple[int, int], batch: int, num_classes: int, device: torch.device, objects: int = 5) -> Batch:
    """Noise images of one size (h, w), each with a few random boxes."""
    generator = torch.Generator().manual_seed(0)
    h, w = size
    samples = []
    for _ in range(batch):
        corners = torch.rand(objects, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([w, h])
        boxes = corners.flatten(1) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        labels = torch.randint(num_classes, (objects,), generator=generator)
        image = torch.randint(256, (3, h, w), dtype=torch.uint8, generator=generator)
        samples.append((image, Annotations(boxes, labels)))
    return Batch.collate(samples).to(device)


def benchmark_model(
    model: nn.Module, *, size: tuple[int, int], batch: int, train_batch: int | None, repeats: int, precision: str
) -> dict[str, float]:
    """Median time of a forward pass and, for a `train_batch`, of a training step, peak memory and FLOPs, on its device.

    FLOPs are two for each multiplication and addition of matrix products and convolutions (what
    `torch.utils.flop_counter` counts), for one image; sampling and elementwise operations are left out.
    """
    figures = benchmark_forward(model, size=size, batch=batch, repeats=repeats, precision=precision)
    if train_batch is None:
        return figures
    step = _training_step(model, size, train_batch, precision)
    return figures | _measure("training", step, train_batch, repeats, next(model.parameters()).device)


def benchmark_forward(
    model: nn.Module, *, size: tuple[int, int], batch: int, repeats: int, precision: str
) -> dict[str, float]:
    """The figures of `benchmark_model` that need no training; the model is in eval mode afterwards."""
    device = next(model.parameters()).device
    data = random_batch(size, batch, len(model.label_map), device)
    model.eval()

    def forward() -> None:
        with torch.inference_mode(), autocast(precision, device):
            model(data)

    figures = {"GFLOPs per image": count_flops(model, forward) / batch / 1e9}
    return figures | _measure("forward", forward, batch, repeats, device)


def _training_step(model: nn.Module, size: tuple[int, int], batch: int, precision: str) -> Callable[[], None]:
    device = next(model.parameters()).device
    data = random_batch(size, batch, len(model.label_map), device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    model.train()

    def step() -> None:
        with autocast(precision, device):
            losses = model(data)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()

    return step


def count_flops(model: nn.Module, run: Callable[[], None]) -> int:
    """FLOPs of `run`, which runs the model."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:  # the counter hooks into gradients, which an inference has not
        parameter.requires_grad_(False)
    try:
        formulas: dict[Any, Callable] = {torch.ops.aten.mkldnn_convolution: conv_flops}
        if ONEDNN:
            formulas[torch.ops.mkldnn._linear_pointwise] = linear_flops
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            run()
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return counter.get_total_flops()


def _measure(name: str, run: Callable[[], None], batch: int, repeats: int, device: torch.device) -> dict[str, float]:
    def timed() -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for _ in range(3):
        timed()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = statistics.median(timed() for _ in range(repeats))
    return {
        f"{name} ms (batch {batch})": seconds * 1e3,
        f"{name} images/s": batch / seconds,
        f"{name} peak memory MB": peak_memory_mb(device),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far: allocated by tensors on a GPU, resident in the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
