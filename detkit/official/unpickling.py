"""Reading the files of weights that others publish, without running code that is in them."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.download.kinds import PICKLE, SAFETENSORS, ZIP, kind_of_file, why_no_weights

# Types besides tensors and plain values that official files hold: their training's command line, and numpy numbers.
ALLOWED: tuple[Any, ...] = (
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)


def read_stored(path: Path) -> Any:
    """What a file of weights holds: the tensors of a safetensors file, or the object that `torch.save` wrote.

    Only tensors, plain values, numpy numbers and `argparse.Namespace` are unpickled, so that no file can run code.

    Raises:
        ValueError: a web page, a git-lfs pointer or anything else that holds no weights; a truncated or damaged file;
            or one with other objects in it (they are named). The message begins with the path.
    """
    if problem := why_no_weights(path) or _bloated(path):
        raise ValueError(f"{path}: {problem}")
    try:
        if kind_of_file(path) == SAFETENSORS:
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(list(ALLOWED)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file ends in any of them
        raise ValueError(f"{path}: {_why_unreadable(path, error)}") from error


def _bloated(path: Path) -> str | None:
    """Torch stores its entries uncompressed; a file that unpacks to more than its size is meant to fill the memory."""
    if kind_of_file(path) != ZIP:
        return None
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeError) as error:
        return f"is truncated or damaged ({error})"
    return (
        f"unpacks to {unpacked} bytes, more than it has: not written by torch"
        if unpacked > path.stat().st_size
        else None
    )


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the file is damaged: `error` tells it
        others = []
    known = {c[1] if isinstance(c, tuple) else f"{c.__module__}.{c.__qualname__}" for c in ALLOWED}
    if others := sorted(set(others) - known):
        shown = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
        return (
            f"holds objects that are not loaded, because unpickling them runs code: {shown}; "
            "use a file with the state dict alone"
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "weights_only" in reason.lower() or "weights only" in reason.lower():  # torch's advice is to run the code
        kind = "an old torch file" if kind_of_file(path) == PICKLE else "a torch file"
        reason = f"{kind} with something else than tensors and plain values, or damaged"
    return f"is truncated or not a torch checkpoint ({reason})"
