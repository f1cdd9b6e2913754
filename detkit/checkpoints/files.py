"""Which file a path of a checkpoint means, and opening it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from detkit.checkpoints.header import CheckpointError
from detkit.download.kinds import PICKLE, TAR, ZIP, kind_of_file, why_no_weights
from detkit.files import refuse_url

WEIGHTS = ("best.safetensors", "last.safetensors")  # of a run, by preference


def find_weights(path: str | Path) -> Path:
    """The weight file that is meant by a file, or by the folder of a run: its best, otherwise its last or newest.

    Raises:
        CheckpointError: there is none.
        ValueError: the path is a URL.
    """
    refuse_url(path)
    path = Path(path)
    if not path.is_dir():
        return path
    found = [path / name for name in WEIGHTS if (path / name).is_file()]
    found += sorted(path.glob("checkpoints/step_*.safetensors"), reverse=True)
    if not found:
        raise CheckpointError(f"{path} holds no best.safetensors or last.safetensors: name a checkpoint or another run")
    return found[0]


def is_run(path: str | Path) -> bool:
    """Whether this is the folder of a run, begun or finished."""
    return any((Path(path) / name).exists() for name in ("config.json", "checkpoints", *WEIGHTS))


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """A safetensors file, as `safe_open` gives it.

    Raises:
        CheckpointError: no such file, truncated, or of another kind, which is named.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if (kind := kind_of_file(path)) in (ZIP, PICKLE, TAR):
        hint = f"official ones become checkpoints by `detkit convert {path} NEW.safetensors`"
        raise CheckpointError(f"{path}: is a torch file, not a detkit checkpoint; {hint}")
    if kind is None and (problem := why_no_weights(path)) and path.stat().st_size:
        raise CheckpointError(f"{path}: {problem}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is truncated or not a safetensors file ({error})") from error
