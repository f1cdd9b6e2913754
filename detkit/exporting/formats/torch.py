"""Files of `torch.export` (.pt2), which PyTorch runs without the code of detkit's models.

PyTorch reads such a file as a program: a hostile one could run anything. Here only those are read that hold nothing but
tensors and operators of PyTorch's tensor library.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.exporting.description import Description

OPERATOR = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.ops\.higher_order\.wrap_with_autocast|_operator\.\w+|torch\.sym_\w+"
)
# Arithmetic of sizes: symbols, integers, and the names of sympy's functions, which begin with capital letters.
EXPRESSION = re.compile(r"(?:Symbol\('\w+'(?:, \w+=True)*\)|[A-Z]\w*\(|[sub]\d+|[\d\s+*/(),-])*")
LARGEST = 2**32  # bytes of an archive's file


def write(program: torch.export.ExportedProgram, path: Path, description: Description) -> list[Path]:
    """Write an exported program with its description."""
    torch.export.save(program, path, extra_files=description.to_metadata())
    return [path]


class Session:
    """A program that PyTorch runs, on the CPU.

    Raises:
        ValueError: a damaged file, none of detkit, or one that holds more than tensors and their operators.
    """

    def __init__(self, path: Path):
        self.description = Description.of_metadata(_checked(path), path)
        try:
            program = torch.export.load(path)
        except Exception as error:  # PyTorch has no error of its own for what does not fit
            raise ValueError(f"{path}: PyTorch cannot read it: {_first_line(error)}") from error
        self.module = program.module()
        self.inputs = list(program.graph_signature.user_inputs)

    @torch.no_grad()
    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in their order, for inputs in theirs."""
        return [found.numpy() for found in self.module(*map(torch.from_numpy, arrays))]


def _checked(path: Path) -> dict[str, str]:
    """The metadata of an archive that holds nothing that runs code when it is read."""
    metadata = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.partition("/")[2]
                if info.file_size > LARGEST:
                    raise ValueError(f"{path}: {name} in it is larger than 4 GB")
                if name.startswith("extra/"):
                    metadata[name.removeprefix("extra/")] = archive.read(info).decode()
                elif name.endswith(".json"):
                    _check_json(json.loads(archive.read(info)), path)
                elif name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(info)), weights_only=True)
                elif not re.match(r"data/(weights|constants)/(weight|tensor)_\d+$|archive|byteorder|\.data/", name):
                    raise ValueError(f"{path}: holds {name[:100]!r}, which detkit export does not write")
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is damaged or no file of torch.export ({_first_line(error)})") from error
    except (RuntimeError, EOFError, _unpickling_error()) as error:
        raise ValueError(f"{path}: holds objects that could run code: it is not read") from error
    return metadata


def _unpickling_error() -> type[Exception]:
    import pickle

    return pickle.UnpicklingError


def _check_json(content: Any, path: Path) -> None:
    for key, value in _entries(content):
        harmful = (
            (key == "use_pickle" and value is not False)
            or (key == "target" and isinstance(value, str) and not OPERATOR.fullmatch(value))
            or (key == "expr_str" and not (isinstance(value, str) and EXPRESSION.fullmatch(value)))
        )
        if harmful:
            raise ValueError(f"{path}: holds {key} {str(value)[:80]!r}, which could run code: it is not read")


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        yield from content.items()
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _entries(part)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
