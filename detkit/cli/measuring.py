"""Commands that measure."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.cli.common import (
    add_config,
    add_device,
    add_import,
    add_set,
    add_views,
    evaluated_checkpoint,
    local_path,
)
from detkit.config import apply_overrides, load_config


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit evaluate`."""
    parser.add_argument(
        "checkpoint",
        help="a .safetensors checkpoint, the folder of a run, a config whose run is in --run, or a name of "
        "`detkit list models`",
    )
    add_set(parser)
    add_import(parser)
    parser.add_argument("--run", type=local_path, help="with a config: folder of its run (default: runs/CONFIG_NAME)")
    parser.add_argument("--out", type=local_path, help="write the results here, as json (of detectors: COCO results)")
    add_views(parser)
    add_device(parser)


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint on its validation data, or on the data given with --set data.val.…

    The figures go to metrics.json beside the results: those of --out, or for the best weights of a run its folder.
    """
    names = ("set", "run", "out", "device", "slice", "overlap", "tta")
    evaluate_checkpoint(options.checkpoint, **{name: getattr(options, name) for name in names})


def evaluate_checkpoint(
    checkpoint: str | Path,
    *,
    set: Sequence[str] = (),
    run: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    slice: int | None = None,
    overlap: float = 0.2,
    tta: bool = False,
) -> dict[str, float]:
    """Measure a checkpoint on its validation data and print the table; the command `detkit evaluate`.

    Args:
        checkpoint: a .safetensors file, the folder of a run, the name of a published model, or a config with a run.
        set: settings that change the config of the checkpoint, such as "data.val.annotation_file=val.json".
        run: with a config, the folder of its run; by default runs/CONFIG_NAME.
        out: a json for the results, of detectors in COCO's result format; metrics.json beside it gets the figures. For
            the best weights of a run the default is its folder.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        slice: also look into parts of this side, in pixels.
        overlap: share of a part that neighbours share.
        tta: also look at mirrored and scaled copies.

    Returns:
        The figures by name.

    Raises:
        ValueError: no such checkpoint, or data that do not fit it.
    """
    from detkit.checkpoints.weights import explaining_imports, load_model
    from detkit.modeling.viewed import ViewedModel
    from detkit.modeling.views import check_slices
    from detkit.reports.evaluated import DETECTIONS, run_of
    from detkit.runtime.components import build_evaluation
    from detkit.runtime.evaluate import evaluate as measure
    from detkit.runtime.evaluate import evaluation_options
    from detkit.runtime.processes import distributed, is_main

    path, config = evaluated_checkpoint(checkpoint, set, None if run is None else Path(run))
    is_plain = slice is None and not tta
    folder = run_of(path) if is_plain else None  # the run keeps its plain figures
    check_slices(slice, overlap)
    _check_results(None if out is None else Path(out))
    results = Path(out) if out else folder / DETECTIONS if folder and os.access(folder, os.W_OK) else None
    with distributed(device) as chosen:
        model: Any = load_model(path, chosen)
        with explaining_imports(path, config):
            dataset, evaluator = build_evaluation(config, model.label_map)
        model = model if is_plain else ViewedModel(model, slice=slice, overlap=overlap, tta=tta)
        figures = measure(model, dataset, evaluator, **evaluation_options(config))
        if is_main():
            print(f"{path} on {len(dataset)} images")
            print(evaluator.table(per_class=True))
            if results:
                _write_results(results, evaluator, figures, path, config if is_plain else None)
    return {name: float(value) for name, value in figures.items()}


def _write_results(
    results: Path, evaluator: Any, figures: dict[str, float], path: Path, config: dict[str, Any] | None
) -> None:
    """Write detections and figures; with the config of a plain evaluation, what a report can go on with."""
    from detkit.checkpoints.weights import read_header
    from detkit.reports.evaluated import evaluation_key, write_evaluation

    key = None if config is None else evaluation_key(read_header(path), config, evaluator)
    metrics = write_evaluation(results, evaluator, figures, path, key)
    print(f"results written to {results}, figures to {metrics}")


def _check_results(out: Path | None) -> None:
    from detkit.reports.evaluated import METRICS

    if out and not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: {out.parent} is no folder")
    if out and out.name == METRICS:
        raise ValueError(f"--out {out}: {METRICS} beside it is for the figures, choose another name")


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit report`."""
    parser.add_argument("checkpoint", help="a .safetensors checkpoint of a detector, or the folder of a run")
    add_set(parser)
    add_import(parser)
    parser.add_argument("--out", type=local_path, help="the page (default: report.html in the run)")
    add_device(parser)


