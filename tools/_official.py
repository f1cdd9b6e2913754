"""What the benchmarks beside official code share: that code made importable, and two sides timed in turn.

Official repositories import libraries that need a compiler or an old Python for parts which are not run here. Such
names get stand-ins; modules that are run are the official files themselves.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any


class Anything:
    """A name of a library that official code mentions; as a decorator or an initialiser it does nothing."""

    def __init__(self, *arguments: Any, **options: Any):
        pass

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if arguments else self

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class StandIn(ModuleType):
    """A package of which only some modules are real."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        real = self.__spec__.loader.real
        if f"{self.__name__}.{name}" in real:
            return importlib.import_module(f"{self.__name__}.{name}")
        for module in (m for m in real if m.rpartition(".")[0] == self.__name__):
            if hasattr(found := importlib.import_module(module), name):
                return getattr(found, name)
        return Anything()


class StandIns(MetaPathFinder, Loader):
    """Imports `real` modules from the folders of their packages and everything else of these packages as stand-ins."""

    def __init__(self, packages: Mapping[str, Path | None], real: Iterable[str] = ()):
        self.packages, self.real = packages, tuple(real)

    def install(self) -> None:
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package not in self.packages:
            return None
        if fullname in self.real:
            return spec_from_file_location(fullname, self.packages[package] / f"{rest.replace('.', '/')}.py")
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def check_clone(folder: Path, file: str, repository: str) -> None:
    """Exit where `folder` is not a clone of the repository."""
    if not (folder / file).is_file():
        sys.exit(f"{folder}: no {file} here; clone https://github.com/{repository} and give its folder")


def largest_error(own: Any, official: Any) -> str:
    """The largest difference of tensors, or of lists of them, each relative to its largest value."""
    pairs = zip(own, official, strict=True) if isinstance(own, list) else [(own, official)]
    return f"{max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs):.1e}"


def race(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median CPU milliseconds of a call of each side; they take turns, after one call each to warm up."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, call in sides.items():
            start = time.process_time()
            call()
            if turn:
                spent[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in spent.items()}


def print_row(name: str, milliseconds: Mapping[str, float], note: str = "") -> None:
    """A row of the table that `print_head` begins."""
    official, own = milliseconds.get("official"), milliseconds["detkit"]
    beside = f"{official:12.1f}" if official else f"{'-':>12}"
    ratio = f"{official / own:7.2f}x" if official else f"{'-':>8}"
    print(f"{name:42}{beside}{own:12.1f}{ratio}  {note}", flush=True)


def print_head() -> None:
    print(f"{'CPU ms, median':42}{'official':>12}{'detkit':>12}{'ratio':>8}  same result?")
