"""The sections of a report that come from detections and true objects, each as HTML."""

from __future__ import annotations

import numpy as np

from detkit.reports.errors import KINDS, confusion_matrix, count_kinds, worst_images
from detkit.reports.findings import Findings
from detkit.reports.matching import IOU
from detkit.reports.parts.charts import bar_chart, calibration_chart, line_chart, shade
from detkit.reports.parts.facts import size_names, size_ranges
from detkit.reports.parts.html import Cell, note, percent, picture, table
from detkit.reports.parts.pictures import Photo, as_jpeg, draw_found, draw_true, legend
from detkit.reports.thresholds import GRID
from detkit.visualize import contact_sheet

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


def largest(f: Findings) -> list[int]:
    """The classes with most objects, which charts show."""
    order = sorted(range(len(f.names)), key=lambda k: -f.curves[k].objects)
    return [k for k in order[:SHOWN_CLASSES] if f.curves[k].objects]


def precision_table(f: Findings) -> str:
    """COCO's figures, of all classes and of each."""
    columns = [key.partition("/")[2] for key in f.evaluated.figures if key.startswith(f.iou_type)]
    classes = f.evaluated.classes[f.iou_type]
    rows: list[list[Cell]] = [
        ["all", f.curves[-1].objects, *(percent(f.evaluated.figures[f"{f.iou_type}/{name}"]) for name in columns)]
    ]
    for name, curve in zip(f.names, f.curves, strict=False):
        rows.append([name, curve.objects, *(percent(classes[name][column]) for column in columns)])
    about = "COCO's figures in percent: AP over IoU 0.5 to 0.95, at 0.5 and at 0.75; s, m, l: objects below 32 x 32 "
    about += "pixels, below 96 x 96, and larger; AR: recall with at most so many detections of an image and class."
    return table(["class", "objects", *columns], rows) + note(about)


def precision_recall(f: Findings) -> str:
    """Precision against recall."""
    defined = [curve for curve in f.curves[:-1] if curve.objects]
    if not defined:
        return note("The validation data has no objects.")
    lines = {"mean of all classes": (GRID, np.mean([curve.precision_on_grid() for curve in defined], axis=0))}
    if len(defined) > 1:
        lines |= {f.names[k]: (GRID, f.curves[k].precision_on_grid()) for k in largest(f)}
    chart = line_chart(lines, "recall", f"precision at IoU {IOU}", main="mean of all classes")
    return chart + _restricted(f)


def _restricted(f: Findings) -> str:
    hidden = sum(curve.objects > 0 for curve in f.curves[:-1]) - len(largest(f))
    return (
        note(f"Shown: the {len(largest(f))} classes with most objects; {hidden} more have objects.") if hidden else ""
    )


def thresholds(f: Findings) -> str:
    """F1 against the score, and the threshold of each class."""
    lines = {"all classes": (GRID, f.curves[-1].f1_on_grid())}
    if len(largest(f)) > 1:
        lines |= {f.names[k]: (GRID, f.curves[k].f1_on_grid()) for k in largest(f)}
    rows: list[list[Cell]] = []
    for name, curve, least in zip(f.names, f.curves, f.thresholds.tolist(), strict=False):
        rows.append([name, least, *(curve.at(least) if curve.objects else [None] * 3)])
    of_all = f.curves[-1]
    rows.append(["all, one threshold", of_all.threshold, *of_all.at(of_all.threshold)])
    about = f"The threshold of a class is where its F1 at IoU {IOU} is best. "
    about += "Those of " + TYPES[f.evaluated.evaluator.iou_types[0]] + " are stored in the checkpoint, and `predict` "
    about += "leaves out what scores lower, unless it is given another score. A class without objects here takes that "
    about += "of all classes."
    chart = line_chart(lines, "threshold", f"F1 at IoU {IOU}", main="all classes")
    return chart + _restricted(f) + table(["class", "threshold", "F1", "precision", "recall"], rows) + note(about)


def confusion(f: Findings) -> str:
    """Which class is taken for which."""
    names, matrix = f.names, confusion_matrix(f.errors, f.kept, len(f.names))
    shown = [*sorted(largest(f)), len(names)]
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


def kinds(f: Findings) -> str:
    """What is wrong with detections, by TIDE and counted."""
    tide = f.matching.evaluation.tide_errors()
    lost = {name: 100 * tide["delta_ap"][key] for key, name in TIDE.items()}
    chart = bar_chart(lost, "points of AP50 lost", notes=[f"{value:.1f}" for value in lost.values()])
    about = "TIDE: by how much AP50 would rise if errors of one kind did not happen, over detections of all scores."
    counts = count_kinds(f.errors, f.kept, len(f.names))
    rows: list[list[Cell]] = [[name, *map(int, row)] for name, row in zip(f.names, counts, strict=True)]
    rows.append(["all", *map(int, counts.sum(0))])
    kinds = table(["detected class", *KINDS, "missed objects"], rows)
    meaning = "At the thresholds above. " + "; ".join(f"{name}: {text}" for name, text in KINDS.items()) + "."
    return chart + note(about) + kinds + note(meaning)


def calibration(f: Findings) -> str:
    """Whether scores are the share that is right."""
    if not len(f.matching.rows):
        return note("Nothing was detected.")
    result = f.matching.evaluation.calibration()
    rows = [[name, result["per_category"].get(str(k))] for k, name in enumerate(f.names)]
    about = f"How often detections of a score are right at IoU {IOU}; the numbers are "
    about += "detections. Below the dashed line scores promise too much. Expected calibration error (the mean "
    about += f"distance): {result['ece']:.3f}, the largest {result['mce']:.3f}."
    return calibration_chart(result["bins"]) + note(about) + table(["class", "calibration error"], rows)


def recall_by_size(f: Findings) -> str:
    """How many objects of each size are found."""
    ranges, names = size_ranges(f.kept.objects.area), size_names()
    total = np.bincount(ranges, minlength=len(names))
    found = np.bincount(ranges[f.errors.found], minlength=len(names))
    present = np.flatnonzero(total)
    shares = {names[i]: found[i] / total[i] for i in present}
    chart = bar_chart(shares, "recall", notes=[f"{found[i]}/{total[i]}" for i in present], limit=1.1)
    return chart + note("At the thresholds above, by the square root of the object's area in pixels of the image.")


def worst(f: Findings, most: int) -> str:
    """The images where most is wrong, in at most so many bytes."""
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
