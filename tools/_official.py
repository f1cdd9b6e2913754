"""What the benchmarks beside official code share: that code made importable, and two sides measured in turn.

Official repositories import libraries that need a compiler or an old Python for parts which are not run here. Such
names get stand-ins; modules that are run are the official files themselves.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

STATUS = Path("/proc/self/status")


# Official code made importable --------------------------------------------------------------------------------------


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


# Two sides in one process -------------------------------------------------------------------------------------------


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


# Each measurement in a process of its own ---------------------------------------------------------------------------


def add_process_options(parser: argparse.ArgumentParser, *, calls: int) -> None:
    """The options of a script that starts itself for each measurement; `job` and `folder` are for these processes."""
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="a clone of the official repository")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side (default 5)")
    parser.add_argument("--calls", type=int, default=calls, help=f"timed calls of a process (default {calls})")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", choices=["weights", "official", "detkit"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)


def measure(call: Callable[[], Any], calls: int) -> tuple[dict[str, float], Any]:
    """Median CPU time of a call after one to warm up, the most memory held and what the calls added; a result."""
    loaded = forget_peak()
    spent = []
    for _ in range(calls + 1):
        found = None  # makes room
        start = time.process_time()
        found = call()
        spent.append(1000 * (time.process_time() - start))
    peak = megabytes("VmHWM")
    return {"CPU ms": statistics.median(spent[1:]), "peak MB": peak, "added MB": peak - loaded}, found


def megabytes(field: str) -> float:
    """VmRSS (memory held now) or VmHWM (the most so far) of this process; NaN where there is no such file."""
    if not STATUS.exists():
        return float("nan")
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def forget_peak() -> float:
    """Give back what loading left behind and begin the peak anew. Returns the memory held now."""
    gc.collect()
    if STATUS.exists():
        ctypes.CDLL(None).malloc_trim(0)
        STATUS.with_name("clear_refs").write_text("5")
    return megabytes("VmRSS")


def run(job: str, options: argparse.Namespace, *more: str) -> dict[str, float]:
    """The figures that this script prints in a process of its own, with further arguments."""
    command = [sys.executable, *sys.argv, *more, "--job", job, "--folder", str(options.folder)]
    variables = dict(os.environ, OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the process for {' '.join([job, *more])} failed")
    return json.loads(done.stdout.splitlines()[-1])


def run_job(
    options: argparse.Namespace,
    write_weights: Callable[[argparse.Namespace], None],
    measure_side: Callable[[argparse.Namespace], dict[str, float]],
    compare: Callable[[argparse.Namespace], None],
) -> None:
    """What this process is for: one of the jobs that `run` starts, or as the parent all of them in a folder."""
    if options.job == "weights":
        write_weights(options)
        print("{}")
    elif options.job:
        print(json.dumps(measure_side(options)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.folder = Path(folder)
            compare(options)


def print_comparison(title: str, options: argparse.Namespace, *more: str) -> None:
    """Measure each side `options.rounds` times, in turn, and print the medians and their ratio."""
    sides = ["official", "detkit"] if options.official else ["detkit"]
    figures: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            figures[side].append(run(side, options, *more))
    print(f"{title:20}" + "".join(f"{side:>12}" for side in sides) + ("   ratio" if options.official else ""))
    for name in figures["detkit"][0]:
        medians = [statistics.median(one[name] for one in figures[side]) for side in sides]
        ratio = f"{medians[0] / medians[1]:7.2f}x" if options.official else ""
        print(f"{name:20}" + "".join(f"{median:12.1f}" for median in medians) + ratio, flush=True)
