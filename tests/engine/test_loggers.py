"""Loggers, with stand-ins for the libraries of the services."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from toy_run import toy_config

from detkit.engine.loggers import LOGGERS, build_logger, figures_of
from detkit.engine.runner import train
from detkit.engine.writers import Curves
from detkit.registry import ConfigError


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def services(monkeypatch):
    """Stand-ins for all three libraries; what was called, as (library, function, arguments)."""
    calls = []

    def noting(library, function, result=None):
        def call(*arguments, **options):
            calls.append((library, function, options or arguments))
            return result

        return call

    functions = {
        "wandb": dict(init=SimpleNamespace(id="w1"), log=None, finish=None),
        "trackio": dict(init=SimpleNamespace(name="run"), log=None, finish=None),
        "mlflow": dict(
            set_experiment=None,
            start_run=SimpleNamespace(info=SimpleNamespace(run_id="m1")),
            log_dict=None,
            log_metrics=None,
            end_run=None,
        ),
    }
    for library, known in functions.items():
        module = ModuleType(library)
        module.__spec__ = SimpleNamespace(name=library)
        for function, result in known.items():
            setattr(module, function, noting(library, function, result))
        monkeypatch.setitem(sys.modules, library, module)
    return calls


def test_all_rows_go_to_the_services_and_a_resumed_run_goes_on(services, tmp_path):
    config = toy_config(train__loggers=list(LOGGERS), train__epochs=1, train__max_steps=4)
    train(config, tmp_path / "run")
    begun = {library: options for library, function, options in services if function in ("init", "start_run")}
    assert begun["wandb"]["name"] == begun["trackio"]["name"] == begun["mlflow"]["run_name"] == "run"
    assert begun["wandb"]["project"] == "detkit" and begun["wandb"]["config"]["train"]["epochs"] == 1
    assert begun["wandb"]["id"] is None and begun["mlflow"]["run_id"] is None
    ended = [function for _, function, _ in services]
    assert ended.count("finish") == 2 and ended.count("end_run") == 1
    assert sum(function in ("log", "log_metrics") for function in ended) >= 9  # two rows of training, one evaluation
    assert json.loads((tmp_path / "run" / "loggers.json").read_text()) == dict(wandb="w1", mlflow="m1", trackio="run")
    services.clear()
    train({**config, "train": {**config["train"], "max_steps": 5}}, tmp_path / "run", resume=True)
    begun = {library: options for library, function, options in services if function in ("init", "start_run")}
    assert begun["wandb"]["id"] == "w1" and begun["mlflow"]["run_id"] == "m1" and begun["trackio"]["resume"] == "allow"


def test_figures_have_the_names_of_tensorboard():
    row = {"kind": "val", "step": 3, "epoch": 1, "AP": 0.5, "APs": float("nan")}
    assert figures_of(row) == {"val/epoch": 1, "val/AP": 0.5}


def test_unknown_and_missing_ones(monkeypatch):
    with pytest.raises(ConfigError, match=r"train.loggers: unknown logger 'wandbb', did you mean 'wandb'\?"):
        build_logger("wandbb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'trackio is not installed: pip install "detkit\[trackio\]"'):
        build_logger("trackio")
