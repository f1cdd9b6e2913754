"""`detkit train`: a config, or a folder of images whose format, recipe, weights and length are found out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detkit.config import SHORT_NAMES, apply_overrides, config_names, load_config, resolve_config
from detkit.config.overrides import parse_value
from detkit.console import Console
from detkit.engine.resume.run_folder import refuse_used_folder, stored_config
from detkit.engine.runner import Runner
from detkit.engine.runner import train as run
from detkit.pipelines.finetune import budget
from detkit.pipelines.finetune.data import TrainingData, is_data, name_of, prepare, refuse_other_source
from detkit.pipelines.finetune.recipe import LEAST_STEPS, make_config, with_data
from detkit.pipelines.finetune.start import Start, choose_start, start_from
from detkit.registry import ConfigError
from detkit.runtime.processes import distributed, is_main, on_main

# What trains on a CPU instead of configs that are meant for a GPU.
INSTEAD = {"finetune": "finetune_lite", "finetune_masks": "finetune_lite_masks"}


@dataclass(frozen=True)
class Request:
    """What `train` was asked for; see there."""

    config: str | Path | dict[str, Any] | None
    data: str | Path | None
    out: Path
    settings: tuple[str, ...]
    resume: bool
    format: str | None
    minutes: float | None

    def setting(self, path: str) -> str | None:
        """The text of a setting; None where there is none."""
        found = [text for key, _, text in (setting.partition("=") for setting in self.settings) if key.strip() == path]
        return found[-1].strip() if found else None


def train(
    config: str | Path | dict[str, Any] | None,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    set: Sequence[str] = (),
    resume: bool = False,
    format: str | None = None,
    minutes: float | None = None,
    freeze: str | None = None,
) -> Runner:
    """Train a model, on one's own images or as a config says; the command `detkit train`.

    Args:
        config: the name of a config, a file, or a dict; or a folder of images, a data.yaml or a json, for which device
            and data decide on the recipe and the weights to start from. A name of a config means the config.
        data: with a config, the folder, data.yaml or json to train on instead of its own data.
        out: folder of the run; by default runs/NAME, by the config or the data.
        set: settings such as "train.epochs=12"; they come after all that is found out.
        resume: continue the run in `out`.
        format: of the data, one of `detkit.data.formats.FORMATS`, where it is in doubt.
        minutes: train about so long on this machine; the schedule spans that time. What was found out stands in the
            config of the run, which `resume` takes.
        freeze: "backbone" leaves the weights of the backbone as they are.

    Returns:
        The finished run: `out`, its folder; `metrics`, the last validation figures; `interrupted`.

    Raises:
        ValueError: wrong data, config or options; the message says where and what to do.
    """
    if is_data(config) and str(config) not in (*config_names(), *SHORT_NAMES):
        if data is not None:
            raise ConfigError(f"{config} and {data} are both data: name a config and data, or data alone")
        config, data = None, config
    if config is None and data is None:
        raise ConfigError("name a config, or data to train on")
    settings = (*set, *([] if freeze is None else [f"train.freeze={freeze}"]))
    place = Path(out) if out is not None else default_out(data if config is None else config)
    request = Request(config, data, place, settings, resume, format, minutes)
    if data is None and minutes is None:
        return _train_config(request)
    with distributed(request.setting("train.device") or "auto") as device:
        return run(_found_out(request, device), place, resume=resume)


def default_out(source: Any) -> Path:
    """The folder of a run of a config or of data: runs/NAME.

    Raises:
        ConfigError: a config that is a dict has no name.
    """
    if isinstance(source, dict):
        raise ConfigError("a config that is a dict has no name: say where its run goes, as `out`")
    return Path("runs") / (name_of(source) if is_data(source) else Path(source).stem)


def _train_config(request: Request) -> Runner:
    config = apply_overrides(_loaded(request.config), request.settings)
    say_instead(request.config, resolve_config(config)["train"]["device"])
    return run(config, request.out, resume=request.resume)


def _loaded(config: Any) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    try:
        return load_config(config)
    except ConfigError as error:
        if Path(config).exists() or str(config) in (*config_names(), *SHORT_NAMES):
            raise
        raise ConfigError(f"{config} is neither a folder or file of data nor a config: {error}") from error


def say_instead(config: Any, device: str) -> None:
    """Say which config to take where one that is meant for a GPU is trained on a CPU."""
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if str(config) in INSTEAD and not on_gpu and is_main():
        print(
            f"{config} is meant for a GPU, and this run has none: `detkit train {INSTEAD[str(config)]}` is for a CPU, "
            "and `detkit train FOLDER` chooses by itself"
        )


def _found_out(request: Request, device: torch.device) -> dict[str, Any]:
    """The config of a run on data or for so many minutes; of one that is resumed the config that it has."""
    started = time.monotonic()
    if request.resume and (request.out / "config.json").is_file():
        if request.data is not None:
            refuse_other_source(request.data, request.out / "data")
        return on_main(lambda: apply_overrides(stored_config(request.out), request.settings))
    say = Console(sys.stdout if is_main() else None).line
    fixed = request.setting("train.epochs") is not None
    if request.minutes is not None and (fixed or not request.minutes > 0):
        raise ConfigError("--minutes: must be above 0, and says how many epochs there are: leave out train.epochs")
    config = on_main(lambda: _chosen(request, device, say))
    speed = _measured(config, device)
    if request.minutes is not None:
        config = budget.fit(config, speed, request.minutes * 60 - (time.monotonic() - started))
    else:
        least = -(-LEAST_STEPS // speed.steps_per_epoch) if request.config is None and not fixed else 1
        epochs = max(config["train"]["epochs"], least)
        config = {**config, "train": {**config["train"], "epochs": epochs}}
        config = budget.with_evaluations(config, speed) if request.config is None else config
    config = apply_overrides(budget.with_short_warmup(config, speed), request.settings)
    config = on_main(lambda: config)  # what the main process has measured
    say(f"time   {budget.expected(resolve_config(config), speed)}")
    return config


def _chosen(request: Request, device: torch.device, say: Any) -> dict[str, Any]:
    """The config but for its length, which the speed of this machine decides; says what was found."""
    refuse_used_folder(request.out, resume=request.resume)
    if request.data is None:
        config = _loaded(request.config)
        say_instead(request.config, device.type)
        return apply_overrides(config, request.settings)
    data = prepare(request.data, request.out / "data", format=request.format)
    say(f"device {_describe(device)}")
    say(f"data   {data.summary()}")
    if request.config is not None:
        say_instead(request.config, device.type)
        return apply_overrides(with_data(_loaded(request.config), data), request.settings)
    start = _start(request, data, device)
    for problem in start.lacking:
        say(f"       {problem}")
    config = apply_overrides(make_config(data, start, device.type), request.settings)
    rule = config["model"]["input_rule"]
    say(f"model  {config['model']['type']} by the recipe {start.recipe}, images of {rule['shortest']} pixels")
    say(f"start  {start.words}")
    return config


def _start(request: Request, data: TrainingData, device: torch.device) -> Start:
    """From the weights that a setting names; otherwise from the best that can be had."""
    given = request.setting("train.init_from")
    source = None if given is None else parse_value(given)
    return start_from(source, masks=data.has_masks) if source else choose_start(device, masks=data.has_masks)


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)} with {memory:.0f} GiB"
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads != 1)}"


def _measured(config: dict[str, Any], device: torch.device) -> budget.Speed:
    """The speed of the run; where the memory of a GPU does not suffice, with smaller batches, which add up."""
    while True:
        try:
            return budget.measure(config, device)
        except torch.cuda.OutOfMemoryError:
            size, train = config["data"]["batch_size"], config["train"]
            if size == 1:
                raise
            config["data"]["batch_size"] = size // 2
            train["accumulate"] = train.get("accumulate", 1) * 2
            torch.cuda.empty_cache()
