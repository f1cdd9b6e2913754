"""Short versions of the tools that make faults on purpose."""

import importlib.util
import logging
import sys

import torch
from paths import TOOLS
from toy_run import toy_config

from detkit.engine.writers import Curves


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"faults_{name}", TOOLS / "faults" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
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


def test_kills_at_any_moment(capsys, monkeypatch):
    monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    tool, config = load_tool("kills"), toy_config(train__ema=0.9, train__checkpoint_every=4, train__log_every=5)
    monkeypatch.setattr(tool, "PROGRAMS", {"toy": (["train"], lambda: config)})
    assert tool.main(["--number", "6"]) == 0
    assert "6 of 6 equal" in capsys.readouterr().out


def test_a_difference_to_an_undisturbed_program_is_noticed():
    tool = load_tool("kills")
    one = {"last.safetensors": {"w": torch.tensor([1.0, 2.0])}, "metrics.jsonl": [{"step": 1, "loss": 0.5}]}
    assert tool.same(one, {**one, "last.safetensors": {"w": torch.tensor([1.0, 2.0])}})
    assert not tool.same(one, {**one, "last.safetensors": {"w": torch.tensor([1.0, 2.0000002])}})
    assert not tool.same(one, {**one, "metrics.jsonl": [{"step": 1, "loss": 0.5}, {"step": 1, "loss": 0.5}]})
    assert tool.differences(one, {"metrics.jsonl": one["metrics.jsonl"]}) == ["last.safetensors"]
