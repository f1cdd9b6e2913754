"""MkDocs hook: the pages of the API reference, one for each package of detkit."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "detkit"


def packages() -> dict[str, list[str]]:
    """The modules of each package of detkit by their dotted names; packages without modules of their own are left out.

    A module without a docstring has nothing to show and is left out too.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem.startswith("__") and not path.read_text(encoding="utf-8").startswith('"""'):
            continue
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            module = ".".join(part for part in parts if part != "__init__")
            found.setdefault(".".join(parts[:-1]), []).append(module)
    return found


def on_config(config: MkDocsConfig) -> None:
    """Put the pages into the navigation, under "API reference"."""
    for entry in config.nav or []:
        if "API reference" in entry:
            entry["API reference"] = [{package: f"api/{package}.md"} for package in packages()]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages."""
    for package, modules in packages().items():
        text = "\n".join([f"# {package}\n", *(f"::: {module}\n" for module in modules)])
        files.append(File.generated(config, f"api/{package}.md", content=text))
