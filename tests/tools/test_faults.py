"""Short versions of the tools that make faults on purpose."""

import importlib.util
import logging

from paths import TOOLS


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"faults_{name}", TOOLS / "faults" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_and_hostile_checkpoints_are_refused_or_harmless(tmp_path, capsys):
    tool = load_tool("checkpoints")
    logging.disable(logging.WARNING)
    try:
        assert tool.run(40, 1, tmp_path) == []
    finally:
        logging.disable(logging.NOTSET)
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 6 and all(" refused" in row for row in rows)


def test_what_is_neither_is_reported(tmp_path, monkeypatch):
    tool = load_tool("checkpoints")
    monkeypatch.setattr(tool, "load_model", lambda path: {}["raw"])
    failures = tool.run(4, 1, tmp_path)
    assert len(failures) == 6 and all("raw KeyError" in failure for failure in failures)
