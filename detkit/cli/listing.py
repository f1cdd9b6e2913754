"""The command that lists what configs can name."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import detkit
from detkit.cli.common import add_import
from detkit.cli.configs import docstring
from detkit.config import config_names, find_config
from detkit.download.fetch import cache_folder, cached_name
from detkit.download.published import PUBLISHED, Published, address
from detkit.registry import ConfigError, accepted_arguments, lookup, names, nearest
from detkit.registry.values import described

KINDS = ("models", "backbones", "datasets", "transforms", "evaluators", "schedules", "hooks", "parts", "configs")
# Arguments that the running program gives; a config does not state them.
GIVEN = {"num_classes", "dataset", "lr", "epochs", "steps_per_epoch"}
Row = tuple[str, str, str]  # kind, name, first line of the docstring


def list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit list`."""
    parser.add_argument(
        "kind", nargs="?", metavar="KIND", help=f"{', '.join(KINDS)} (default: all; parts are losses and the like)"
    ).completer = lambda **_: KINDS  # type: ignore[attr-defined]
    parser.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help="part of a name, perhaps with * and ?; a whole name also shows its arguments",
    ).completer = lambda **_: written_names()  # type: ignore[attr-defined]
    add_import(parser)


def list_components(options: argparse.Namespace) -> None:
    """List models, backbones, datasets, ... that a config can name, and the published models, one a line."""
    kind, pattern = options.kind, options.pattern
    if kind not in KINDS and pattern is None:
        kind, pattern = None, kind
    if kind not in (None, *KINDS):
        raise ConfigError(f"unknown kind {kind!r}{nearest(kind, KINDS)} Valid: {', '.join(KINDS)}")
    rows = [row for row in all_rows(kind) if matches(row[1], pattern)]
    if not rows and pattern is not None:
        near = nearest(pattern, [*KINDS, *(row[1] for row in all_rows(kind))])
        raise ConfigError(f"none of the {kind or 'names'} matches {pattern!r}{near}")
    if not rows:
        print(f"no {kind} are registered; --import names modules and files that register yours", file=sys.stderr)
    width = max((len(row[1]) for row in rows), default=0)
    for row_kind, name, line in rows:
        print(f"{name:{width}}  {line}" if kind else f"{row_kind:10}  {name:{width}}  {line}")
        if name == pattern and name in PUBLISHED:
            print(*published_lines(PUBLISHED[name]), sep="\n")
        elif name == pattern and row_kind != "configs":
            print(*argument_lines(lookup(name)), sep="\n")


def argument_lines(component: Callable[..., Any]) -> Iterator[str]:
    """What a config can state of a component, a line each: name, type and range, default."""
    known = {name: p for name, p in accepted_arguments(component).items() if name not in GIVEN}
    width = max(map(len, known), default=0)
    for name, parameter in known.items():
        default = "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"
        yield f"    {name:{width}}  " + "; ".join(filter(None, (described(parameter.annotation), default)))


def all_rows(kind: str | None = None) -> list[Row]:
    """What configs can name, of one kind or all, in the order of `KINDS` and of names."""
    rows = list(config_rows()) if kind in (None, "configs") else []
    rows += published_rows() if kind in (None, "models") else []
    if kind != "configs":
        rows += component_rows()
    return sorted((row for row in rows if kind in (None, row[0])), key=lambda row: (KINDS.index(row[0]), row[1]))


def matches(name: str, pattern: str | None) -> bool:
    """Whether a name contains `pattern`, or is like it where that has wildcards; upper and lower case are the same."""
    if pattern is None:
        return True
    has_wildcards = any(character in pattern for character in "*?[")
    return fnmatch(name.lower(), pattern.lower() if has_wildcards else f"*{pattern.lower()}*")


def component_rows() -> Iterator[Row]:
    """The registered components, those of detkit and of modules that were imported."""
    from detkit.runtime.components import import_components

    import_components()
    importlib.import_module("detkit.engine.runner")  # registers the schedules and Checkpoint
    for name in names():
        component = lookup(name)
        yield kind_of(component), name, (inspect.getdoc(component) or "").partition("\n")[0]


def kind_of(component: Any) -> str:
    """What a config uses a component for, told by its base class, its methods or what the program passes to it."""
    from torch import nn

    from detkit.engine.hook import Hook
    from detkit.modeling.base import Model

    if "steps_per_epoch" in inspect.signature(component).parameters:
        return "schedules"
    if not inspect.isclass(component):
        return "parts"
    for base, kind in ((Model, "models"), (nn.Module, "backbones"), (Hook, "hooks")):
        if issubclass(component, base):
            return kind
    if hasattr(component, "update") and hasattr(component, "compute"):
        return "evaluators"
    if hasattr(component, "__getitem__") and hasattr(component, "__len__"):
        return "datasets"
    call = getattr(component, "__call__", None)  # noqa: B004 (that of the class, to see its arguments)
    return "transforms" if call and "rng" in inspect.signature(call).parameters else "parts"


def published_rows() -> Iterator[Row]:
    """The models that their authors publish: size, figures, licence, and whether they are in the cache."""
    from detkit.checkpoints.published import is_here

    for name, entry in PUBLISHED.items():
        here = "here" if is_here(entry) else "not here, downloaded when it is named"
        kind = "body" if entry.is_body else "detector"
        columns = f"{entry.parameters:>4} M  {entry.figures():26}  {entry.licence:10}"
        yield "models", name, f"{kind:8}  {columns}  {here}"


def published_lines(entry: Published) -> Iterator[str]:
    """Where a published model comes from, and where it is kept."""
    from detkit.checkpoints.published import converted_path

    yield f"    from       {address(entry.url)}"
    yield f"    kept in    {cache_folder() / cached_name(entry.url)}"
    if not entry.is_body:
        yield f"    converted  {converted_path(entry)}"


def config_rows() -> Iterator[Row]:
    """The configs that come with detkit."""
    for name in config_names():
        yield "configs", name, docstring(find_config(name)).partition("\n")[0]


def written_names() -> list[str]:
    """The names that stand behind `@register` in detkit's files: fast, for completion, as nothing is imported."""
    pattern = re.compile(r'^@register(?:\("(\w+)"\))?\n(?:class|def) (\w+)', re.MULTILINE)
    texts = (path.read_text(encoding="utf-8") for path in Path(detkit.__file__).parent.rglob("*.py"))
    return [given or name for text in texts for given, name in pattern.findall(text)]
