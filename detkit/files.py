"""Atomic writing: an interruption never leaves a half-written file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a temporary file beside `path`, then put it in the place of `path` in one move."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, access: int) -> None:
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as compact json, atomically."""
    write_text(path, json.dumps(content, separators=(",", ":")))


def refuse_to_overwrite(paths: Iterable[Path]) -> None:
    """Raise a ValueError that names those of `paths` that exist already."""
    if present := [str(path) for path in paths if path.exists()]:
        raise ValueError(f"{', '.join(present)} exist already: choose another folder, or replace them with --force")
