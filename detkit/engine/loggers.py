"""Hooks that send the figures of a run to a service: Weights & Biases, MLflow, Trackio.

They are registered as data, and imported with their library when a config names them in `train.loggers`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detkit.engine.hook import Hook, Run
from detkit.files import write_json
from detkit.registry import ConfigError, suggest

PROJECT = "detkit"
RUN_IDS = "loggers.json"  # in the folder of a run: its id at each service, with which a resumed run goes on


class Logger(NamedTuple):
    """A registered logger: the dotted path of its hook, the library that it needs, and what pip calls the extra."""

    path: str
    library: str
    extra: str


LOGGERS = {
    "wandb": Logger("detkit.engine.loggers.Wandb", "wandb", "wandb"),
    "mlflow": Logger("detkit.engine.loggers.MLflow", "mlflow", "mlflow"),
    "trackio": Logger("detkit.engine.loggers.Trackio", "trackio", "trackio"),
}


def build_logger(name: str) -> Hook:
    """The hook of a logger.

    Raises:
        ConfigError: an unknown name, or a library that is not installed.
    """
    if name not in LOGGERS:
        raise ConfigError(f"train.loggers: unknown logger {name!r}{suggest(name, LOGGERS)}")
    path, library, extra = LOGGERS[name]
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f'train.loggers: {library} is not installed: pip install "detkit[{extra}]"')
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)()


def run_ids(out: Path) -> dict[str, str]:
    """The ids that a run has at services, by logger."""
    try:
        return dict(json.loads((out / RUN_IDS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def keep_run_id(out: Path, name: str, run_id: str) -> None:
    """Note the id of a run at a service, for when the run is resumed."""
    write_json(out / RUN_IDS, {**run_ids(out), name: run_id})


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row as `train/NAME` or `val/NAME`."""
    numbers = {name: value for name, value in row.items() if name not in ("kind", "step")}
    return {f"{row['kind']}/{name}": value for name, value in numbers.items() if math.isfinite(value)}


class Wandb(Hook):
    """All rows to Weights & Biases: project "detkit", a run of the name of the folder, with its config."""

    library = "wandb"

    def before_train(self, runner: Run) -> None:
        """Begin the run there, or go on with the one that it was."""
        self._service: Any = importlib.import_module(self.library)
        known = run_ids(runner.out).get(self.library)
        run = self._begin(runner, known)
        keep_run_id(runner.out, self.library, known or str(run))

    def _begin(self, runner: Run, run_id: str | None) -> str:
        """Begin or go on; the id of the run."""
        place = {"dir": str(runner.out), "id": run_id}
        run = self._service.init(
            project=PROJECT, name=runner.out.resolve().name, config=runner.config, resume="allow", **place
        )
        return run.id

    def on_row(self, runner: Run, row: dict[str, Any]) -> None:
        """Send the row."""
        self._service.log(figures_of(row), step=row["step"])

    def after_train(self, runner: Run) -> None:
        """End the run there."""
        self._service.finish()


class Trackio(Wandb):
    """All rows to Trackio, on this machine, whose functions are those of Weights & Biases; runs go on by their name."""

    library = "trackio"

    def _begin(self, runner: Run, run_id: str | None) -> str:
        name = run_id or runner.out.resolve().name
        self._service.init(project=PROJECT, name=name, config=runner.config, resume="allow")
        return name


class MLflow(Hook):
    """All rows to MLflow: experiment "detkit", a run of the name of the folder, with its config as config.json."""

    def before_train(self, runner: Run) -> None:
        """Begin the run there, or go on with the one that it was."""
        self._service: Any = importlib.import_module("mlflow")
        self._service.set_experiment(PROJECT)
        known = run_ids(runner.out).get("mlflow")
        run = self._service.start_run(run_id=known, run_name=None if known else runner.out.resolve().name)
        keep_run_id(runner.out, "mlflow", run.info.run_id)
        if known is None:
            self._service.log_dict(runner.config, "config.json")

    def on_row(self, runner: Run, row: dict[str, Any]) -> None:
        """Send the row."""
        self._service.log_metrics(figures_of(row), step=row["step"])

    def after_train(self, runner: Run) -> None:
        """End the run there."""
        self._service.end_run()
