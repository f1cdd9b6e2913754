"""The scripts that look at the code itself."""

import importlib
import sys

import pytest
from paths import ROOT, TOOLS


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs a script of tools/ in this process and returns what it printed."""
    monkeypatch.syspath_prepend(TOOLS)

    def run_script(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        importlib.import_module(name).main()
        return capsys.readouterr().out

    return run_script


def test_the_code_keeps_its_sizes(run):
    """What CONTRIBUTING.md asks for."""
    rows = dict(line.split(": ", 1) for line in run("measure_code", str(ROOT / "detkit")).splitlines())
    assert int(rows["root modules"]) <= 6
    assert all(int(folder.split()[1]) <= 12 for folder in rows["largest folders"].split(", "))
    assert int(rows["functions (number, median, p95, largest)"].split(", ")[2]) <= 30
    documented, public = rows["public functions and methods with a docstring"].split(" (")[0].split(" of ")
    assert int(documented) >= 0.95 * int(public)
    assert rows["words that begin several file names"] == "none"


def test_the_walk_of_a_point(run):
    visited = [line.split()[1] for line in run("walk", "point").splitlines()[:-1]]
    for file in ("cli/predicting", "inference/points", "data/points/file", "pointseg/candidates", "files"):
        assert f"detkit/{file}.py" in visited
