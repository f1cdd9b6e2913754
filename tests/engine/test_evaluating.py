import pytest
import torch
from toy_run import toy_config

from detkit.engine.runner import train
from detkit.engine.writers import Curves, DrawSamples, read_metrics


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize(("first", "steps"), [(4, [4, 6, 12, 18]), (6, [6, 12, 18]), (None, [6, 12, 18])])
def test_an_early_evaluation_changes_nothing_else(first, steps, tmp_path):
    early = train(toy_config(train__first_eval=first), tmp_path / "early")
    plain = train(toy_config(), tmp_path / "plain")
    rows = [row["step"] for row in read_metrics(tmp_path / "early" / "metrics.jsonl") if row["kind"] == "val"]
    assert rows == steps and early.model.training == plain.model.training
    assert all(torch.equal(a, b) for a, b in zip(early.model.parameters(), plain.model.parameters(), strict=True))


def test_samples_are_drawn_once_for_each_evaluation(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("detkit.engine.writers.draw_samples", lambda *arguments: drawn.append(arguments[2:]))
    runner = train(toy_config(train__epochs=2, train__draw_samples=3), tmp_path / "run")
    assert drawn == [(3, tmp_path / "run" / "samples")] * 2
    assert any(isinstance(hook, DrawSamples) for hook in runner.hooks)
