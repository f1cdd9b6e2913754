"""Hooks that a config names."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_run import toy_config

from detkit.engine.hook import Hook
from detkit.engine.hooks import ReturnMemory
from detkit.engine.runner import train
from detkit.engine.writers import Curves
from detkit.registry import ConfigError, register


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@register
class Events(Hook):
    """Notes in which state the run is at each event."""

    def __init__(self, every=1):
        self.every, self.seen = every, []

    def before_train(self, runner):
        self.seen.append(("before", runner.step))

    def after_step(self, runner):
        if runner.step % self.every == 0:
            self.seen.append(("step", runner.step))

    def after_epoch(self, runner):
        self.seen.append(("epoch", runner.evaluated_at, (runner.out / "best.safetensors").is_file()))

    def after_train(self, runner):
        self.seen.append(("after", (runner.out / "last.safetensors").is_file()))

    def on_row(self, runner, row):
        self.seen.append((row["kind"], row["step"]))


def test_hooks_of_the_config_come_after_our_own(tmp_path):
    config = toy_config(hooks=[dict(type="Events", every=4)], train__epochs=1, train__log_every=3)
    seen = train(config, tmp_path / "run").hooks[-1].seen
    steps = [("train", 3), ("step", 4), ("train", 6)]
    assert seen == [("before", 0), *steps, ("val", 6), ("epoch", 6, True), ("after", True)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_free_memory_goes_back_every_few_steps():
    def resident_mb():
        return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

    hook, run = ReturnMemory(every=3), SimpleNamespace(step=2)
    blocks = [bytes(5000) for _ in range(40_000)]
    kept = blocks[::100]  # what keeps the C library from giving back the rest by itself
    del blocks
    full = resident_mb()
    hook.after_step(run)
    assert resident_mb() > full - 20
    run.step = 3
    hook.after_step(run)
    assert resident_mb() < full - 100 and len(kept) == 400


def test_hooks_change_no_number_and_belong_to_the_run(tmp_path):
    plain = train(toy_config(), tmp_path / "plain")
    hooked = train(toy_config(hooks=[dict(type="Events")]), tmp_path / "run")
    weights = hooked.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.model.state_dict().items())
    with pytest.raises(ConfigError, match=r"cannot be resumed with another config:\n  hooks: "):
        train(toy_config(), tmp_path / "run", resume=True)
    elsewhere = toy_config(hooks=[dict(type="Events")], imports=["json"])
    assert train(elsewhere, tmp_path / "run", resume=True).step == hooked.step


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (dict(type="ToyEvaluator", dataset=None), r"hooks\.0: ToyEvaluator is no hook: make it a subclass of"),
        (dict(type="Event"), r"hooks\.0: nothing is registered as 'Event', did you mean 'Events'"),
        (dict(type="Events", evry=1), r"hooks\.0: unknown argument 'evry' of Events, did you mean 'every'"),
    ],
)
def test_what_is_no_hook(tmp_path, hook, message):
    with pytest.raises(ConfigError, match=message):
        train(toy_config(hooks=[hook]), tmp_path / "run")
