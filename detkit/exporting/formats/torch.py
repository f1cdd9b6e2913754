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
# Arithmetic of sizes: symbols, numbers, and the names of sympy's functions, which begin with capital letters.
EXPRESSION = re.compile(
    r"(?:Symbol\('\w+'(?:, \w+=True)*\)|Float\('[\d.e-]+', precision=\d+\)|[A-Z]\w*\(|[sub]\d+|[\d\s+*/(),-])*"
)


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
            self.module = program.module()
        except Exception as error:  # PyTorch has no error of its own for what does not fit
            raise ValueError(f"{path}: PyTorch cannot read it: {_first_line(error)}") from error
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
            if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                raise ValueError(f"{path}: unpacks to more than its size, as no file of torch.export does")
            for info in archive.infolist():
                name = info.filename.partition("/")[2]
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{path}: {name[:100]!r} in it is compressed, which detkit export does not do")
                if name.startswith("extra/"):
                    metadata[name.removeprefix("extra/")] = archive.read(info).decode()
                elif name.endswith(".json"):
                    _check_json(json.loads(archive.read(info)), path)
                elif name.endswith(".pt"):
                    _check_tensors(archive.read(info), path)
                elif not re.match(r"data/(weights|constants)/(weight|tensor)_\d+$|archive|byteorder|\.data/", name):
                    raise ValueError(f"{path}: holds {name[:100]!r}, which detkit export does not write")
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is damaged or no file of torch.export ({_first_line(error)})") from error
    except (RuntimeError, EOFError) as error:  # encrypted, too deep, or shorter than it says
        raise ValueError(f"{path}: is damaged or no file of torch.export ({_first_line(error)})") from error
    return metadata


def _check_tensors(content: bytes, path: Path) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # whatever damaged bytes raise
        raise ValueError(f"{path}: holds objects that could run code, or damaged ones: it is not read") from error


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
