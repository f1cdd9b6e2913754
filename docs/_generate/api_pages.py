"""MkDocs hook: the pages of the API reference, one for each package of detkit."""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]


def packages() -> dict[str, list[Path]]:
    """The Python files of each package of detkit, by its dotted name; empty files are left out."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "detkit").rglob("*.py")):
        if path.name != "__main__.py" and path.stat().st_size:
            found.setdefault(".".join(path.relative_to(ROOT).parent.parts), []).append(path)
    return found


def directive(path: Path) -> str:
    """What makes mkdocstrings show a module; of a package the names that its file defines, not those it imports."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] != "__init__":
        return f"::: {'.'.join(parts)}\n"
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    defined = list(dict.fromkeys(n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))))
    return f"::: {'.'.join(parts[:-1])}\n    options:\n      members: {defined or False}\n"


def on_config(config: MkDocsConfig) -> None:
    """Put the pages into the navigation, under "API reference"."""
    for entry in config.nav or []:
        if "API reference" in entry:
            entry["API reference"] = [{package: f"api/{package}.md"} for package in packages()]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages."""
    for package, paths in packages().items():
        text = "\n".join([f"# {package}\n", *map(directive, paths)])
        files.append(File.generated(config, f"api/{package}.md", content=text))
