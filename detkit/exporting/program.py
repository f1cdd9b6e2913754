"""`detkit export`: writing a model for other runtimes, and proving that it gives the same numbers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detkit.checkpoints.files import find_weights
from detkit.checkpoints.weights import load_model, read_header
from detkit.correspondence.matcher import Matcher
from detkit.exporting.comparing import INT8, Comparison, Tolerance, compare
from detkit.exporting.description import Description
from detkit.exporting.exported import load_exported
from detkit.exporting.formats import onnx, openvino
from detkit.exporting.formats import torch as torch_export
from detkit.exporting.formats.packages import needed
from detkit.exporting.graphs import Graph, graph_of, kind_of
from detkit.exporting.photos import WANTED, photos
from detkit.exporting.tracing import describe, frame_of, trace
from detkit.modeling.base import Model

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}
Place = Literal["inside", "outside"]


@dataclass
class Export:
    """What was written.

    Attributes:
        path: the file; an OpenVINO .xml has a .bin beside it.
        description: what the file says of itself.
        comparison: how far it is from the original, and how fast both are.
        images: what both were compared on.
    """

    path: Path
    description: Description
    comparison: Comparison
    images: str

    def lines(self) -> list[str]:
        """What was written, and how it compares, as text."""
        made, size = self.description, self.description.size
        shape = f"batch {made.batch or 'of any size'}, images of {f'{size[1]} x {size[0]}' if size else 'any'} pixels"
        compared = self.comparison.lines()
        return [f"{self.path}: {made.model}, {shape}", f"on {WANTED} {self.images}: {compared[0]}", *compared[1:]]


def export(
    run: str | Path,
    format: str = "onnx",
    *,
    out: str | Path | None = None,
    size: int | Sequence[int] | str | None = None,
    batch: int | str = 1,
    preprocessing: Place = "inside",
    postprocessing: Place = "inside",
    int8: bool = False,
    images: str | Path | None = None,
    imports: Sequence[str] = (),
) -> Export:
    """Write the model of a checkpoint for another runtime, compare its numbers with the original's, and time both.

    Args:
        run: a checkpoint, or the folder of a run for its best one.
        format: "onnx" (.onnx), "openvino" (.xml and .bin) or "torch" (`torch.export`, .pt2).
        out: the file; by default the checkpoint's name with another suffix, in its folder.
        size: of the images, as a side or (h, w), multiples of 32, or of a SOLOv2 "dynamic" for any. By default the
            smallest that holds the images that are compared on, as the checkpoint's input rule resizes them. A matcher
            has its own.
        batch: images that go through together, or "dynamic" for any number.
        preprocessing: whether pixels are normalised "inside" the graph or "outside". Resizing is always outside.
        postprocessing: whether the graph gives detections ("inside") or raw outputs ("outside").
        int8: compute the products of linear layers with 8-bit integers; ONNX only, and only if the numbers stay near.
        images: folder with at least eight images to compare on; by default the validation images.
        imports: as of `detkit.load`.

    Raises:
        ValueError: something cannot be exported so, a package is missing, or the exported model gives other numbers; no
            file is left then, and one that was there before stays.
    """
    if format not in SUFFIXES:
        raise ValueError(f"--format {format!r} is none of {', '.join(SUFFIXES)}")
    if int8 and format != "onnx":
        raise ValueError(f"--int8 is done by onnxruntime: it needs --format onnx, not {format}")
    for package in PACKAGES[format]:
        needed(package)
    checkpoint = find_weights(run)
    path = checkpoint.with_suffix(SUFFIXES[format]) if out is None else Path(out)
    if path.suffix != SUFFIXES[format] or not path.absolute().parent.is_dir():
        raise ValueError(f"--out {path}: must end in {SUFFIXES[format]} and be in a folder that exists")
    if path.is_dir():
        raise ValueError(f"--out {path}: is a folder")
    model = load_model(checkpoint, imports=imports)
    kind_of(model)
    is_matcher = isinstance(model, Matcher)
    examples, source = photos(read_header(checkpoint)["config"], images, pairs=is_matcher)
    size = frame_of(model, examples) if size is None and not is_matcher else size
    places: dict[str, Any] = dict(preprocessing=preprocessing, postprocessing=postprocessing)
    description = describe(model, size=size, batch=batch, int8=int8, **places)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".export-") as folder:
        files = write(model, description, format, Path(folder) / path.name)
        comparison = compare(model, load_exported(files[0]), examples, INT8 if int8 else Tolerance())
        if comparison.problems:
            shown = "; ".join(comparison.problems[:3])
            raise ValueError(f"{path} is not written: it gives other numbers than the original: {shown}")
        for file in reversed(files):
            shutil.move(file, path.with_name(file.name))
    return Export(path, description, comparison, source)


def write(model: Model, description: Description, format: str, path: Path) -> list[Path]:
    """Write a model as it is described, compared with nothing: the files written, first the one to load."""
    graph = graph_of(model, description)
    program = trace(graph, description)
    try:
        return _write(graph, program, description, format, path)
    except (ValueError, OSError):
        raise
    except Exception as error:  # exporters have errors of all kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"a {description.model} cannot be written as {format} with these options: {reason}") from error


def _write(graph: Graph, program: Any, description: Description, format: str, path: Path) -> list[Path]:
    if format == "torch":
        return torch_export.write(program, path, description)
    proto = onnx.to_proto(program, graph.inputs, graph.outputs)
    if description.int8:
        proto = onnx.quantized(proto, path)
    return (openvino if format == "openvino" else onnx).write(proto, path, description)
