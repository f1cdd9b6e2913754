"""A matcher on corrupted images: every corruption at every severity, as a table and a plot."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.correspondence.matcher import Matcher
from detkit.data.corruptions.transform import CORRUPTIONS, SEVERITIES, CorruptedPairs, check_corruption
from detkit.data.pairs.dataset import PairDataset
from detkit.files import write_atomically, write_text
from detkit.modeling.base import Model
from detkit.runtime.components import build_evaluation
from detkit.runtime.evaluate import evaluate, evaluation_options
from detkit.runtime.lock import locked
from detkit.runtime.processes import is_main, on_main

CLEAN = "clean"
Cell = tuple[str, int]


def evaluate_corruptions(
    model: Model,
    config: Mapping[str, Any],
    out: Path,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    weights: Path,
    say: Callable[[str], None] = print,
) -> dict[Cell, dict[str, float]]:
    """Evaluate a matcher on the clean and on the corrupted images of a config's validation data.

    Writes to `out`: cells.csv, a row for each corruption and severity, as soon as it is known; table.csv and table.md,
    the mean over severities, its ratio to clean and the mean over all; and plot.png. What is in cells.csv already is
    not evaluated again.

    Args:
        config: a resolved config; the sections `data`, `evaluator` and `train` count.
        weights: the file that the model is from; figures of other weights or data in `out` are refused.

    Raises:
        ValueError: an unknown corruption or severity; data that is not of pairs; or `out` holds other figures, or
            another process works in it.
    """
    for corruption in corruptions:
        for severity in severities:
            check_corruption(corruption, severity)
    dataset, evaluator = build_evaluation(dict(config), model.label_map)
    if not isinstance(dataset, PairDataset) or not isinstance(model, Matcher):
        raise ValueError("data.val: corruptions are for matchers and their datasets of image pairs")
    wanted = [(CLEAN, 0), *((corruption, severity) for corruption in corruptions for severity in severities)]
    with contextlib.ExitStack() as until_the_end:
        on_main(lambda: until_the_end.enter_context(locked(out)))
        done = _open_folder(out, _settings(config, weights))
        options = evaluation_options(config)
        for corruption, severity in wanted:
            if (corruption, severity) in done:
                continue
            data = dataset if corruption == CLEAN else CorruptedPairs(dataset, corruption, severity)
            done[corruption, severity] = evaluate(model, data, evaluator, **options)
            name, value = next(iter(done[corruption, severity].items()))
            if is_main():
                say(f"{corruption} {severity or ''}: {name} {100 * value:.1f}")
                _write_cells(out, done)
        cells = {cell: done[cell] for cell in wanted}
        if is_main():
            write_tables(cells, out)
        return cells


def _settings(config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Everything that the figures depend on, in JSON types."""
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    settings = dict(weights=digest, val=config["data"]["val"], evaluator=config["evaluator"])
    return json.loads(json.dumps(settings, default=str))


def _open_folder(out: Path, settings: dict[str, Any]) -> dict[Cell, dict[str, float]]:
    """The figures that `out` holds already; a new folder gets the settings."""
    path = out / "settings.json"
    if path.is_file():
        stored = json.loads(path.read_text())
        if changed := [name for name in settings if stored.get(name) != settings[name]]:
            raise ValueError(f"{out} holds figures of other {' and '.join(changed)}: choose another folder")
    elif is_main():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(settings, indent=1))
    cells = out / "cells.csv"
    if not cells.is_file():
        return {}
    with open(cells, newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row.pop("corruption"), int(row.pop("severity"))): {k: float(v) for k, v in row.items()} for row in rows}


def _write_cells(out: Path, cells: Mapping[Cell, Mapping[str, float]]) -> None:
    rows = [
        {"corruption": corruption, "severity": severity, **figures} for (corruption, severity), figures in cells.items()
    ]
    _write_csv(out / "cells.csv", rows)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def table_rows(cells: Mapping[Cell, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Rows of the table, of the evaluator's main figure in percent.

    A row for clean images, one for each corruption with its value at each severity, their `mean` and its `ratio` to
    clean, and one for the mean over all corruptions.
    """
    main = next(iter(cells[CLEAN, 0]))
    clean = 100 * cells[CLEAN, 0][main]
    severities = sorted({severity for _, severity in cells if severity})
    rows = {CLEAN: [clean] * len(severities)}
    for name in dict.fromkeys(corruption for corruption, _ in cells if corruption != CLEAN):
        rows[name] = [100 * cells[name, severity][main] for severity in severities]
    if len(rows) > 1:
        rows["mean"] = np.mean([values for name, values in rows.items() if name != CLEAN], axis=0).tolist()
    table: list[dict[str, Any]] = []
    for name, values in rows.items():
        mean = sum(values) / len(values) if values else clean
        at_severity = dict(zip(map(str, severities), values, strict=True))
        ratio = mean / clean if clean > 0 else float("nan")
        table.append({"corruption": name, **at_severity, "mean": mean, "ratio": ratio})
    return table


def write_tables(cells: Mapping[Cell, Mapping[str, float]], out: Path) -> None:
    """Write table.csv, table.md and plot.png."""
    table, main = table_rows(cells), next(iter(cells[CLEAN, 0]))
    _write_csv(out / "table.csv", table)
    titles = list(table[0])
    lines = [f"{main} in percent at each severity, and its ratio to clean images.", ""]
    lines += ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for row in table:
        values = [f"{row[title]:.1f}" for title in titles[1:-1]]
        lines.append(f"| {row['corruption']} | {' | '.join(values)} | {row['ratio']:.3f} |")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    write_atomically(out / "plot.png", lambda path: _plot(table, main, path))


def _plot(table: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Lines over the severities, clean and mean in black."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    severities = [name for name in table[0] if name.isdigit()]
    for number, row in enumerate(table):
        style: dict[str, Any] = dict(linestyle=("-", "--", ":")[number % 3], marker=".")
        if row["corruption"] in (CLEAN, "mean"):
            style = dict(color="black", linewidth=2, linestyle="--" if row["corruption"] == CLEAN else "-")
        axes.plot(severities, [row[severity] for severity in severities], label=row["corruption"], **style)
    axes.set(xlabel="severity", ylabel=f"{title} (%)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=120)
