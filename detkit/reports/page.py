"""The report of one checkpoint: a page that opens from disk."""

from __future__ import annotations

import csv
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.checkpoints.files import find_weights, update_header
from detkit.config import format_config
from detkit.data.coco_file import read_coco_file, select_categories
from detkit.files import write_text
from detkit.reports.charts import bar_chart, calibration_chart, line_chart, shade
from detkit.reports.errors import KINDS, Errors, confusion_matrix, count_kinds, find_errors, worst_images
from detkit.reports.evaluated import Evaluated, evaluate_checkpoint
from detkit.reports.facts import describe, size_names, size_ranges
from detkit.reports.html import Cell, listing, note, numbers, page, percent, picture, table
from detkit.reports.matching import IOU, Matching
from detkit.reports.pictures import Photo, as_jpeg, draw_found, draw_true, legend
from detkit.reports.thresholds import GRID, ScoreCurve, accepted, choose_thresholds, score_curves
from detkit.visualize import contact_sheet
from detkit.visualize.curves import figure_curves, loss_curves

MOST_BYTES = 4_800_000  # of a page
PICTURE_BYTES = 3_000_000  # of its pictures
SHOWN_CLASSES = 20  # in charts and in the confusion matrix
TYPES = {"bbox": "boxes", "segm": "masks"}
TIDE = {
    "Cls": "wrong class",
    "Loc": "wrong place",
    "Both": "wrong class and place",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "missed",
}


@dataclass
class Findings:
    """What the sections of one IoU type are made of."""

    evaluated: Evaluated
    iou_type: str
    matching: Matching
    curves: list[ScoreCurve]
    kept: Matching
    errors: Errors

    @property
    def largest(self) -> list[int]:
        """The classes with most objects, which charts show."""
        order = sorted(range(len(self.evaluated.names)), key=lambda k: -self.curves[k].objects)
        return [k for k in order[:SHOWN_CLASSES] if self.curves[k].objects]


def report(
    source: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    device: str = "auto",
    imports: Sequence[str] = (),
) -> Path:
    """Write the report of a checkpoint, and the thresholds of its classes into its header.

    Args:
        source: a checkpoint, or the folder of a run.
        out: the HTML file; by default report.html in the run, or beside another checkpoint NAME_report.html.
        overrides: "key=value" for the config of the checkpoint, such as "data.val.annotation_file=val.json".
        device: where the model runs, "auto" is the GPU where there is one.
        imports: modules and files with parts of your own, imported first.

    Returns:
        The path of the page.

    Raises:
        ValueError: there is no checkpoint or no validation data, or it is no detector.
    """
    weights = find_weights(source)
    default = weights.with_name("report.html" if Path(source).is_dir() else f"{weights.stem}_report.html")
    target = Path(out) if out else default
    if not target.absolute().parent.is_dir():
        raise ValueError(f"--out {target}: {target.parent} is no folder")
    evaluated = evaluate_checkpoint(source, overrides=overrides, device=device, imports=imports)
    found, thresholds = _findings(evaluated)
    write_text(target, _page(evaluated, found, thresholds))
    update_header(weights, {"thresholds": thresholds})
    return target


def _findings(evaluated: Evaluated) -> tuple[list[Findings], dict[str, float]]:
    found: list[Findings] = []
    thresholds: dict[str, float] = {}
    for iou_type in evaluated.evaluator.iou_types:
        matching = Matching(evaluated, iou_type)
        curves = score_curves(matching, len(evaluated.names), IOU)
        thresholds = thresholds or choose_thresholds(curves, evaluated.names, evaluated.header["label_map"]["names"])
        kept = Matching(evaluated, iou_type, accepted(matching, thresholds, evaluated.names))
        found.append(Findings(evaluated, iou_type, matching, curves, kept, find_errors(kept, evaluated.truth)))
    return found, thresholds


def _page(evaluated: Evaluated, found: list[Findings], thresholds: dict[str, float]) -> str:
    parts: tuple[tuple[str, Callable[[Findings], str]], ...] = (
        ("Average precision", _precision_table),
        ("Precision and recall", _precision_recall),
        ("Thresholds", _thresholds),
        ("Confusion", _confusion),
        ("Errors by kind", _kinds),
        ("Calibration", _calibration),
        ("Recall by size", _recall_by_size),
    )
    several = len(found) > 1
    sections = []
    for title, section in parts:
        bodies = [(f"<h3>{TYPES[f.iou_type].capitalize()}</h3>" if several else "") + section(f) for f in found]
        sections.append((title, "\n".join(bodies)))
    rest = [("Data", _data(evaluated)), ("Training", _training(evaluated)), ("Config and versions", _config(evaluated))]
    title = f"{(evaluated.folder or evaluated.weights).name}: {evaluated.header['config']['model']['type']}"
    head = _head(evaluated, found)
    used = len(page(title, [*sections, *rest], head).encode())
    pictures = _worst(found[-1], min(PICTURE_BYTES, MOST_BYTES - used))
    return page(title, [*sections, ("Worst images", pictures), *rest], head)


