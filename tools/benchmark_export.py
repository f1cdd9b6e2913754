#!/usr/bin/env python
"""CPU time of a model in PyTorch, onnxruntime and OpenVINO, in turns, and what 8-bit integers cost.

    python tools/benchmark_export.py vidt_plus_swin_nano --size 640 --images FOLDER
    python tools/benchmark_export.py runs/mine/best.safetensors --ap

A config is built with random weights; a checkpoint has its own. Every format is compared with the original first. The
times are medians of CPU milliseconds for one image; the models take turns. With --ap all are evaluated on the
validation data, each at the size of the graph.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoints.weights import load_model, read_header
from detkit.config import load_config
from detkit.exporting.comparing import Tolerance, compare
from detkit.exporting.exported import load_exported
from detkit.exporting.photos import photos
from detkit.exporting.program import SUFFIXES, write
from detkit.exporting.tracing import describe, frame_of
from detkit.runtime.components import build_evaluation
from detkit.runtime.evaluate import evaluate
from detkit.studies.benchmark import build_for_benchmark

INT8 = "onnx int8"


def main() -> None:
    """Print one line of a Markdown table for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, or a config for random weights")
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino", INT8], choices=[*SUFFIXES, INT8])
    parser.add_argument("--size", type=int, nargs="+", help="as of detkit export")
    parser.add_argument("--images", type=Path, help="folder of images to compare on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ap", action="store_true", help="evaluate each on the validation data")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, config = read(options.model)
    examples, source = photos(config, options.images, pairs=False)
    print(f"{options.model}, {options.threads} threads, {len(examples)} {source}")
    print("| format | CPU ms | PyTorch, in turns | times | boxes | scores | box AP |\n|---|---|---|---|---|---|---|")
    if options.ap:
        print(f"| PyTorch, by its own input rule | | | | | | {ap(model, config):.2f} |")
    for format in options.formats:
        print(line(model, config, examples, format, options), flush=True)


def read(name: str) -> tuple[Any, dict[str, Any]]:
    """The model of a checkpoint or a config, and its config."""
    if name.endswith(".safetensors"):
        return load_model(name), read_header(name)["config"]
    config = load_config(name)
    torch.manual_seed(0)
    return build_for_benchmark(config).eval(), config


def line(model: Any, config: dict[str, Any], examples: list[Any], format: str, options: argparse.Namespace) -> str:
    """The row of a format."""
    size, places = options.size or frame_of(model, examples), dict(preprocessing="inside", postprocessing="inside")
    description = describe(model, size=size, batch=1, int8=format == INT8, **places)
    kind = format.split()[0]
    with tempfile.TemporaryDirectory() as folder:
        exported: Any = load_exported(write(model, description, kind, Path(folder) / f"model{SUFFIXES[kind]}")[0])
        found = compare(model, exported, examples, Tolerance())
        score = f"{ap(exported, config):.2f}" if options.ap else ""
    (_, own), (_, new) = found.milliseconds["original"], found.milliseconds["exported"]
    equal = "not equal" if found.problems else f"{found.pixels:.1g} px", "" if found.problems else f"{found.score:.1g}"
    return f"| {format} | {new:.0f} | {own:.0f} | {own / new:.2f} | {equal[0]} | {equal[1]} | {score} |"


def ap(model: Any, config: dict[str, Any]) -> float:
    """The box AP of a model in percent on the validation data."""
    dataset, evaluator = build_evaluation(config, model.label_map)
    return 100 * evaluate(model, dataset, evaluator, progress=False)["bbox/AP"]


if __name__ == "__main__":
    main()
