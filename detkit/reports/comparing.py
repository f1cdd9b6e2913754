"""Two checkpoints compared on one validation set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.files import write_text
from detkit.reports.bootstrap import RESAMPLES, SEED, PrecisionTable, bootstrap
from detkit.reports.evaluated import Evaluated, evaluate_checkpoint, truth_key
from detkit.reports.findings import Findings, find
from detkit.reports.parts.html import Cell, note, page, percent, picture, table
from detkit.reports.parts.pictures import Photo, as_jpeg, draw_found, draw_true, legend
from detkit.visualize import contact_sheet

CHANGED = 12  # images that are listed
DRAWN = 6  # images that are drawn
PICTURE_BYTES = 350_000
FORMATS = (".html", ".json")
Row = dict[str, float | None]


def compare(
    a: str | Path,
    b: str | Path,
    out: str | Path | None = None,
    *,
    set: Sequence[str] = (),
    device: str = "auto",
    imports: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """Compare two checkpoints on the same validation set.

    Args:
        a, b: each a checkpoint, or the folder of a run.
        out: a page (.html) or a file of figures (.json) to write.
        set: "key=value" for the config of both, such as "data.val.annotation_file=val.json".
        device: where the models run, "auto" is the GPU where there is one.
        imports: modules and files with parts of your own, imported first.
        resamples: how often images are drawn for the intervals.
        seed: of that.

    Returns:
        "figures": by name ("bbox/AP") "a", "b", "difference" (b - a) and the ends "low" and "high" of its interval of
        95 %; "classes": the AP of each class likewise; "changed": the images whose F1 changed most; and "a", "b",
        "images", "resamples", "seed". Figures are 0..1, None where there is no such object.

    Raises:
        ValueError: the validation sets or the settings of the evaluators differ, there is none, or a model is no
            detector.
    """
    target = None if out is None else Path(out)
    if target is not None and (target.suffix not in FORMATS or not target.absolute().parent.is_dir()):
        raise ValueError(f"--out {target}: must end in {' or '.join(FORMATS)}, in a folder that exists")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    both = [evaluate_checkpoint(source, set=set, device=device, imports=imports) for source in (a, b)]
    _check_same(*both)
    kinds = [kind for kind in both[0].evaluator.iou_types if kind in both[1].evaluator.iou_types]
    content: dict[str, Any] = {name: str(one.weights) for name, one in zip("ab", both, strict=True)}
    content |= {"images": len(both[0].truth["images"]), "resamples": resamples, "seed": seed}
    content |= {"figures": {}, "classes": {}}
    for kind in kinds:
        compared = [find(one, kind) for one in both]
        figures, content["classes"][kind] = _differences(compared, kind, resamples, seed)
        content["figures"] |= figures
    content["changed"] = _changed(compared)
    if target is not None:
        text = _page(content, compared) if target.suffix == ".html" else json.dumps(content, indent=1)
        write_text(target, text)
    return content


def _check_same(a: Evaluated, b: Evaluated) -> None:
    names = f"{a.weights} and {b.weights}"
    if truth_key(a.truth) != truth_key(b.truth):
        counts = (f"{len(one.truth['images'])} images, {len(one.truth['annotations'])} objects" for one in (a, b))
        hint = "name one for both with --set data.val.annotation_file=FILE data.val.image_folder=FOLDER"
        raise ValueError(f"{names} have different validation sets ({' / '.join(counts)}); {hint}")
    if a.evaluator.max_detections != b.evaluator.max_detections:
        raise ValueError(f"{names}: evaluator.max_detections differ; set one for both with --set")
    if not set(a.evaluator.iou_types) & set(b.evaluator.iou_types):
        raise ValueError(f"{names}: one is measured by boxes, the other by masks; set evaluator.iou_types with --set")


def _differences(
    compared: Sequence[Findings], kind: str, resamples: int, seed: int
) -> tuple[dict[str, Row], dict[str, Row]]:
    """The AP, AP50 and AP75 of all classes, and the AP of each class, of both, with intervals of the difference."""
    names = compared[0].evaluated.names
    tables = [PrecisionTable(one.matching, len(names)) for one in compared]

    def values(of: PrecisionTable, weights: np.ndarray) -> np.ndarray:
        precision = of.average_precision(weights)
        present = precision[~np.isnan(precision[:, 0])]
        means = [present.mean(), present[:, 0].mean(), present[:, 5].mean()] if len(present) else [np.nan] * 3
        return np.concatenate([means, precision.mean(axis=1)])

    images = len(compared[0].evaluated.truth["images"])
    a, b = (values(of, np.ones(images)) for of in tables)
    low, high = bootstrap(
        lambda weights: values(tables[1], weights) - values(tables[0], weights), images, resamples=resamples, seed=seed
    )
    columns = {"a": a, "b": b, "difference": b - a, "low": low, "high": high}
    rows = [{name: _or_none(column[i]) for name, column in columns.items()} for i in range(len(a))]
    figures = {f"{kind}/{name}": row for name, row in zip(("AP", "AP50", "AP75"), rows, strict=False)}
    return figures, dict(zip(names, rows[3:], strict=True))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _changed(compared: Sequence[Findings]) -> list[dict[str, Any]]:
    a, b = (one.image_f1() for one in compared)
    order = [int(i) for i in np.argsort(-np.abs(b - a), kind="stable")[:CHANGED] if a[i] != b[i]]
    ids = compared[0].kept.image_ids
    return [{"image_id": int(ids[i]), "a": float(a[i]), "b": float(b[i])} for i in order]


def table_rows(content: dict[str, Any]) -> list[list[str]]:
    """The figures and classes of `compare` as text in percent, with a "*" where the interval is without 0."""
    rows = [[name, *_cells(row)] for name, row in content["figures"].items()]
    for kind, classes in content["classes"].items():
        rows += [[f"{kind}/AP of {name}", *_cells(row)] for name, row in classes.items()]
    return rows


def _cells(row: Row) -> list[str]:
    low, high, difference = row["low"], row["high"], row["difference"]
    if difference is None or low is None or high is None:
        return [percent(row["a"]), percent(row["b"]), "-", "-", ""]
    sure = "*" if low > 0 or high < 0 else ""
    return [
        percent(row["a"]), percent(row["b"]), f"{100 * difference:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}", sure
    ]  # fmt: skip


def explain(content: dict[str, Any]) -> str:
    """What the intervals are."""
    return (
        f"Differences are B - A, in percent. Intervals of 95 %: {content['resamples']} times {content['images']} "
        f"images drawn anew with replacement, the same for both, seed {content['seed']}. "
        f"A * stands where the interval is without 0."
    )


def _page(content: dict[str, Any], compared: Sequence[Findings]) -> str:
    columns = ["", "A, %", "B, %", "difference", "interval", ""]
    changed: list[list[Cell]] = [
        [row["image_id"], row["a"], row["b"], row["b"] - row["a"]] for row in content["changed"]
    ]
    about = "F1 of an image at the thresholds that are best for each checkpoint."
    pictures = [_drawn(compared, row["image_id"]) for row in content["changed"][:DRAWN]]
    sections = [
        ("Figures", table(columns, table_rows(content)) + note(explain(content))),
        ("Images that changed most", table(["image id", "F1 of A", "F1 of B", "difference"], changed) + note(about)),
        ("Pictures", "\n".join([legend(), *pictures])),
    ]
    return page("Two checkpoints compared", sections, note(f"A: {content['a']}. B: {content['b']}."))


def _drawn(compared: Sequence[Findings], image_id: int) -> str:
    a, b = compared
    image = int(np.searchsorted(a.kept.image_ids, image_id))
    try:
        photo = Photo.read(a.evaluated, image_id)
    except (ValueError, OSError) as error:
        return note(f"It cannot be drawn: {error}")
    panels = [draw_found(photo, one.evaluated, one.kept, one.errors, image) for one in compared]
    panels.append(draw_true(photo, b.evaluated, b.kept, b.errors, image))
    jpeg = as_jpeg(contact_sheet([panels], ("A", "B", "True, and missed by B"), height=None), PICTURE_BYTES)
    return picture(jpeg, f"image {image_id}: {photo.name}") if jpeg else ""
