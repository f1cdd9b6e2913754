"""MkDocs hook: the config reference, made from the option tables and the registered components of detkit."""

import ast
import inspect
import io
import itertools
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from griffe import Docstring
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from detkit.cli.listing import GIVEN, KINDS, component_rows
from detkit.config import OPTIMIZERS
from detkit.config import types as run_types
from detkit.correspondence.annotate import Rules
from detkit.modeling.base import InputRule
from detkit.pipelines.matchme import config as matchme
from detkit.pipelines.wssis import config as wssis
from detkit.registry import accepted_arguments, is_registered, lookup
from detkit.registry.values import described

PACKAGE = Path(__file__).parents[2] / "detkit"
# The tables of options: heading, file, variable, and the types of the options by section.
TABLES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("Sections of every run", "config/__init__.py", "SECTIONS", run_types.TYPES),
    (
        "Options of the optimizers",
        "config/__init__.py",
        "OPTIMIZERS",
        dict.fromkeys(OPTIMIZERS, run_types.TYPES["optimizer"]),
    ),
    ("Sections of `detkit wssis`", "pipelines/wssis/config.py", "SECTIONS", wssis.TYPES),
    ("The section `rounds` of `detkit match`", "pipelines/matchme/config.py", "ROUNDS", {"ROUNDS": matchme.TYPES}),
)
# Options that are dicts of the arguments of a class: heading and class.
CLASSES = (("Options of `input_rule`", InputRule), ("Options of `rounds.annotate`", Rules))


class Option(NamedTuple):
    """One row of a table."""

    name: str
    wanted: str
    default: str
    meaning: str


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the page."""
    files.append(File.generated(config, "reference/config.md", content=page()))


def page() -> str:
    """The whole page as Markdown."""
    lines = (Path(__file__).parent / "config_head.md").read_text(encoding="utf-8").splitlines()
    for heading, file, variable, types in TABLES:
        lines += ["", f"## {heading}"]
        for name, about, options in option_tables(PACKAGE / file, variable, types):
            lines += ["", f"### {name}", ""] if name != variable else [""]
            lines += [about, ""] if about else []
            lines += table(options)
    for heading, holder in CLASSES:
        lines += ["", f"## {heading}", "", summary(holder), "", *table(arguments(holder))]
    for kind, components in itertools.groupby(own_components(), key=lambda row: row[0]):
        lines += ["", f"## {kind.capitalize()}"]
        for _, name, component in components:
            lines += ["", f"### {name}", "", summary(component), "", *table(arguments(component))]
    return "\n".join(lines) + "\n"


def own_components() -> list[tuple[str, str, Callable]]:
    """Kind, name and object of what detkit registers, in the order of `detkit list`."""
    rows = [(kind, name, lookup(name)) for kind, name, _ in component_rows()]
    own = [row for row in rows if row[2].__module__.startswith("detkit.")]
    return sorted(own, key=lambda row: (KINDS.index(row[0]), row[1]))


def table(options: Iterable[Option]) -> list[str]:
    """Rows of a Markdown table; nothing without options."""
    rows = [f"| `{o.name}` | {o.wanted} | {o.default} | {o.meaning} |" for o in map(_escaped, options)]
    return ["| option | type and range | default | meaning |", "|---|---|---|---|", *rows] if rows else []


def _escaped(option: Option) -> Option:
    return Option(*(text.replace("|", r"\|") for text in option))


def option_tables(path: Path, variable: str, types: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Option]]]:
    """The options that `variable = dict(...)` in a file lists, with the comments behind them.

    Args:
        path: of the file.
        variable: its name.
        types: of the options, by the names of the sections.

    Yields:
        Name, comment above and options of each section; a variable without sections is one under its own name.
    """
    source = path.read_text(encoding="utf-8")
    comments, alone = _comments(source)
    assignments = (node for node in ast.parse(source).body if isinstance(node, (ast.Assign, ast.AnnAssign)))
    value = next(node.value for node in assignments if variable in ast.unparse(node).split(":")[0].split(" = ")[0])
    for name, node in _items(value) if isinstance(value, ast.Dict) else [(variable, value)]:
        above, line = [], node.lineno - 1
        while line in alone:
            above.insert(0, comments[line])
            line -= 1
        rows = [(key, _default(item), comments.get(item.end_lineno or 0, "")) for key, item in _items(node)]
        options = [Option(key, described(types[name].get(key)), *rest) for key, *rest in rows]
        yield name, " ".join(above), options


def _comments(source: str) -> tuple[dict[int, str], set[int]]:
    """The comments of a file by line, and the lines that hold nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    alone = {line for line, token in found.items() if token.line.lstrip().startswith("#")}
    return {line: token.string.lstrip("# ") for line, token in found.items()}, alone


