"""Trainings that are stages of a larger program."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from detkit.config import SECTIONS, format_config, resolve_config
from detkit.engine.evaluating import check_evaluation
from detkit.engine.resume.resumable import EVALUATION, MAY_CHANGE
from detkit.engine.runner import train
from detkit.engine.schedules import build_schedule
from detkit.files import write_text
from detkit.registry import ConfigError, build, check
from detkit.runtime.components import build_dataset, build_evaluator, build_model, import_components
from detkit.runtime.evaluate import autocast
from detkit.runtime.processes import choose_device
from detkit.structures import LabelMap

MANY_STEPS = 1_000_000  # of an epoch of a run whose data is not there yet
# The part of MAY_CHANGE that decides what comes out of a run: its weights or its figures.
RESULT = EVALUATION | {"train.epochs", "train.max_steps", "train.early_stop"}


def coco_data(labels: Path, image_folder: Path, *, drop_empty: bool = True) -> dict[str, Any]:
    """The config of a dataset of images with masks; absolute paths allow to resume a run from any folder."""
    files = {"annotation_file": os.path.abspath(labels), "image_folder": os.path.abspath(image_folder)}
    return {"type": "CocoDataset", **files, "masks": True, "drop_empty": drop_empty}


def run_config(
    section: dict[str, Any], train_data: dict[str, Any] | None, val_data: dict[str, Any] | None
) -> dict[str, Any]:
    """The config of a run: a section of a program's config with the datasets; by default mask AP is measured."""
    config = {"evaluator": {"type": "CocoEvaluator", "iou_types": ["segm"]}, **section}
    return {**config, "data": {**section["data"], "train": train_data, "val": val_data}}


def error_inside(name: str, error: ValueError) -> ConfigError:
    """An error of the run `name`; that of its config begins with the path in the config of the whole program."""
    text = str(error)
    if not isinstance(error, ConfigError):
        return ConfigError(f"{name}: {text}")
    return ConfigError(name + text.removeprefix("config") if text.startswith("config") else f"{name}.{text}")


def stable_part(section: dict[str, Any]) -> dict[str, Any]:
    """A run's section without the options that do not change its result, such as `train.log_every`."""
    stable = copy.deepcopy(section)
    for path in MAY_CHANGE - RESULT:
        name, _, key = path.rpartition(".")
        (stable.get(name, {}) if name else stable).pop(key, None)
    return stable


def check_run(config: dict[str, Any], name: str, label_map: LabelMap) -> None:
    """Build all parts of a run but its training data, to find mistakes before earlier stages train for hours.

    Where it has validation data, one sample of it is evaluated.

    Args:
        config: as `run_config` makes it.
        name: of its section, for messages.
        label_map: the classes of its data.

    Raises:
        ConfigError: what `train` would raise for these parts; the message begins with the path in the whole config.
    """
    import_components()
    try:
        config = resolve_config({**config, "train": {"epochs": 1, **config["train"]}})
        autocast(config["train"]["precision"], choose_device(config["train"]["device"]))
        check(config["data"]["train"], "data.train")
        for number, transform in enumerate(config["data"]["transforms"]):
            build(transform, path=f"data.transforms.{number}")
        build_schedule(config, steps_per_epoch=config["train"]["max_steps"] or MANY_STEPS)
        check(config["evaluator"], "evaluator", ["dataset"])
        model = build_model(config["model"], label_map)
        if config["data"]["val"] is not None:
            val = build_dataset(config["data"]["val"], "data.val")
            check_evaluation(config, model, val, build_evaluator(config, val))
    except ValueError as error:
        raise error_inside(name, error) from error


def train_in(folder: Path, config: dict[str, Any], *, processes: int = 1) -> None:
    """Train in `folder`, or resume the run that was stopped there.

    Args:
        folder: of the run.
        config: of the run. Without `train.epochs` there are as many epochs as `train.max_steps` needs.
        processes: of the training; more than one are started by torchrun.

    Raises:
        KeyboardInterrupt: the run was stopped.
        ChildProcessError: one of several processes failed.
    """
    config = with_epochs(config, processes)
    resume = folder.exists()
    if processes > 1:
        _torchrun(folder, config, processes, resume)
    elif train(config, folder, resume=resume).interrupted:
        raise KeyboardInterrupt


def with_epochs(config: dict[str, Any], processes: int) -> dict[str, Any]:
    """`config` with `train.epochs` computed from `train.max_steps`, if it does not state them.

    Raises:
        ConfigError: the images do not fill one step.
    """
    if "epochs" in config["train"]:
        return config
    steps = steps_per_epoch(config, processes)
    return {**config, "train": {**config["train"], "epochs": math.ceil(config["train"]["max_steps"] / steps)}}


def steps_per_epoch(config: dict[str, Any], processes: int) -> int:
    """Number of optimizer steps of a run's epoch.

    Raises:
        ConfigError: the images do not fill one step.
    """
    import_components()
    images = len(build(config["data"]["train"], path="data.train"))
    batch = config["data"]["batch_size"] * processes
    accumulate = config["train"].get("accumulate", SECTIONS["train"]["accumulate"])
    if images < batch:
        raise ConfigError(f"data.batch_size: {batch} images a step, but there are only {images} to learn from")
    return math.ceil(images // batch / accumulate)


def _torchrun(folder: Path, config: dict[str, Any], processes: int, resume: bool) -> None:
    path = folder.parent / "run.py"
    text = format_config(resolve_config(config))
    write_text(path, text)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, "-m", "detkit", "train", str(path), "--out", str(folder)]
    code = subprocess.run([*command, "--resume"] if resume else command, check=False).returncode
    if code:
        raise ChildProcessError(f"training in {folder} ended with exit code {code}; see its output above")