def _head(evaluated: Evaluated, found: list[Findings]) -> str:
    values = [
        (f"{name} of {TYPES[f.iou_type]}, %", percent(evaluated.figures[f"{f.iou_type}/{name}"]))
        for f in found
        for name in ("AP", "AP50", "AP75")
    ]
    of_all = found[0].curves[-1]
    values.append(("best F1 with one threshold", f"{of_all.f1:.2f} at {of_all.threshold:.2f}"))
    about = f"{evaluated.weights}, {len(evaluated.truth['images'])} validation images, {of_all.objects} objects"
    return note(about) + numbers(values)


def _precision_table(f: Findings) -> str:
    columns = [key.partition("/")[2] for key in f.evaluated.figures if key.startswith(f.iou_type)]
    classes = f.evaluated.classes[f.iou_type]
    rows: list[list[Cell]] = [
        ["all", f.curves[-1].objects, *(percent(f.evaluated.figures[f"{f.iou_type}/{name}"]) for name in columns)]
    ]
    for name, curve in zip(f.evaluated.names, f.curves, strict=False):
        rows.append([name, curve.objects, *(percent(classes[name][column]) for column in columns)])
    about = "COCO's figures in percent: AP over IoU 0.5 to 0.95, at 0.5 and at 0.75; s, m, l: objects below 32 x 32 "
    about += "pixels, below 96 x 96, and larger; AR: recall with at most so many detections of an image and class."
    return table(["class", "objects", *columns], rows) + note(about)


def _precision_recall(f: Findings) -> str:
    defined = [curve for curve in f.curves[:-1] if curve.objects]
    if not defined:
        return note("The validation data has no objects.")
    lines = {"mean of all classes": (GRID, np.mean([curve.precision_on_grid() for curve in defined], axis=0))}
    if len(defined) > 1:
        lines |= {f.evaluated.names[k]: (GRID, f.curves[k].precision_on_grid()) for k in f.largest}
    chart = line_chart(lines, "recall", f"precision at IoU {IOU}", main="mean of all classes")
    return chart + _restricted(f)


def _restricted(f: Findings) -> str:
    hidden = sum(curve.objects > 0 for curve in f.curves[:-1]) - len(f.largest)
    return note(f"Shown: the {len(f.largest)} classes with most objects; {hidden} more have objects.") if hidden else ""


def _thresholds(f: Findings) -> str:
    lines = {"all classes": (GRID, f.curves[-1].f1_on_grid())}
    if len(f.largest) > 1:
        lines |= {f.evaluated.names[k]: (GRID, f.curves[k].f1_on_grid()) for k in f.largest}
    rows: list[list[Cell]] = []
    for name, c in zip([*f.evaluated.names, "all, one threshold"], f.curves, strict=True):
        values = [c.f1, c.precision, c.recall] if c.objects else [None] * 3
        rows.append([name, c.threshold if c.objects else None, *values])
    about = f"The threshold of a class is where its F1 at IoU {IOU} is best. "
    about += "Those of " + TYPES[f.evaluated.evaluator.iou_types[0]] + " are stored in the checkpoint, and `predict` "
    about += "leaves out what scores lower, unless it is given another score. A class without objects here takes that "
    about += "of all classes."
    chart = line_chart(lines, "threshold", f"F1 at IoU {IOU}", main="all classes")
    return chart + _restricted(f) + table(["class", "threshold", "F1", "precision", "recall"], rows) + note(about)


def _confusion(f: Findings) -> str:
    names, matrix = f.evaluated.names, confusion_matrix(f.errors, f.kept, len(f.evaluated.names))
    shown = [*sorted(f.largest), len(names)]
    rows: list[list[Cell]] = []
    colors = []
    for i in shown:
        row = matrix[i][shown]
        rows.append([names[i] if i < len(names) else "nothing", *map(int, row)])
        total = matrix[i].sum() if i < len(names) else 0
        colors.append(["none", *(shade(value / total if total else 0) for value in row)])
    columns = ["true class, found as", *(names[k] for k in shown[:-1]), "nothing (missed)"]
    off = [(int(matrix[i, j]), i, j) for i, j in np.argwhere(matrix[:-1, :-1]) if i != j]
    pairs = [[names[i], names[j], count] for count, i, j in sorted(off, reverse=True)[:10]]
    most = "<h3>Confused most often</h3>" + table(["true", "found as", "times"], pairs) if pairs else ""
    about = "At the thresholds above. A row has all true objects of a class; the last row has detections of nothing, "
    about += "doubled ones and misplaced ones."
    return table(columns, rows, colors) + _restricted(f) + most + note(about)


def _kinds(f: Findings) -> str:
    tide = f.matching.evaluation.tide_errors()
    lost = {name: 100 * tide["delta_ap"][key] for key, name in TIDE.items()}
    chart = bar_chart(lost, "points of AP50 lost", notes=[f"{value:.1f}" for value in lost.values()])
    about = "TIDE: by how much AP50 would rise if errors of one kind did not happen, over detections of all scores."
    counts = count_kinds(f.errors, f.kept, len(f.evaluated.names))
    rows: list[list[Cell]] = [[name, *map(int, row)] for name, row in zip(f.evaluated.names, counts, strict=True)]
    rows.append(["all", *map(int, counts.sum(0))])
    kinds = table(["detected class", *KINDS, "missed objects"], rows)
    meaning = "At the thresholds above. " + "; ".join(f"{name}: {text}" for name, text in KINDS.items()) + "."
    return chart + note(about) + kinds + note(meaning)


