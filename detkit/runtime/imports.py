"""Importing other people's modules and files, whose classes register themselves when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from detkit.config import absolute_imports, error_place
from detkit.registry import ConfigError


def import_named(imports: Sequence[str]) -> None:
    """Import modules by their names and .py files by their paths, each once.

    The file `folder/my_models.py` becomes the module `my_models`, and `folder` the last entry of the import path. So
    the file can import what lies beside it, and data loading processes find its classes when they unpickle them.

    Raises:
        ConfigError: not a list of strings, no such module or file, a file whose name another module has already, or
            an exception inside of one, with file and line.
    """
    for name in absolute_imports(imports, Path.cwd()):
        if name.endswith(".py"):
            _import_file(Path(name))
        else:
            _import(name)


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"imports: the file {path} does not exist")
    if not path.stem.isidentifier():
        raise ConfigError(f"imports: {path.name} cannot be imported: use letters, digits and _ in its name ({path})")
    spec = importlib.util.find_spec(path.stem)
    if spec is None or spec.origin is None:  # a mere folder of this name has no origin
        sys.path.append(str(path.parent))
        importlib.invalidate_caches()
    elif not os.path.exists(spec.origin) or not path.samefile(spec.origin):
        raise ConfigError(f"imports: {path} cannot be imported, the module {path.stem!r} is {spec.origin}: rename it")
    _import(path.stem)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            hint = f"install it, add its folder to PYTHONPATH, or name a file: {name.rpartition('.')[2]}.py"
            raise ConfigError(f"imports: there is no module {name!r} ({error}): {hint}") from error
        place = error_place(error, _code_of(name)) or name
        raise ConfigError(f"imports: {place}: {type(error).__name__}: {error}") from error


def _code_of(name: str) -> Path:
    """The file of a module, or the folder of its outermost package."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    origin = Path(spec.origin) if spec and spec.origin else Path(name)
    return origin.parent if origin.name == "__init__.py" else origin
