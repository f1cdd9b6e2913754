"""Configs as text: JSON, and Python source that `detkit.config.load_config` reads."""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from typing import Any

from detkit.config.shipped import data_folders
from detkit.registry import ConfigError


def to_json(config: dict[str, Any]) -> str:
    """`config` as JSON; tuples become lists.

    Raises:
        ConfigError: a value that JSON does not have; the message gives its path.
    """
    _check_storable(config, "config")
    return json.dumps(config, indent=2, allow_nan=False)


def format_config(config: dict[str, Any], *, portable: bool = False) -> str:
    """`config` as a Python file that `load_config` reads.

    Args:
        portable: let paths from `data_folder` follow the environment variable again.
    """
    folders = {variable: folder for variable, (folder, _) in data_folders.items()} if portable else {}
    text = f"config = {_format(config, 0, folders)}\n"
    used = [variable for variable in folders if variable in text]
    if not used:
        return text
    calls = {variable: f"data_folder({_quoted(variable)}, {_quoted(data_folders[variable][1])})" for variable in used}
    lines = "".join(f"{variable} = {call}\n" for variable, call in calls.items())
    return f"from detkit.config import data_folder\n\n{lines}\n{text}"


def differing_paths(first: Any, second: Any, path: str = "") -> list[str]:
    """The paths at which two configs of JSON types differ, sorted."""
    if isinstance(first, dict) and isinstance(second, dict):
        below = [differing_paths(first.get(k), second.get(k), f"{path}.{k}".lstrip(".")) for k in {**first, **second}]
        return sorted(p for paths in below for p in paths)
    return [] if first == second else [path]


def _check_storable(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{path}: key {key!r} is not a string, so the config cannot be stored")
            _check_storable(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_storable(item, f"{path}.{i}")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ConfigError(
            f"{path}: {value!r} ({type(value).__name__}) cannot be stored; use numbers, strings and lists"
        )
    elif isinstance(value, float) and value - value != 0:
        raise ConfigError(f"{path}: {value} is not finite and cannot be stored")


def _format(value: Any, depth: int, folders: Mapping[str, str]) -> str:
    """Python source; on one line where it fits, else one item a line."""
    if isinstance(value, str):
        return _format_text(value, folders)
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    if isinstance(value, dict):
        items = {key: _format(item, depth + 1, folders) for key, item in value.items()}
        as_call = all(key.isidentifier() and not keyword.iskeyword(key) for key in value)
        start, end = ("dict(", ")") if as_call else ("{", "}")
        parts = [f"{key}={item}" if as_call else f"{_quoted(key)}: {item}" for key, item in items.items()]
    else:
        start, parts, end = "[", [_format(item, depth + 1, folders) for item in value], "]"
    line = start + ", ".join(parts) + end
    if "\n" not in line and len(line) + 4 * depth <= 100:
        return line
    indent = "    " * (depth + 1)
    return start + "\n" + "".join(f"{indent}{part},\n" for part in parts) + "    " * depth + end


def _format_text(text: str, folders: Mapping[str, str]) -> str:
    """A string, in which a variable takes the place of the folder that it names."""
    for variable, folder in folders.items():
        rest = text.removeprefix(folder)
        if folder and text.startswith(folder) and (not rest or rest.startswith("/")):
            return "f" + _quoted(f"{{{variable}}}" + rest.replace("{", "{{").replace("}", "}}")) if rest else variable
    return _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a literal of Python as well
