"""Commands that make checkpoints of other checkpoints."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from detkit.cli.common import add_device, add_import, local_path, stored_config
from detkit.config import resolve_config


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit convert`."""
    parser.add_argument("source", metavar="SRC", help="an official checkpoint: file or http(s) URL")
    parser.add_argument("destination", metavar="DST", type=local_path, help="the .safetensors checkpoint to write")
    parser.add_argument(
        "--cross-stages", type=int, nargs="+", help="ViDT: stages with [DET] x [PATCH] attention (default 3)"
    )
    parser.add_argument(
        "--num-grids",
        type=int,
        nargs=5,
        help="SOLOv2: cells of its grids (default 40 36 24 16 12; teachers of PointWSSIS have 80 64 32 24 12)",
    )
    parser.add_argument("--layers", type=int, nargs="+", help="CATs: its layers (default those for SPair-71k)")
    parser.add_argument("--sha256", metavar="HEX", help="checksum that SRC must have")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")


def convert(options: argparse.Namespace) -> None:
    """Convert an official checkpoint of its authors' code."""
    from detkit.checkpoints.convert import convert_checkpoint, describe, layout_of

    names = ("cross_stages", "num_grids", "layers", "sha256", "force")
    arguments = {name: getattr(options, name) for name in names}
    report = convert_checkpoint(options.source, options.destination, **arguments)
    print(describe(report))
    print(f"written to {options.destination}; evaluate it:")
    print(f"  detkit evaluate {options.destination} --set {layout_of(report.config).places}")


def drop_layers_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit drop-layers`."""
    parser.add_argument("source", help="a .safetensors checkpoint of a ViDT")
    parser.add_argument("destination", help="the smaller .safetensors checkpoint to write")
    add_import(parser)
    parser.add_argument("--keep", type=int, required=True, help="decoder layers to keep, from the first")


def drop_layers(options: argparse.Namespace) -> None:
    """Write a checkpoint without its last decoder layers: faster, a little less accurate, not trained again."""
    from detkit.checkpoints.smaller.layer_drop import drop_layers as run

    before, after = run(options.source, options.destination, keep=options.keep)
    print(f"{options.destination}: {after / 1e6:.2f} M of {before / 1e6:.2f} M parameters")


def fit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit fit`."""
    parser.add_argument("checkpoint", help="a .safetensors checkpoint of a ViDT, or the folder of a run")
    parser.add_argument("--latency", type=milliseconds, required=True, help="the most for a photo: 30ms, 0.5s")
    parser.add_argument(
        "--val", type=local_path, help="COCO json to measure AP on (default: the checkpoint's data.val)"
    )
    parser.add_argument("--images", type=local_path, help="its images (default: beside it, in images or in its name)")
    add_import(parser)
    parser.add_argument("--out", type=local_path, help="folder for table, plot and checkpoint (default: fit/)")
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is there")
    add_device(parser)


def milliseconds(text: str) -> float:
    """A time on the command line: 30ms, 0.5s, or a number of milliseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"a time such as 30ms or 0.5s, not {text!r}")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def fit(options: argparse.Namespace) -> None:
    """Write the most accurate smaller version of a ViDT that is fast enough here, with a table and a plot."""
    from detkit.checkpoints.files import find_weights
    from detkit.files import refuse_to_overwrite
    from detkit.runtime.processes import choose_device
    from detkit.studies.fitting import fit as run

    checkpoint = find_weights(options.checkpoint)
    out = options.out or checkpoint.parent / "fit"
    if not options.force:
        refuse_to_overwrite([out / "fitted.safetensors"])
    config = _fit_config(options, checkpoint)
    best = run(checkpoint, config, out, latency_ms=options.latency, device=choose_device(options.device))
    print((out / "table.md").read_text(encoding="utf-8"), end="")
    print(f"{out / 'fitted.safetensors'}: {best.ms:.1f} ms, box AP {100 * (best.ap or 0):.1f}")


def _fit_config(options: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """What `build_evaluation` needs for the data of `--val`, or for the checkpoint's own."""
    from detkit.data.coco_file import find_image_folder

    if options.val is None:
        if options.images is not None:
            raise ValueError("--images is for --val: give it too")
        return {**resolve_config(stored_config(checkpoint)), "evaluator": {"type": "CocoEvaluator"}}
    folder = options.images or find_image_folder(options.val)
    val = {"type": "CocoDataset", "annotation_file": str(options.val), "image_folder": str(folder)}
    return {"data": {"val": val}, "evaluator": {"type": "CocoEvaluator"}}


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit export`."""
    parser.add_argument("checkpoint", help="a .safetensors checkpoint, or the folder of a run")
    parser.add_argument(
        "--format",
        choices=["onnx", "openvino", "torch"],
        default="onnx",
        help="onnx (.onnx, the default), openvino (.xml with .bin) or torch (torch.export, .pt2)",
    )
    parser.add_argument("--out", type=local_path, metavar="FILE", help="the file (default: beside the checkpoint)")
    parser.add_argument(
        "--size",
        nargs="+",
        type=_number_or_dynamic,
        metavar="PIXELS",
        help="side, or height and width, of the images; SOLOv2 also: dynamic (default: what validation images need)",
    )
    parser.add_argument(
        "--batch", type=_number_or_dynamic, default=1, help="images that go through together, or dynamic (default 1)"
    )
    places: dict[str, Any] = dict(choices=["inside", "outside"], default="inside")
    parser.add_argument("--preprocessing", help="where pixels are normalised (default inside the file)", **places)
    parser.add_argument(
        "--postprocessing", help="where raw outputs become detections (default inside the file)", **places
    )
    parser.add_argument("--int8", action="store_true", help="linear layers with 8-bit integers; onnx only")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="compare on these (default: validation images)")
    add_import(parser)


def _number_or_dynamic(text: str) -> int | str:
    if text == "dynamic":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor dynamic") from None


def export(options: argparse.Namespace) -> None:
    """Write a model for onnxruntime, OpenVINO or torch.export; compare its numbers with the original's, time both."""
    from detkit.exporting.program import export as run

    names = ("format", "out", "batch", "preprocessing", "postprocessing", "int8", "images", "imports")
    size = options.size if options.size is None or len(options.size) > 1 else options.size[0]
    made = run(options.checkpoint, size=size, **{name: getattr(options, name) for name in names})
    print("\n".join(made.lines()))
