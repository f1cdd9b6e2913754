"""Official checkpoints as detkit checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.config import resolve_config
from detkit.engine.checkpoint import UNREADABLE
from detkit.engine.components import build_model
from detkit.engine.download import local_file
from detkit.engine.folding import fold
from detkit.engine.weights import load_strictly, make_header, save_weights
from detkit.vidt.convert import ConversionReport, from_official

# Besides tensors and plain values, the official files hold the command line of their training.
ALLOWED = (argparse.Namespace,)


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    cross_stages: Sequence[int] = (3,),
    sha256: str | None = None,
    force: bool = False,
) -> ConversionReport:
    """Write an official checkpoint as one that `detkit.load` and every command understand.

    Args:
        source: a file or URL (see `detkit.engine.download.fetch`).
        destination: the .safetensors file to write.
        cross_stages: the stages with [DET] x [PATCH] attention, the one thing that no key tells.
        sha256: the checksum that `source` must have.
        force: replace `destination` if it exists.

    Raises:
        ValueError: `destination` exists or is no .safetensors file, or `source` cannot be had, is no checkpoint or
            not that of a known model. Nothing is written then.
    """
    path = Path(destination)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the name of a detkit checkpoint must end in .safetensors")
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; replace it with --force, or choose another name")
    model, report = from_official(read_official(local_file(source, sha256=sha256)), cross_stages=cross_stages)
    config = official_config(report.config)
    rebuilt = build_model(config["model"], model.label_map, model.input_rule.to_dict(), pretrained=False)
    load_strictly(rebuilt, model.state_dict(), source)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, rebuilt.state_dict(), make_header(config, rebuilt, converted_from=str(source)))
    return report


def read_official(path: Path) -> Mapping[str, Tensor]:
    """The state dict in an official checkpoint: its "model" entry, or the whole file.

    Only tensors, plain values and `argparse.Namespace` are unpickled, so that no file can run code.

    Raises:
        ValueError: not a torch file, one with other objects in it (they are named), or one without a state dict.
    """
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{path}: {_why_unreadable(path, error)}") from error
    state_dict = stored.get("model", stored) if isinstance(stored, Mapping) else stored
    if isinstance(state_dict, Mapping) and state_dict and all(isinstance(v, Tensor) for v in state_dict.values()):
        return state_dict
    raise ValueError(f"{path}: has no state dict as its 'model'; {_contents(stored)}")


def official_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config around a model's, with COCO 2017 in data/coco and the official recipe's 50 epochs."""
    masks = bool(model.get("mask_vectors"))
    train, val = (
        dict(
            type="CocoDataset",
            annotation_file=f"data/coco/annotations/instances_{split}2017.json",
            image_folder=f"data/coco/{split}2017",
            masks=masks,
        )
        for split in ("train", "val")
    )
    return resolve_config(
        dict(
            model=dict(model),
            data=dict(train=train, val=val, batch_size=2),
            train=dict(epochs=50),
            evaluator=dict(type="CocoEvaluator", iou_types=["bbox", "segm"] if masks else ["bbox"]),
        )
    )


def describe(report: ConversionReport) -> str:
    """The report in words, with the modules that were left out."""
    outcomes = {
        key: outcome
        for outcome, keys in (("loaded", report.loaded), ("duplicate", report.duplicates), ("unused", report.unused))
        for key in keys
    }
    unused = [f"  {row.pattern}" for row in fold(outcomes) if row.outcome == "unused"]
    return "\n".join([str(report) + (":" if unused else ""), *unused])


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except UNREADABLE:
        others = []
    known = {f"{c.__module__}.{c.__qualname__}" for c in ALLOWED}
    if others := sorted(set(others) - known):
        return (
            f"holds objects that are not loaded, because unpickling them runs code: {', '.join(others)}; "
            f"if you trust it, save its state dict alone: "
            f"torch.save({{'model': torch.load(PATH, weights_only=False)['model']}}, NEW_PATH)"
        )
    return f"is truncated or not a torch checkpoint ({str(error).splitlines()[0]})"


def _contents(stored: Any) -> str:
    if not isinstance(stored, Mapping):
        return f"the file holds {type(stored).__name__}"
    entries = [f"{key!r} ({type(value).__name__})" for key, value in list(stored.items())[:10]]
    return f"the file holds {', '.join(entries)}" + (", ..." if len(stored) > 10 else "")