def _items(node: ast.expr) -> list[tuple[str, ast.expr]]:
    """The keys and values of `{...}` or `dict(...)`."""
    if isinstance(node, ast.Dict):
        return [(ast.literal_eval(key), value) for key, value in zip(node.keys, node.values, strict=True) if key]
    assert isinstance(node, ast.Call)
    return [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg]


def _default(node: ast.expr) -> str:
    return "*required*" if ast.unparse(node) == "REQUIRED" else f"`{ast.unparse(node)}`"


def summary(component: Callable) -> str:
    """The first paragraph of its docstring, and a link to the rest."""
    first = (inspect.getdoc(component) or "").partition("\n\n")[0].replace("\n", " ")
    return f"{first} [More][{component.__module__}.{component.__qualname__}]"


def arguments(component: Callable) -> list[Option]:
    """What a config can state: the constructor's arguments, and those that its docstring adds to `**options`.

    "See `Name`" at the start of a text is replaced by what `Name` says of the argument; `**options` "of `Name`" by all
    arguments of `Name`.
    """
    parameters, documented = dict(inspect.signature(component).parameters), _documented(component)
    accepted = accepted_arguments(component)
    rows: dict[str, Option] = {}
    for name in dict.fromkeys([*parameters, *documented]):
        parameter, meaning = parameters.get(name), documented.get(name, "")
        reference = re.match(r"(see|as in|of) `(\w+)`", meaning)
        other = _named(reference[2], component) if reference else None
        if parameter is not None and parameter.kind is parameter.VAR_KEYWORD:
            if other is not None:
                rows |= {option.name: option for option in arguments(other) if option.name not in rows}
            elif meaning:
                rows[name] = Option(f"**{name}", "", "", meaning)
            continue
        if other is not None and reference is not None and reference[1] != "of":
            parameter = parameter or inspect.signature(other).parameters.get(name)
            meaning = _documented(other)[name].rstrip(".") + meaning[reference.end() :]
        wanted = accepted[name].annotation if name in accepted else None
        rows[name] = Option(name, described(wanted), _default_of(parameter), meaning)
    return [option for name, option in rows.items() if name not in GIVEN]


def _named(name: str, component: Callable) -> Callable | None:
    """The base class or the registered component of a name."""
    bases = {base.__name__: base for base in inspect.getmro(component)} if inspect.isclass(component) else {}
    return bases.get(name) or (lookup(name) if is_registered(name) else None)


def _documented(component: Callable) -> dict[str, str]:
    """The text of each argument under "Args:", of a dataclass under "Attributes:"."""
    text = inspect.getdoc(component) or ""
    text = text.replace("\nAttributes:", "\nArgs:") if is_dataclass(component) else text
    sections = Docstring(text).parse("google", warnings=False)
    entries = [entry for section in sections if section.kind.value == "parameters" for entry in section.value]
    return {name.strip(): entry.description.replace("\n", " ") for entry in entries for name in entry.name.split(",")}


def _default_of(parameter: inspect.Parameter | None) -> str:
    if parameter is None:
        return ""
    return "*required*" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
