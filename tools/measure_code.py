"""Numbers about the code itself: sizes of files and functions, folders, names, imports, docstrings.

    python tools/measure_code.py [PACKAGE_FOLDER]

Counts `detkit/` beside this script by default; give the package folder of another checkout to compare.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[tuple[Function, bool]]:
    """Every function of a module, and whether it is public: no part of its path begins with an underscore."""
    waiting: list[tuple[ast.AST, bool, bool]] = [(tree, True, False)]
    while waiting:
        node, is_public, is_inner = waiting.pop()
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            public = is_public and not (named and child.name.startswith("_"))  # type: ignore[attr-defined]
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield child, public and not is_inner
            waiting.append((child, public, is_inner or isinstance(child, (ast.FunctionDef, ast.Lambda))))


def is_property_setter_or_overload(function: Function) -> bool:
    """Whether a function has its docstring elsewhere."""
    return any("setter" in ast.dump(d) or "overload" in ast.dump(d) for d in function.decorator_list)


def repeated_names(trees: dict[Path, ast.Module]) -> dict[str, int]:
    """Public top-level names that several files define."""
    places: Counter[str] = Counter()
    for tree in trees.values():
        names = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        places.update(name for name in names if not name.startswith("_"))
    return {name: count for name, count in places.most_common() if count > 1}


def words_of_file_names(files: list[Path]) -> dict[str, int]:
    """Words that begin at least three file names of one folder."""
    words: defaultdict[tuple[Path, str], int] = defaultdict(int)
    for file in files:
        if "_" in file.stem.strip("_"):
            words[file.parent, file.stem.split("_")[0]] += 1
    return {f"{folder}/{word}_*": count for (folder, word), count in words.items() if count > 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "detkit"
    parser.add_argument("package", nargs="?", type=Path, default=default)
    package = parser.parse_args().package
    files = sorted(package.rglob("*.py"))
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    lengths = [len(file.read_text(encoding="utf-8").splitlines()) for file in files]
    filled = [length for length in lengths if length > 10]
    folders = Counter(file.parent.relative_to(package.parent) for file in files)
    found = [pair for tree in trees.values() for pair in functions(tree)]
    sizes = sorted(f.end_lineno - f.lineno + 1 for f, _ in found)  # type: ignore[operator]
    public = [f for f, is_public in found if is_public and not is_property_setter_or_overload(f)]
    documented = [f for f in public if ast.get_docstring(f) is not None]
    rows = {
        "files, lines": f"{len(files)}, {sum(lengths)}",
        "lines of a file (median of files over 10 lines, largest)": f"{statistics.median(filled):.0f}, {max(lengths)}",
        "root modules": folders[package.relative_to(package.parent)],
        "largest folders": ", ".join(f"{folder} {count}" for folder, count in folders.most_common(3)),
        "functions (number, median, p95, largest)": f"{len(sizes)}, {statistics.median(sizes):.0f}, "
        f"{sizes[int(0.95 * (len(sizes) - 1))]}, {sizes[-1]}",
        "public functions and methods with a docstring": f"{len(documented)} of {len(public)} "
        f"({len(documented) / len(public):.1%})",
        "names that several files define": ", ".join(f"{n} {c}" for n, c in repeated_names(trees).items()) or "none",
        "words that begin several file names": ", ".join(
            f"{Path(n).relative_to(package.parent)} {c}" for n, c in words_of_file_names(files).items()
        )
        or "none",
    }
    for name, value in rows.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
