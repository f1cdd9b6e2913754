"""The command that looks at images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.cli.common import add_device, add_import, add_views, local_path


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit predict`."""
    parser.add_argument(
        "checkpoint", help="a .safetensors file, the folder of a run, or a name of `detkit list models`"
    )
    parser.add_argument(
        "images",
        nargs="+",
        help="image files, folders, globs in quotes, URLs of images, or a video; of a matcher: source and target",
    )
    parser.add_argument(
        "--out",
        type=local_path,
        default="drawn",
        help="folder for the drawn images and the json files, or the drawn video (default: drawn)",
    )
    parser.add_argument(
        "--points",
        nargs="+",
        metavar="POINTS",
        help="objects to find: a COCO json whose annotations have points; of a matcher: x,y x,y ... in the source",
    )
    parser.add_argument(
        "--prompt", choices=["point", "point_with_size", "class"], help="what to use of --points (default point)"
    )
    parser.add_argument("--grid", type=int, help="of a matcher without --points: match GRID x GRID points (default 8)")
    parser.add_argument(
        "--min-score",
        type=float,
        help="leave out what scores lower (default: the checkpoint's thresholds, else 0.3; for points, matchers 0)",
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="find these classes only")
    add_views(parser)
    add_import(parser)
    add_device(parser)


def predict(options: argparse.Namespace) -> None:
    """Find objects in images, or the points of one image in another; write drawn images and a json."""
    from detkit.checkpoints.weights import load_model
    from detkit.correspondence.matcher import Matcher
    from detkit.exporting.exported import is_exported, load_exported
    from detkit.inference.images import Options, predict_files
    from detkit.inference.video import is_video
    from detkit.modeling.image_model import ImageModel
    from detkit.runtime.processes import choose_device

    exported = is_exported(options.checkpoint)
    model: Any = (
        load_exported(options.checkpoint) if exported else load_model(options.checkpoint, choose_device(options.device))
    )
    if isinstance(model, Matcher):
        return _predict_pair(model, options)
    if not isinstance(model, ImageModel):
        raise ValueError(f"{options.checkpoint} is a {type(model).__name__}, which finds nothing in images by itself")
    if options.grid is not None:
        raise ValueError(f"--grid is for matchers, {options.checkpoint} is a {type(model).__name__}")
    if options.points:
        return _predict_points(model, options)
    if options.prompt:
        raise ValueError("--prompt says what to use of --points: give them too")
    chosen = Options(options.min_score, options.classes, options.slice, options.overlap, options.tta)
    if any(map(is_video, options.images)):
        return _predict_video(model, chosen, options)
    summary = predict_files(model, options.images, options.out, chosen)
    print(
        f"{summary.objects} objects in {summary.images} images{summary.hint(chosen.lowest_score(model))}: {options.out}"
    )
    _report_broken(summary.broken, summary.images)


def _predict_video(model: Any, chosen: Any, options: argparse.Namespace) -> None:
    from detkit.inference.video import drawn_video, predict_video

    if len(options.images) > 1:
        raise ValueError(f"one video at a time, alone: got {', '.join(options.images)}")
    out = drawn_video(Path(options.images[0]), options.out)
    summary = predict_video(model, Path(options.images[0]), out, chosen)
    hint = summary.hint(chosen.lowest_score(model))
    print(f"{summary.objects} objects in {summary.images} frames{hint}, {summary.speed()}: {out}")


def _refuse_views(options: argparse.Namespace, what: str) -> None:
    """Refuse options that only a detector without points has."""
    given = dict(classes=options.classes, slice=options.slice, tta=options.tta)
    if names := [f"--{name}" for name, value in given.items() if value]:
        raise ValueError(f"{', '.join(names)}: not {what}")


def _predict_points(model: Any, options: argparse.Namespace) -> None:
    from detkit.inference.points import predict_points

    _refuse_views(options, "with --points")
    if len(options.points) != 1:
        raise ValueError(f"a detector takes one file of points, --points got {' '.join(options.points)}")
    arguments: dict[str, Any] = dict(prompt=options.prompt or "point", min_score=options.min_score or 0.0)
    summary = predict_points(model, options.images, Path(options.points[0]), options.out, **arguments)
    print("\n".join(summary.lines(arguments["min_score"])))
    _report_broken(summary.broken, summary.images)


def _predict_pair(model: Any, options: argparse.Namespace) -> None:
    from detkit.inference.pairs import GRID, predict_pair

    _refuse_views(options, "with a matcher")
    if options.prompt or (options.points and options.grid is not None):
        raise ValueError("a matcher takes either --points x,y x,y ... or --grid N, and no --prompt")
    points = [_point(text) for text in options.points] if options.points else None
    grid = GRID if options.grid is None else options.grid
    arguments: dict[str, Any] = dict(points=points, grid=grid, min_confidence=options.min_score or 0.0)
    matches = predict_pair(model, [*map(Path, options.images)], options.out, **arguments)
    print(f"{len(matches)} matches: {options.out}")


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--points: a matcher takes points as x,y in pixels of the source, got {text!r}") from None
    return x, y


def _report_broken(files: Sequence[str | Path], used: int) -> None:
    """Name the files that could not be used; none that could is an error."""
    if not files:
        return
    names = ", ".join(os.fsencode(file).decode(errors="backslashreplace") for file in files)
    if not used:
        raise ValueError(f"none of the {len(files)} files could be used, the reasons are above: {names}")
    print(f"{len(files)} files could not be used: {names}")
