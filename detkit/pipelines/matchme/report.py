"""The report of the rounds: a table, a curve, and pages of matches and warped images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoints.weights import load_model
from detkit.correspondence.matcher import Matcher
from detkit.data.coco_file import load_json
from detkit.data.pairs.dataset import PairDataset
from detkit.files import write_atomically, write_json, write_text

ReportRow = dict[str, Any]
POINTS_SHOWN = 12  # key-points of a pair that are drawn at most


def collect(out: Path, labelled: int, mixture: str) -> list[ReportRow]:
    """A row for each matcher that was measured in `out`, in the order in which they were made.

    Args:
        labelled: the number of labelled pairs.
        mixture: what students learn from; "{}" stands for the number of annotated pairs.
    """
    rows = [{"name": "nearest neighbours, no training", "folder": "baseline", "learned from": ""}]
    rows.append({"name": "teacher", "folder": "teacher", "learned from": f"{labelled} labelled pairs"})
    rows.append(
        {
            "name": "control, a student without annotations",
            "folder": "control",
            "learned from": f"{labelled} labelled pairs",
        }
    )
    number = 1
    while (out / f"labels_{number}" / "quality.json").is_file():
        quality = load_json(out / f"labels_{number}" / "quality.json")
        learned = mixture.format(quality["pool_kept"]) if quality.get("pool_kept") else "not trained"
        rows.append({"name": f"student {number}", "folder": f"student_{number}", "learned from": learned} | quality)
        number += 1
    for row in rows:
        path = out / row["folder"] / "figures.json"
        row["figures"] = load_json(path) if path.is_file() else {}
    return [row for row in rows if row["figures"] or "precision" in row]


def write_report(
    out: Path,
    *,
    labelled: PairDataset,
    shown: PairDataset,
    settings: Mapping[str, Any],
    ending: str,
    weights: Mapping[str, Path],
) -> Path:
    """Write report.md, report.json, report.png, matches.png and warps.png into `out`.

    Args:
        out: folder of the stages.
        labelled: the labelled pairs.
        shown: the pairs to draw matches of, `settings["pictures"]` of them.
        settings: the section `rounds` of the config.
        ending: why the rounds ended.
        weights: the matchers to draw matches of, by name.

    Returns:
        The path of report.md.
    """
    more = " with added points" if settings["densify"] else ""
    rows = collect(out, len(labelled), f"{len(labelled)} labelled pairs{more} and {{}} annotated ones")
    write_json(out / "report.json", {"ending": ending, "rows": rows})
    write_atomically(out / "report.png", lambda path: plot_report(rows, path))
    pictures = []
    if settings["pictures"]:
        matchers = {name: load_model(path) for name, path in weights.items()}
        sheets = draw_sheets(matchers, shown, min(settings["pictures"], len(shown)))
        for name, sheet in sheets.items():
            pictures += ["", f"![{name}]({name}.png)"]
            write_atomically(out / f"{name}.png", partial(sheet.save, format="png"))
    text = "\n".join([format_report(rows, settings, ending), *pictures, ""])
    write_text(out / "report.md", text)
    return out / "report.md"


def format_report(rows: Sequence[ReportRow], settings: Mapping[str, Any], ending: str) -> str:
    """The report as Markdown; figures in percent, those that were not measured left out."""
    names = _figure_names(rows)
    sets = [name for name in ("val", "test") if any(name in row["figures"] for row in rows)]
    columns = ["matcher", "learned from", "reliable cells a pair", "right on held-out pairs"]
    columns += [f"{name} {figure}" for name in sets for figure in names]
    lines = ["# Matching learned in rounds", "", f"The end: {ending}.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [row["name"], row["learned from"], _cells_of_pool(row), _percent(row.get("precision"))]
        cells += [_percent(row["figures"].get(name, {}).get(figure)) for name in sets for figure in names]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_notes(settings), "", "![curve](report.png)"]
    return "\n".join(lines)


def _notes(settings: Mapping[str, Any]) -> list[str]:
    return [
        "Right on held-out pairs: of the key-points that lie in a reliable cell there, the share that its match takes "
        f"to within {settings['alpha']:g} of the reference length; annotations below {settings['gate']:.0%} are not "
        "learned from. The figures on val choose weights and rounds, those on test choose nothing. In percent."
    ]


def _cells_of_pool(row: ReportRow) -> str:
    return f"{row['pool_cells'] / row['pool_kept']:.1f}" if row.get("pool_kept") else ""


def _percent(value: float | None) -> str:
    return "" if value is None or value < 0 else f"{100 * value:.1f}"


def _figure_names(rows: Sequence[ReportRow]) -> list[str]:
    """The means over pairs that were measured, smallest alpha first."""
    measured = [name for row in rows for name in row["figures"].get("val", {}) if "/" not in name]
    return sorted(set(measured), key=lambda name: float(name.partition("@")[2] or 0))


def plot_report(rows: Sequence[ReportRow], path: str | Path) -> None:
    """The figures of all matchers in their order, and the precision of the annotations, as one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for dataset, style in (("val", "-"), ("test", "--")):
        for name in _figure_names(rows):
            values = [row["figures"].get(dataset, {}).get(name) for row in rows]
            points = [(i, 100 * value) for i, value in enumerate(values) if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), style, marker="o", label=f"{dataset} {name}")
    precise = [(i, 100 * row["precision"]) for i, row in enumerate(rows) if row.get("precision") is not None]
    if precise:
        axes.plot(*zip(*precise, strict=True), ":", marker="s", color="grey", label="annotations right on held-out")
    axes.set_xticks(range(len(rows)), [row["name"].partition(",")[0] for row in rows])
    axes.set(ylabel="percent", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def draw_sheets(matchers: Mapping[str, Matcher], dataset: PairDataset, number: int) -> dict[str, Any]:
    """Two pages of pictures, with a column for each matcher.

    Returns:
        "matches": source beside target with correct and wrong matches; "warps": the source warped to the target.
    """
    from PIL import Image

    from detkit.visualize import contact_sheet, draw_matches

    pages: dict[str, list[list[Any]]] = {"matches": [], "warps": []}
    for index in torch.linspace(0, len(dataset) - 1, number).round().long().tolist():
        images, known = dataset[index]
        start, truth = known.source_points[:POINTS_SHOWN], known.target_points[:POINTS_SHOWN]
        matches, warped = [], [images.source, images.target]
        for matcher in matchers.values():
            found = matcher.match(images.source, images.target, start)
            matches.append(draw_matches(images.source, images.target, start, found.points, truth=truth))
            warped.append(matcher.warp(images.source, images.target))
        pages["matches"].append(matches)
        pages["warps"].append([Image.fromarray(image.permute(1, 2, 0).numpy()) for image in warped])
    titles = {"matches": list(matchers), "warps": ["source", "target", *(f"warped by {name}" for name in matchers)]}
    return {name: contact_sheet(rows, titles[name]) for name, rows in pages.items()}
