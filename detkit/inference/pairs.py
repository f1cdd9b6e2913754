"""Matching points of one image file in another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.files import write_json
from detkit.images import load_image
from detkit.inference.files import check_outputs, save_drawing
from detkit.structures import Matches

GRID = 8


def predict_pair(
    model: Any, paths: Sequence[Path], out: Path, *, points: Any = None, grid: int = GRID, min_confidence: float = 0.0
) -> Matches:
    """Find points of the first image in the second.

    Writes `matches.jpg` (both images with lines between matching points), `warped.png` (the first image warped to the
    second) and `matches.json`: the two files and a list of `{"source": [x, y], "target": [x, y], "confidence"}` in
    pixels of each image, after its EXIF rotation.

    Args:
        model: a matcher.
        paths: the source and the target.
        points: [n, 2] x y in pixels of the source; by default the centres of `grid` x `grid` equal parts of it.
        grid: number of default points along each side.
        min_confidence: matches with a lower confidence are left out.

    Returns:
        The matches written.

    Raises:
        ValueError: not two image files, a grid of less than 1, points outside of the source, or the outputs would
            replace an input or an image that is no drawing.
    """
    if len(paths) != 2 or any(os.path.isdir(path) for path in paths):
        raise ValueError(f"a matcher takes two image files, source and target, not {', '.join(map(str, paths))}")
    from detkit.visualize import draw_matches

    check_outputs([out / "matches.jpg"], [out / "warped.png", out / "matches.json"], paths)
    source, target = (load_image(path) for path in paths)
    source_points = grid_points(source, grid) if points is None else torch.tensor(points, dtype=torch.float32)
    matches = model.match(source, target, source_points).cpu()
    kept = matches.confidence >= min_confidence
    source_points, matches = source_points[kept], Matches(matches.points[kept], matches.confidence[kept])
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw_matches(source, target, source_points, matches.points, confidence=matches.confidence)
    save_drawing(drawn, out / "matches.jpg", quality=90)
    _save_image(model.warp(source, target), out / "warped.png")
    write_json(out / "matches.json", _record(paths, source_points, matches))
    return matches


def grid_points(image: Tensor, grid: int) -> Tensor:
    """The centres of `grid` x `grid` equal parts of an image `[3, h, w]`: `[grid^2, 2]` x y, row by row."""
    if grid < 1:
        raise ValueError(f"the grid needs at least 1 point along each side, got {grid}")
    height, width = image.shape[1:]
    steps = (torch.arange(grid) + 0.5) / grid
    return torch.cartesian_prod(steps, steps).flip(1) * torch.tensor([width, height])


def _save_image(image: Tensor, path: Path) -> None:
    from PIL import Image

    Image.fromarray(image.cpu().permute(1, 2, 0).numpy()).save(path)


def _record(paths: Sequence[Path], source_points: Tensor, matches: Matches) -> dict[str, Any]:
    columns = (source_points.tolist(), matches.points.tolist(), matches.confidence.tolist())
    found = [
        {"source": _rounded(a), "target": _rounded(b), "confidence": round(c, 4)}
        for a, b, c in zip(*columns, strict=True)
    ]
    return {"source": str(paths[0]), "target": str(paths[1]), "matches": found}


def _rounded(point: list[float]) -> list[float]:
    return [round(value, 2) for value in point]
