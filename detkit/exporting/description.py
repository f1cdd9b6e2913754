"""What an exported file says of itself: a JSON text in its metadata, under the key `detkit`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detkit.checkpoints.header import decode

KEY = "detkit"
TASKS = ("detection", "segmentation", "matching")
LEAST = 3  # times `multiple` are the smallest sides of a graph of any size: no map has one row alone then
PLACES = ("inside", "outside")


@dataclass(frozen=True)
class Description:
    """What is needed to predict with an exported model.

    Attributes:
        model: name of the model's class.
        task: "detection" (ViDT), "segmentation" (SOLOv2) or "matching".
        label_map: names and category_ids of the classes.
        input_rule: see `detkit.modeling.base.InputRule`.
        thresholds: the score from which on a detection of each class counts, by name; None where none were chosen.
        batch: images that go through together; None for any number.
        size: (h, w) of the images; None for any multiple of `multiple`.
        multiple: both sides are multiples of it.
        preprocessing: "inside" where the graph takes pixels in 0..255, "outside" where they are normalised before.
        postprocessing: "inside" where the graph gives detections or a flow, "outside" where it gives raw outputs.
        settings: arguments of what is done outside, by the model.
        int8: whether products are computed with 8-bit integers.
    """

    model: str
    task: str
    label_map: dict[str, Any]
    input_rule: dict[str, Any]
    thresholds: dict[str, float] | None = None
    batch: int | None = 1
    size: tuple[int, int] | None = None
    multiple: int = 32
    preprocessing: str = "inside"
    postprocessing: str = "inside"
    settings: dict[str, Any] = field(default_factory=dict)
    int8: bool = False

    def to_metadata(self) -> dict[str, str]:
        """The entries for the metadata of a file."""
        entries = {**asdict(self), "schema": 1}
        if self.thresholds is None:
            del entries["thresholds"]
        return {KEY: json.dumps(entries)}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str], path: Path) -> Description:
        """Read and check the metadata of a file.

        Raises:
            ValueError: it was not written by `detkit export`, or was altered.
        """
        if KEY not in metadata:
            raise ValueError(f"{path}: was not written by detkit export (no entry {KEY!r} in its metadata)")
        entries = decode({KEY: metadata[KEY]}, path)
        entries.pop("schema")
        unknown = {"thresholds", *entries} ^ cls.__dataclass_fields__.keys()
        wrong = [name for name, is_right in CHECKS.items() if name in entries and not is_right(entries[name])]
        if unknown or wrong:
            named = ", ".join(sorted(unknown) + wrong)
            raise ValueError(f"{path}: its metadata is not that of detkit export, or of another version: {named}")
        size = entries["size"]
        return cls(**{**entries, "size": None if size is None else (size[0], size[1])})


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 100_000


def _are_thresholds(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(type(v) in (int, float) for v in value.values()))


CHECKS = {
    "model": lambda value: isinstance(value, str),
    "task": lambda value: value in TASKS,
    "thresholds": _are_thresholds,
    "batch": lambda value: value is None or _is_count(value),
    "size": lambda value: value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))),
    "multiple": _is_count,
    "preprocessing": lambda value: value in PLACES,
    "postprocessing": lambda value: value in PLACES,
    "settings": lambda value: isinstance(value, dict),
    "int8": lambda value: isinstance(value, bool),
}
