"""Commands that show the configs that come with detkit."""

from __future__ import annotations

import argparse
import ast
import json
import re
from pathlib import Path
from typing import Any

from detkit.cli.common import add_config_name
from detkit.config import (
    SHORT_NAMES,
    config_names,
    find_config,
    format_config,
    load_config,
    resolve_config,
    to_json,
)


def configs_arguments(parser: argparse.ArgumentParser) -> None:
    """`detkit configs` has no arguments."""


def configs(options: argparse.Namespace) -> None:
    """List the configs that come with detkit."""
    names = config_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {docstring(find_config(name)).partition(chr(10))[0]}")
    print(f"short names: {', '.join(SHORT_NAMES)}")
    print("print one, as a file to edit: detkit config NAME > mine.py")


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit config`."""
    add_config_name(parser)


def config(options: argparse.Namespace) -> None:
    """Print a config as a Python file to edit: detkit config NAME > mine.py."""
    path = find_config(options.config)
    loaded = load_config(path)
    if command_of(loaded) == "train":
        loaded = resolve_config(loaded)
    print(_header(path, command_of(loaded)))
    print(format_config(json.loads(to_json(loaded)), portable=True), end="")


def command_of(config: dict[str, Any]) -> str:
    """The subcommand that trains a config."""
    if "rounds" in config:
        return "match"
    return "wssis" if "teacher" in config else "train"


def docstring(path: Path) -> str:
    """The docstring of a config file, without running it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _header(path: Path, command: str) -> str:
    """Comments: how to use the copy, and what the original says of itself, with the copy in its commands."""
    name = re.compile(rf"(?<=\s){path.stem}(?=\s|$)")
    lines = [name.sub("mine.py", line) if line.startswith("    ") else line for line in docstring(path).split("\n")]
    about = f"A copy of the config {path.stem} of detkit. Edit it, then: detkit {command} mine.py"
    text = "\n".join([about, "What follows is said of the original.", "", *lines])
    return "".join(f"# {line}".rstrip() + "\n" for line in text.split("\n"))
