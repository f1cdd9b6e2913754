"""Pictures of a training run and of a ladder of components."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.files import write_atomically

# Of the figures of an evaluation, those that are drawn.
FIGURES = re.compile(r"(^|/)(AP(50|75)?|PCK@[0-9.]+|IoU(/rough)?)$")


def plot_curves(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Plot the losses and the main validation figures of a training run over its steps as one PNG.

    Args:
        rows: log rows with a "step"; every other key is optional. Keys with "loss" in them go to the left, the
            terms of auxiliary stages (`loss_bbox_0`, ...) added to those of the last (`loss_bbox`); keys such as
            "bbox/AP", "PCK@0.1" and "IoU" go to the right (negative ones, which mean "undefined", are left out).
        path: the file to write.

    Raises:
        ValueError: no row has a loss or such a figure.
    """
    from matplotlib.figure import Figure

    losses, figures = loss_curves(rows), figure_curves(rows)
    right = "AP" if all("AP" in name for name in figures) else "validation"
    panels = [panel for panel in ((losses, "loss"), (figures, right)) if panel[0]]
    if not panels:
        raise ValueError("nothing to plot: no row has a loss or a validation figure")
    figure = Figure(figsize=(7 * len(panels), 4.5), layout="constrained")
    for axes, (curves, label) in zip(
        figure.subplots(1, len(panels), sharex=True, squeeze=False)[0], panels, strict=True
    ):
        for name, points in sorted(curves.items()):
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        if label != "loss":
            axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=120, format="png")


def plot_ladder(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Plot what each step of a component ladder gains, as one PNG.

    Args:
        rows: in order, each with a "name" and any of "bbox/AP", "segm/AP" (0..1) and "forward images/s".
        path: the file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = ((("bbox/AP", "segm/AP"), "AP"), (("forward images/s",), "images/s"))
    for axes, (keys, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for key in keys:
            points = [(i, row[key]) for i, row in enumerate(rows) if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=key)
        axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=30, ha="right")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def plot_latency(rows: Sequence[dict[str, Any]], limit_ms: float, path: str | Path) -> None:
    """Plot AP against latency as one PNG, atomically; a line joins those that no faster one equals.

    Args:
        rows: each with "ms", "ap" (0..1, or None where it was not measured), "shortest" (pixels) and "chosen".
        limit_ms: drawn as a vertical line, where it is not far from all of them.
        path: the file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    measured = sorted((row for row in rows if row["ap"] is not None), key=lambda row: row["ms"])
    for side in sorted({row["shortest"] for row in measured}, reverse=True):
        points = [(row["ms"], 100 * row["ap"]) for row in measured if row["shortest"] == side]
        axes.scatter(*zip(*points, strict=True), label=f"{side} pixels")
    best = [row for i, row in enumerate(measured) if all(row["ap"] > other["ap"] for other in measured[:i])]
    axes.plot([row["ms"] for row in best], [100 * row["ap"] for row in best], color="grey", linewidth=1, zorder=0)
    for row in measured:
        if row["chosen"]:
            axes.scatter([row["ms"]], [100 * row["ap"]], s=160, facecolors="none", edgecolors="black", label="chosen")
    if limit_ms <= 1.5 * measured[-1]["ms"]:
        axes.axvline(limit_ms, color="black", linestyle="--", linewidth=1, label=f"{limit_ms:g} ms")
    axes.set(xlabel="ms of a photo", ylabel="box AP")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


def loss_curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        totals: dict[str, float] = {}
        for key, value in row.items():
            if "loss" in key and value is not None:
                name = re.sub(r"_\d+$", "", key)
                totals[name] = totals.get(name, 0.0) + float(value)
        for name, total in totals.items():
            curves.setdefault(name, []).append((row["step"], total))
    return curves


def figure_curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if FIGURES.search(key) and value is not None and value >= 0:
                curves.setdefault(key, []).append((row["step"], float(value)))
    return curves
