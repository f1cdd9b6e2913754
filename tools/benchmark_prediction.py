"""What slices and augmented copies gain, and the memory of a long prediction.

    detkit train quickstart
    python tools/benchmark_prediction.py slices runs/quickstart [--scenes 20]
    python tools/benchmark_prediction.py tta runs/quickstart [--scenes 200]
    python tools/benchmark_prediction.py memory runs/quickstart [--images 300]

slices: scenes of 1024 x 1024 pixels with 15 objects of 20 to 72 pixels: AP in percent, of all and of small objects
(less than 32 x 32 pixels), and CPU seconds of a scene. "whole" sees the scene at the checkpoint's input size, "whole at
1024" in full resolution.
tta: the same of scenes of 128 x 128 pixels, as quickstart trains on.
memory: predicts images of many sizes from a folder and prints the resident memory of the process on the way.
One thread.
"""
# ruff: noqa: E402 (the environment is set before torch is imported)

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkit.cli.environment import set_environment

set_environment()

import numpy as np
import torch
from PIL import Image

from detkit.checkpoints.weights import load_model
from detkit.data.synthetic import SyntheticScenes
from detkit.evaluation.coco import CocoEvaluator
from detkit.inference import processing
from detkit.inference.images import Options, predict_files
from detkit.modeling.image_model import ImageModel
from detkit.modeling.memory import return_free_memory
from detkit.modeling.viewed import ViewedModel
from detkit.runtime.evaluate import evaluate

SIDE = 1024
SLICES: tuple[dict[str, Any], ...] = (dict(slice=256),)
SMALL_OBJECTS: dict[str, Any] = dict(size=SIDE, object_size=(0.02, 0.07), min_objects=15, max_objects=15)
HEAD = f"{'':24}{'AP':>7}{'small':>7}{'CPU s':>8}"


def row(name: str, model: Any, scenes: SyntheticScenes) -> None:
    """Evaluate and print one row."""
    start = time.process_time()
    figures = evaluate(model, scenes, CocoEvaluator(scenes), precision="fp32", progress=False)
    spent = (time.process_time() - start) / len(scenes)
    small = f"{100 * figures['bbox/APs']:7.1f}" if figures["bbox/APs"] >= 0 else f"{'-':>7}"
    print(f"{name:24}{100 * figures['bbox/AP']:7.1f}{small}{spent:8.2f}", flush=True)


def compare_slices(model: ImageModel, count: int) -> None:
    """The table of whole images and slices."""
    scenes, own = SyntheticScenes(count, seed=7, masks=False, **SMALL_OBJECTS), model.input_rule
    print(HEAD)
    row("whole", model, scenes)
    model.input_rule = replace(own, shortest=SIDE, longest=SIDE)
    row(f"whole at {SIDE}", model, scenes)
    model.input_rule = own
    for options in SLICES:
        row(f"--slice {options['slice']}", ViewedModel(model, **options), scenes)


def compare_tta(model: ImageModel, count: int) -> None:
    """The table without and with augmented copies."""
    scenes = SyntheticScenes(count, seed=1, masks=False)
    print(HEAD)
    row("once", model, scenes)
    row("--tta", ViewedModel(model, tta=True), scenes)


def follow_memory(model: ImageModel, count: int) -> None:
    """Resident memory against the number of images predicted."""
    rng, save, done = np.random.default_rng(0), processing.save_drawing, 0

    def watched(*arguments: Any, **options: Any) -> None:
        nonlocal done
        save(*arguments, **options)
        done += 1
        if done % max(1, count // 10) == 0:
            return_free_memory()
            print(f"{done:6} images {resident_mb():8.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            height, width = rng.integers(200, 1600, 2)
            coarse = rng.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((int(width), int(height))).save(f"{folder}/{number:05}.jpg")
        processing.save_drawing = watched
        predict_files(model, [folder], Path(folder) / "out", Options(min_score=0.3))


def resident_mb() -> float:
    """What the process holds in memory; Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


WHAT = {"slices": (compare_slices, 20), "tta": (compare_tta, 200), "memory": (follow_memory, 300)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("checkpoint", help="a detector, or the folder of its run")
    parser.add_argument("--scenes", "--images", type=int, help="how many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure, default = WHAT[options.what]
    model = load_model(options.checkpoint)
    assert isinstance(model, ImageModel)
    measure(model, options.scenes or default)


if __name__ == "__main__":
    main()
