"""The report of PointWSSIS: a table, bars, and a page of masks at points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.checkpoints.weights import read_header
from detkit.data.coco_file import load_json, read_coco_file
from detkit.data.points.dataset import PointDataset
from detkit.files import write_atomically, write_json, write_text
from detkit.images import image_size
from detkit.ops.rle import decode_mask
from detkit.pipelines.wssis.data import Sources
from detkit.pipelines.wssis.labels import best_answers

EXAMPLES = 8
TITLES = {
    "teacher": "teacher (masks of the strong images)",
    "student_raw": "student, raw pseudo labels",
    "student_refined": "student, refined pseudo labels",
    "bound": "student, true masks of all images (bound)",
    "raw": "raw masks of the teacher",
    "refined": "refined masks",
}
RUN_COLUMNS = {"segm/AP": "mask AP", "segm/AP50": "AP50", "segm/AP75": "AP75"}
LABEL_COLUMNS = {"AP": "mask AP", "AP50": "AP50", "mean IoU": "mean IoU", "mean IoU of answers": "of answers"}


def write_report(
    out: Path, sources: Sources, labels: Path, predictions: Mapping[str, Path], runs: Mapping[str, Path]
) -> Path:
    """Write report.md, report.json, report.png and, of some weak images, examples.png into `out`.

    Args:
        labels: folder of the label files, with quality.json.
        predictions: the prediction files of the weak images, "raw" and perhaps "refined".
        runs: last weights of the trained detectors by name.

    Returns:
        The path of report.md.
    """
    report = {
        "images": {name: len(load_json(vars(sources)[name])["images"]) for name in ("strong", "weak")},
        "runs": {name: read_header(path)["metrics"] for name, path in runs.items()},
        "labels": load_json(labels / "quality.json"),
    }
    write_json(out / "report.json", report)
    write_atomically(out / "report.png", lambda path: plot_report(report, path))
    sheet = example_sheet(sources, predictions)
    write_atomically(out / "examples.png", lambda path: sheet.save(path, format="png"))
    text = format_report(report)
    write_text(out / "report.md", text)
    return out / "report.md"


def format_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown; figures in percent, those that were not measured left out."""
    images, labels = report["images"], report["labels"]
    lines = [
        "# Instance segmentation from points",
        "",
        f"{images['strong']} images with masks, {images['weak']} images with {labels['points']} points.",
        "",
        "| validation | " + " | ".join(RUN_COLUMNS.values()) + " |",
        "|---" * (len(RUN_COLUMNS) + 1) + "|",
        *(_row(name, [_percent(figures.get(key)) for key in RUN_COLUMNS]) for name, figures in report["runs"].items()),
        "",
        "| pseudo labels | points without answer | " + " | ".join(LABEL_COLUMNS.values()) + " |",
        "|---" * (len(LABEL_COLUMNS) + 2) + "|",
    ]
    for name in TITLES:
        if name in labels:
            figures = labels[name]
            lines.append(_row(name, [str(figures["unanswered"]), *(_percent(figures.get(k)) for k in LABEL_COLUMNS)]))
    lines += ["", "Mean IoU is with the true mask of each point, 0 for a point without answer. Figures in percent."]
    return "\n".join([*lines, "", "![bars](report.png)", "", "![masks at points](examples.png)", ""])


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {TITLES[name]} | " + " | ".join(cells) + " |"


def _percent(value: float | None) -> str:
    return "" if value is None or value < 0 else f"{100 * value:.1f}"


def plot_report(report: Mapping[str, Any], path: str | Path) -> None:
    """Bars of the mask AP of all runs, and of the quality of the pseudo labels where it was measured, as one PNG."""
    from matplotlib.figure import Figure

    runs = {TITLES[name]: [figures.get("segm/AP")] for name, figures in report["runs"].items()}
    measured = {name: report["labels"][name] for name in ("raw", "refined") if "AP" in report["labels"].get(name, {})}
    quality = {TITLES[name]: [figures["AP"], figures["mean IoU"]] for name, figures in measured.items()}
    panels = [("mask AP on the validation images", ["mask AP"], runs)]
    if quality:
        panels.append(("pseudo labels against the truth", ["mask AP", "mean IoU"], quality))
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    for axes, (title, groups, bars) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        width = 0.8 / len(bars)
        for number, (name, values) in enumerate(bars.items()):
            heights = [100 * max(0.0, value or 0.0) for value in values]
            drawn = axes.bar(np.arange(len(groups)) + number * width, heights, 0.9 * width, label=name)
            axes.bar_label(drawn, fmt="%.1f", fontsize="small")
        axes.set_xticks(np.arange(len(groups)) + 0.4 - width / 2, groups)
        axes.set(title=title, ylabel="percent")
        axes.margins(y=0.35)
        axes.legend(fontsize="small", loc="upper left")
    figure.savefig(path, dpi=120, format="png")


def example_sheet(sources: Sources, predictions: Mapping[str, Path]) -> Any:
    """A page of some weak images, one in a row: points, masks of each prediction file, and true masks if known."""
    from detkit.visualize import contact_sheet, draw_points

    dataset = PointDataset(sources.weak, sources.image_folder)
    found = {name: best_answers(load_json(path)) for name, path in predictions.items()}
    if sources.truth is not None:
        truth = read_coco_file(sources.truth, masks=True, quiet=True)["annotations"]
        found["truth"] = {a["id"]: a for a in truth}
    rows, category_ids = [], dataset.label_map.category_ids
    for i in _spread([i for i in range(len(dataset)) if dataset.annotation_ids(i)], EXAMPLES):
        image, known = dataset[i]
        ids, size = dataset.annotation_ids(i), image_size(image)
        options: dict[str, Any] = {"labels": known.labels, "category_ids": category_ids, "side": 256}
        row = [draw_points(image, known.points, **options)]
        for masks in found.values():
            answered = [annotation_id in masks for annotation_id in ids]
            shown = _masks_of(ids, masks, size)
            row.append(draw_points(image, known.points, masks=shown, answered=answered, **options))
        rows.append(row)
    return contact_sheet(rows, ["points", *(TITLES.get(name, name) for name in found)])


def _masks_of(ids: Sequence[int], found: Mapping[int, Any], size: tuple[int, int]) -> Tensor:
    """`[n, h, w]`, empty where there is no answer."""
    nothing = np.zeros(size, dtype=bool)
    masks = [decode_mask(found[i]["segmentation"], *size) if i in found else nothing for i in ids]
    return torch.from_numpy(np.stack(masks))


def _spread(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of the items, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]