def report(options: argparse.Namespace) -> None:
    """Write a page on what a detector finds, what it misses and where to set its thresholds, which it stores."""
    from detkit.checkpoints.files import find_weights, is_run
    from detkit.reports import report as run

    path = run(
        options.checkpoint,
        options.out,
        set=options.set,
        device=options.device,
        imports=options.imports,
    )
    weights = find_weights(options.checkpoint) if is_run(options.checkpoint) else options.checkpoint
    print(f"report written to {path}, thresholds into {weights}")


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit compare`."""
    parser.add_argument("a", help="a .safetensors checkpoint of a detector, or the folder of a run")
    parser.add_argument("b", help="another one, with the same validation data")
    add_set(parser)
    add_import(parser)
    parser.add_argument("--out", type=local_path, help="a page (.html) or a file with all figures (.json)")
    add_device(parser)


def compare(options: argparse.Namespace) -> None:
    """Compare two detectors on one validation set: differences with intervals, and the images that changed most."""
    from detkit.reports import compare as run
    from detkit.reports.comparing import explain, table_rows

    content = run(options.a, options.b, options.out, set=options.set, device=options.device, imports=options.imports)
    rows = [["", "A", "B", "B - A", "interval", ""], *table_rows(content)]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    print(f"A: {content['a']}\nB: {content['b']}\n{content['images']} images")
    for name, *cells in rows:
        values = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        print(f"{name:{widths[0]}}  {values}".rstrip())
    print(explain(content))
    for row in content["changed"]:
        print(f"image {row['image_id']}: F1 {row['a']:.2f} -> {row['b']:.2f}")
    if options.out:
        print(f"comparison written to {options.out}")


def evaluate_corruptions_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit evaluate-corruptions`."""
    parser.add_argument("checkpoint", help="a .safetensors checkpoint of a matcher, or a config whose run is in --run")
    add_set(parser)
    add_import(parser)
    parser.add_argument("--run", type=local_path, help="with a config: folder of its run (default: runs/CONFIG_NAME)")
    parser.add_argument("--corruptions", nargs="+", metavar="NAME", help="which (default: the 15 of ImageNet-C)")
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 2, 3, 4, 5], help="1 to 5 (default: all)")
    parser.add_argument("--out", type=local_path, required=True, help="folder for the tables and the plot")
    add_device(parser)


def evaluate_corruptions(options: argparse.Namespace) -> None:
    """Evaluate a matcher on corrupted validation images; repeat it to resume."""
    from detkit.checkpoints.weights import explaining_imports, load_model
    from detkit.data.corruptions.transform import CORRUPTIONS
    from detkit.runtime.processes import distributed, is_main
    from detkit.studies.corruptions import evaluate_corruptions as run

    checkpoint, config = evaluated_checkpoint(options.checkpoint, options.set, options.run)
    kinds = dict(corruptions=options.corruptions or tuple(CORRUPTIONS), severities=options.severities)
    with distributed(options.device) as device:
        model = load_model(checkpoint, device)
        with explaining_imports(checkpoint, config):
            run(model, config, options.out, weights=checkpoint, **kinds)
        if is_main():
            print((options.out / "table.md").read_text(), end="")


def benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit benchmark`."""
    add_config(parser)
    add_import(parser)
    parser.add_argument("--dry-run", action="store_true", help="build the model and print its parameters only")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        help="image side, or height and width (default: of a checkpoint its input for a 4:3 photo, else 640)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images of a forward pass (default 1)")
    parser.add_argument(
        "--train-batch", type=int, help="images of a training step (default 2; of a checkpoint none is measured)"
    )
    parser.add_argument("--repeats", type=int, default=10, help="timed repetitions; the median is printed")
    add_device(parser)
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--json", type=local_path, help="write the figures here as well")


def benchmark(options: argparse.Namespace) -> None:
    """Measure ms of an image, memory, parameters and FLOPs of a checkpoint or, with random weights, a config."""
    from detkit.checkpoints.files import names_weights
    from detkit.checkpoints.weights import load_model
    from detkit.files import write_text
    from detkit.runtime.processes import choose_device
    from detkit.studies.benchmark import PHOTO, benchmark_model, build_for_benchmark, count_parameters

    is_checkpoint = names_weights(options.config)
    if is_checkpoint:
        if options.set:
            raise ValueError(f"--set is for configs, {options.config} is a checkpoint: its model is as it is")
        model: Any = load_model(options.config)
    else:
        model = build_for_benchmark(apply_overrides(load_config(options.config), options.set))
    model = model.to(choose_device(options.device))
    figures: dict[str, float] = dict(count_parameters(model))
    if not options.dry_run:
        chosen: dict[str, Any] = dict(batch=options.batch, repeats=options.repeats, precision=options.precision)
        size = options.size or [640]
        chosen["size"] = tuple(size * 2 if len(size) == 1 else size)
        if is_checkpoint and not options.size:
            chosen["size"] = model.input_rule.size_of(PHOTO)
        train_batch = options.train_batch or (None if is_checkpoint else 2)
        print("input {} x {} pixels, {}".format(*reversed(chosen["size"]), model.device))
        figures |= benchmark_model(model, train_batch=train_batch, **chosen)
    for name, value in figures.items():
        print(f"{name:32} {value:,.2f}" if isinstance(value, float) else f"{name:32} {value:,}")
    if options.json:
        write_text(options.json, json.dumps(figures, indent=2))
