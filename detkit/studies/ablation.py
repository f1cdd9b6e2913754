"""The component ladder of ViDT+ (arXiv 2204.07962, table "complete component analysis"): each row adds one component.

Every row is an ordinary run with the same training budget. An interrupted ladder is resumed by the same command.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoints.weights import load_model
from detkit.engine.runner import train
from detkit.files import write_atomically, write_text
from detkit.registry import ConfigError
from detkit.runtime.components import build_evaluation
from detkit.runtime.evaluate import evaluate
from detkit.runtime.lock import locked
from detkit.studies.benchmark import benchmark_forward

Config = dict[str, Any]


@dataclass(frozen=True)
class LadderStep:
    """A step of the ladder: its name in the table, and a function that changes the config of the step before."""

    name: str
    change: Callable[[Config], None]


def _add(**options: Any) -> Callable[[Config], None]:
    return lambda config: config["model"].update(options)


def _add_masks(config: Config) -> None:
    config["model"]["mask_vectors"] = 256
    config["evaluator"] = {"type": "CocoEvaluator", **config.get("evaluator", {}), "iou_types": ["bbox", "segm"]}


def _triple_tokens(config: Config) -> None:
    config["model"]["backbone"]["num_tokens"] *= 3


LADDER = (
    LadderStep("RAM only", lambda config: None),
    LadderStep("+ neck", lambda config: None),
    LadderStep("+ IoU-aware, token label", _add(iou_aware=True, token_labels=True)),
    LadderStep("+ EPFF", _add(fusion=True)),
    LadderStep("+ UQR", _add_masks),
    LadderStep("+ 3x det tokens", _triple_tokens),
)
LAYER_DROP = "+ decoding layer drop"


def ladder_configs(config: Config) -> list[tuple[str, Config]]:
    """The configs of all rows that are trained; `config` is that of plain ViDT.

    Raises:
        ConfigError: the model is not a ViDT whose backbone says its `num_tokens`, or has one of the parts already.
    """
    model = config["model"]
    if model.get("type") != "ViDT" or "num_tokens" not in model.get("backbone", {}):
        raise ConfigError("model: the ladder starts from a ViDT whose backbone states num_tokens")
    present = [name for name in ("iou_aware", "token_labels", "fusion", "mask_vectors") if model.get(name)]
    if present:
        raise ConfigError(f"model: the ladder adds {', '.join(present)} itself; leave it out")
    rows, current = [], copy.deepcopy(config)
    for row in LADDER:
        row.change(current)
        rows.append((row.name, copy.deepcopy(current)))
    rows[0] = (rows[0][0], _without_neck(config))
    return rows


def _without_neck(config: Config) -> Config:
    config = copy.deepcopy(config)
    kept = ("backbone", "num_classes", "hidden_dim", "input_rule")
    model = {name: value for name, value in config["model"].items() if name in kept}
    config["model"] = {"type": "ViDTWithoutNeck", **model}
    return config


def run_ladder(config: Config, out: Path, *, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Train and measure every row; write table.json, table.md and ladder.png to `out`.

    The last row keeps half of the decoder layers of the one before and is not trained again.

    Returns:
        One dict for each row: `name`, figures of the evaluator, `parameters`, `GFLOPs`, `images_per_second`.

    Raises:
        ConfigError: see `ladder_configs`; or another process works in `out`.
    """
    rows = ladder_configs(config)
    with locked(out):
        return _run_rows(rows, out, say)


def _run_rows(rows: list[tuple[str, Config]], out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    results = []
    for number, (name, row) in enumerate(rows, 1):
        folder = out / f"{number}_{_slug(name)}"
        say(f"== {number}/{len(LADDER) + 1} {name}: {folder}")
        runner = train(row, folder, resume=folder.exists())
        if runner.interrupted:
            raise KeyboardInterrupt
        results.append(_result(name, row, runner.trained_model, runner.metrics))
        write_tables(results, out)
    say(f"== {len(LADDER) + 1}/{len(LADDER) + 1} {LAYER_DROP}")
    results.append(_dropped(row, folder))
    write_tables(results, out)
    return results


def _dropped(config: Config, folder: Path) -> dict[str, Any]:
    model = load_model(folder / "last.safetensors")
    model.keep_layers(len(model.decoder) // 2)
    dataset, evaluator = build_evaluation(config, model.label_map)
    metrics = evaluate(model, dataset, evaluator, batch_size=config["data"].get("eval_batch_size", 1))
    return _result(LAYER_DROP, config, model, metrics)


def _result(name: str, config: Config, model: torch.nn.Module, metrics: dict[str, float]) -> dict[str, Any]:
    side = config["model"].get("input_rule", {}).get("shortest", 800)
    speed = benchmark_forward(model, size=(side, side), batch=1, repeats=10, precision="auto")
    result: dict[str, Any] = {"name": name}
    result |= {key: metrics[key] for key in ("bbox/AP", "bbox/AP50", "segm/AP") if key in metrics}
    return result | {"parameters": sum(p.numel() for p in model.parameters())} | speed


TABLE_COLUMNS = (
    ("bbox/AP", "box AP", lambda v: f"{100 * v:.1f}"),
    ("bbox/AP50", "box AP50", lambda v: f"{100 * v:.1f}"),
    ("segm/AP", "mask AP", lambda v: f"{100 * v:.1f}"),
    ("parameters", "parameters", lambda v: f"{v / 1e6:.2f} M"),
    ("GFLOPs per image", "GFLOPs", lambda v: f"{v:.2f}"),
    ("forward images/s", "images/s", lambda v: f"{v:.1f}"),
)


def write_tables(results: Sequence[dict[str, Any]], out: Path) -> None:
    """Write the rows so far as table.json and table.md, and draw them as ladder.png."""
    lines = [
        "| component | " + " | ".join(title for _, title, _ in TABLE_COLUMNS) + " |",
        "|---" * (len(TABLE_COLUMNS) + 1) + "|",
    ]
    for row in results:
        cells = [show(row[key]) if key in row else "" for key, _, show in TABLE_COLUMNS]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    write_text(out / "table.json", json.dumps(list(results), indent=1))
    from detkit.visualize import plot_ladder

    write_atomically(out / "ladder.png", lambda path: plot_ladder(results, path))


def _slug(name: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "_".join(words)