def _calibration(f: Findings) -> str:
    if not len(f.matching.rows):
        return note("Nothing was detected.")
    result = f.matching.evaluation.calibration()
    rows = [[name, result["per_category"].get(str(k))] for k, name in enumerate(f.evaluated.names)]
    about = f"How often detections of a score are right at IoU {IOU}; the numbers are "
    about += "detections. Below the dashed line scores promise too much. Expected calibration error (the mean "
    about += f"distance): {result['ece']:.3f}, the largest {result['mce']:.3f}."
    return calibration_chart(result["bins"]) + note(about) + table(["class", "calibration error"], rows)


def _recall_by_size(f: Findings) -> str:
    ranges, names = size_ranges(f.kept.objects.area), size_names()
    total = np.bincount(ranges, minlength=len(names))
    found = np.bincount(ranges[f.errors.found], minlength=len(names))
    present = np.flatnonzero(total)
    shares = {names[i]: found[i] / total[i] for i in present}
    chart = bar_chart(shares, "recall", notes=[f"{found[i]}/{total[i]}" for i in present], limit=1.1)
    return chart + note("At the thresholds above, by the square root of the object's area in pixels of the image.")


def _worst(f: Findings, most: int) -> str:
    chosen = worst_images(f.errors, f.kept)
    number = sum(map(len, chosen.values()))
    parts = [legend()]
    for trouble, images in chosen.items():
        parts += [f"<h3>{trouble.capitalize()}</h3>"] if images else []
        parts += [_drawn(f, image, max(most, 0) * 3 // (4 * number) - 1000) for image in images]
    return "\n".join(parts) if number else note("Nothing is wrong in any image.")


def _drawn(f: Findings, image: int, most: int) -> str:
    """An image with detections and true objects, in at most so many bytes (base64 takes four thirds)."""
    try:
        photo = Photo.read(f.evaluated, int(f.kept.image_ids[image]))
    except (ValueError, OSError) as error:
        return note(f"It cannot be drawn: {error}")
    panels = [draw(photo, f.evaluated, f.kept, f.errors, image) for draw in (draw_found, draw_true)]
    found, objects = (int((images == image).sum()) for images in (f.kept.image, f.kept.objects.image))
    missed = int((~f.errors.found[f.kept.objects.image == image]).sum())
    sheet = contact_sheet([panels], (f"Found ({found})", f"True ({objects}, {missed} missed)"), height=None)
    jpeg = as_jpeg(sheet, most)
    return picture(jpeg, photo.name) if jpeg else note(f"{photo.name}: no room for the picture.")


def _data(evaluated: Evaluated) -> str:
    parts = ["<h3>Validation</h3>", describe(evaluated.truth), "<h3>Training</h3>"]
    train = evaluated.config["data"]["train"] or {}
    if "annotation_file" not in train:
        return "\n".join([*parts, note("The training data has no annotation file.")])
    try:
        content = read_coco_file(Path(train["annotation_file"]), quiet=True)
        content["categories"] = select_categories(content["categories"], train.get("classes"))
    except (ValueError, OSError) as error:
        return "\n".join([*parts, note(f"The training data is not at hand: {error}")])
    kept = {category["id"] for category in content["categories"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
    return "\n".join([*parts, describe(content)])


def _training(evaluated: Evaluated) -> str:
    path = evaluated.weights.with_name("metrics.csv")
    if not path.is_file():
        return note(f"There is no {path.name} beside the checkpoint.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [_logged(row) for row in csv.DictReader(file)]
    charts = []
    for curves, title in ((loss_curves(rows), "loss"), (figure_curves(rows), "validation")):
        if curves:
            lines: dict[str, Any] = {n: tuple(zip(*points, strict=True)) for n, points in sorted(curves.items())}
            charts.append(line_chart(lines, "step", title, main="loss", unit=False))
    return "\n".join(charts) or note("Nothing was logged.")


def _logged(row: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in row.items():
        try:
            values[key] = int(value) if key == "step" else float(value)
        except (TypeError, ValueError):
            values[key] = None
    return values


def _config(evaluated: Evaluated) -> str:
    now = {"detkit": _version("detkit"), "torch": torch.__version__, "python": platform.python_version()}
    now |= {"hotcoco": _version("hotcoco")}
    trained = evaluated.header.get("versions", {})
    rows = [[name, str(trained.get(name, "-")), str(now.get(name, "-"))] for name in {**now, **trained}]
    facts = {"step": evaluated.header.get("step"), "epoch": evaluated.header.get("epoch")}
    about = table(["", "training", "report"], rows) + table(["", "weights"], list(facts.items()))
    return about + listing(format_config(evaluated.config))


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:  # detkit itself, run from a source tree
        return "unknown"
