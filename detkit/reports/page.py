"""The report of one checkpoint: a page that opens from disk."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from detkit.checkpoints.files import find_weights, update_header
from detkit.checkpoints.saving import versions
from detkit.config import format_config
from detkit.data.coco_file import read_coco_file, select_categories
from detkit.files import write_text
from detkit.reports import sections
from detkit.reports.evaluated import Evaluated, evaluate_checkpoint
from detkit.reports.findings import Findings, find
from detkit.reports.parts.charts import line_chart
from detkit.reports.parts.facts import describe
from detkit.reports.parts.html import listing, note, numbers, page, percent, table
from detkit.reports.thresholds import by_name
from detkit.structures import LabelMap
from detkit.visualize.curves import figure_curves, loss_curves

MOST_BYTES = 4_800_000  # of a page
PICTURE_BYTES = 3_000_000  # of its pictures


def report(
    source: str | Path,
    out: str | Path | None = None,
    *,
    set: Sequence[str] = (),
    device: str = "auto",
    imports: Sequence[str] = (),
) -> Path:
    """Write the report of a checkpoint, and the thresholds of its classes into its header.

    Args:
        source: a checkpoint, or the folder of a run.
        out: the HTML file; by default report.html in the run, or beside another checkpoint NAME_report.html.
        set: "key=value" for the config of the checkpoint, such as "data.val.annotation_file=val.json".
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
    evaluated = evaluate_checkpoint(source, set=set, device=device, imports=imports)
    first, *others = evaluated.evaluator.iou_types
    found = [find(evaluated, first)]
    found += [find(evaluated, iou_type, found[0].thresholds) for iou_type in others]
    write_text(target, write_page(evaluated, found))
    category_ids = [category["id"] for category in evaluated.truth["categories"]]
    label_map = LabelMap(**evaluated.header["label_map"])
    thresholds = by_name(found[0].thresholds, found[0].curves[-1], category_ids, label_map)
    update_header(weights, {"thresholds": thresholds})
    return target


def write_page(evaluated: Evaluated, found: list[Findings]) -> str:
    """The HTML of a report.

    Args:
        found: by each IoU type of the evaluator.
    """
    parts: tuple[tuple[str, Callable[[Findings], str]], ...] = (
        ("Average precision", sections.precision_table),
        ("Precision and recall", sections.precision_recall),
        ("Thresholds", sections.thresholds),
        ("Confusion", sections.confusion),
        ("Errors by kind", sections.kinds),
        ("Calibration", sections.calibration),
        ("Recall by size", sections.recall_by_size),
    )
    several = len(found) > 1
    done = []
    for title, section in parts:
        bodies = [
            (f"<h3>{sections.TYPES[f.iou_type].capitalize()}</h3>" if several else "") + section(f) for f in found
        ]
        done.append((title, "\n".join(bodies)))
    rest = [("Data", _data(evaluated)), ("Training", _training(evaluated)), ("Config and versions", _config(evaluated))]
    title = f"{(evaluated.folder or evaluated.weights).name}: {evaluated.header['config']['model']['type']}"
    head = _head(evaluated, found)
    used = len(page(title, [*done, *rest], head).encode())
    pictures = sections.worst(found[-1], min(PICTURE_BYTES, MOST_BYTES - used))
    return page(title, [*done, ("Worst images", pictures), *rest], head)


def _head(evaluated: Evaluated, found: list[Findings]) -> str:
    values = [
        (f"{name} of {sections.TYPES[f.iou_type]}, %", percent(evaluated.figures[f"{f.iou_type}/{name}"]))
        for f in found
        for name in ("AP", "AP50", "AP75")
    ]
    of_all = found[0].curves[-1]
    values.append(("best F1 with one threshold", f"{of_all.at(of_all.threshold)[0]:.2f} at {of_all.threshold:.2f}"))
    about = f"{evaluated.weights}, {len(evaluated.truth['images'])} validation images, {of_all.objects} objects"
    return note(about) + numbers(values)


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
    now = versions() | {"hotcoco": version("hotcoco")}
    trained = evaluated.header.get("versions", {})
    rows = [[name, str(trained.get(name, "-")), str(now.get(name, "-"))] for name in {**now, **trained}]
    facts = {"step": evaluated.header.get("step"), "epoch": evaluated.header.get("epoch")}
    about = table(["", "training", "report"], rows) + table(["", "weights"], list(facts.items()))
    return about + listing(format_config(evaluated.config))
