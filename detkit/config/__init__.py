"""Configs: plain Python files that end in a dict named `config`.

`load_config` runs the file, `apply_overrides` changes values from the command line, `resolve_config` checks the
keys and the values (their types and ranges are in `detkit.config.types`) and fills in the defaults below. Component
dicts (with a "type") are checked by `detkit.runtime.components.check_components`, before the first of them is built.
"""

from __future__ import annotations

import copy
import json
import os
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detkit.config.overrides import set_values
from detkit.config.shipped import (
    SHORT_NAMES,
    config_names,
    data_folder,
    find_config,
    importable,
    missing_data_hint,
    shipped_folders,
)
from detkit.config.text import differing_paths, format_config, to_json
from detkit.config.types import TYPES
from detkit.registry import ConfigError, check_value, suggest

__all__ = [
    "REQUIRED",
    "SECTIONS",
    "SHORT_NAMES",
    "TYPES",
    "absolute_imports",
    "apply_overrides",
    "check_hooks",
    "check_keys",
    "check_options",
    "check_sections",
    "check_types",
    "config_names",
    "data_folder",
    "differing_paths",
    "error_place",
    "find_config",
    "format_config",
    "load_config",
    "missing_data_hint",
    "resolve_config",
    "run_options",
    "section_options",
    "to_json",
]

REQUIRED = object()

# The options of each section with their defaults. Sections that name a component by "type" are not listed here.
SECTIONS: dict[str, dict[str, Any]] = {
    "data": dict(
        train=REQUIRED,  # dataset to learn from
        val=None,  # dataset to evaluate on; without one nothing is evaluated
        transforms=(),  # augmentations of the training images, in order
        batch_size=REQUIRED,  # images of one micro-batch of one process
        eval_batch_size=1,  # images of one evaluation batch of one process
        workers=2,  # data loading processes for each training process
        skip_broken=True,  # report images that cannot be read and go on; False ends the run at the first
    ),
    "optimizer": dict(
        type="AdamW",  # or "Adam", "SGD"
        lr=1e-4,  # initial learning rate
        weight_decay=1e-4,  # of the parameters that the model does not exempt
        backbone_lr_scale=1.0,  # the rate of the backbone is lr times this
    ),
    "train": dict(
        epochs=REQUIRED,  # passes over the training data; the schedule spans them
        init_from=None,  # checkpoint, published name or URL, whose weights a new run starts with; classes meet by name
        freeze=None,  # "backbone": its weights stay as they are; [DET] tokens and layers that are new learn
        max_steps=None,  # stop after so many optimizer steps; the schedule stays that of all epochs
        seed=42,  # of initial weights, the order of the data and augmentations
        device="auto",  # "auto" is cuda where there is one, else cpu
        precision="auto",  # "auto" is bf16 autocast on cuda, fp32 on cpu; or "bf16", "fp32"
        accumulate=1,  # micro-batches of one optimizer step
        clip_norm=0.1,  # largest norm of all gradients together; None clips nothing
        ema=None,  # decay of an exponential moving average of the weights, which is then evaluated; None is off
        log_every=50,  # steps between two lines of metrics
        eval_every=1,  # epochs between two evaluations
        first_eval=None,  # step of an evaluation before those of eval_every, to see something early
        checkpoint_every=None,  # steps between two checkpoints, besides those at the ends of epochs
        checkpoint_epochs=1,  # a checkpoint at the end of every so many epochs
        keep_steps=(),  # steps whose weights stay for good, as kept/step_….safetensors
        best_metric=None,  # the figure that chooses best.safetensors, higher is better; None is the evaluator's first
        early_stop=None,  # stop after so many evaluations without a better best_metric
        draw_samples=8,  # validation images drawn after each evaluation and at the end
        tensorboard="auto",  # "auto" writes where tensorboard is installed; True insists; False does not
        loggers=(),  # services that get the figures too: "wandb", "mlflow", "trackio"
        profile_steps=0,  # steps to record with torch.profiler, after a few others
    ),
}
# The optimizers, each with its own options beside those of the section.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": dict(
        betas=(0.9, 0.999),  # decay of the averages of gradients and squared gradients
    ),
    # Its weight decay is added to the gradient.
    "Adam": dict(
        betas=(0.9, 0.999),  # as AdamW
    ),
    "SGD": dict(
        momentum=0.9,  # 0 turns it off
    ),
}
COMPONENTS = ("model", "schedule", "evaluator")
LISTS = (
    "imports",  # modules, or .py files relative to the config's folder, that register components of your own
    "hooks",  # components with the methods of `detkit.engine.hook.Hook`, called after those of detkit
)
TOP_LEVEL = (*COMPONENTS, *SECTIONS, *LISTS)


def load_config(source: str | Path) -> dict[str, Any]:
    """Run a config and return a copy of its `config`.

    While it runs, it can import what lies beside it, and the shipped configs and what they share by their names
    (`from quickstart import config`, `from _base.vidt import recipe`). Files among its `imports` are absolute paths in
    the copy.

    Args:
        source: see `find_config`.

    Raises:
        ConfigError: no such config, an exception in it (with file and line), or no dict named `config`.
    """
    path = find_config(source)
    namespace: dict[str, Any] = {"__name__": "__config__", "__file__": str(path)}
    with importable([path.parent, *shipped_folders()]):
        try:
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
        except Exception as error:
            place = error_place(error, path.parent) or path
            raise ConfigError(f"{place}: {type(error).__name__}: {error}") from error
    if not isinstance(namespace.get("config"), dict):
        raise ConfigError(f"{path}: must define a dict named 'config'")
    config = copy.deepcopy(namespace["config"])
    return {**config, "imports": absolute_imports(config["imports"], path.parent)} if "imports" in config else config


def run_options(path: Sequence[str], holder: Any) -> Iterable[str] | None:
    """The names that may be set at a path of a run's config; see `detkit.config.overrides.Options`."""
    if len(path) > 1:
        return ()
    if not path:
        return TOP_LEVEL
    if path[0] in COMPONENTS:
        return None
    return section_options(path[0], holder) if path[0] in SECTIONS else ()


def apply_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a run's `config` with `"a.b=value"` settings applied, see `detkit.config.overrides.set_values`.

    Raises:
        ConfigError: an unknown key, no "=", or a path that leads through something that has no keys.
    """
    return set_values(config, overrides, run_options)


def check_keys(config: dict[str, Any]) -> None:
    """Check the names of all options outside of components.

    Raises:
        ConfigError: an unknown or a missing option, with the valid names.
    """
    check_options(config, dict.fromkeys(TOP_LEVEL), "config")
    for name in ("model", "data", "train"):
        if name not in config:
            raise ConfigError(f"config: section {name!r} is missing")
    for name in SECTIONS:
        section = config.get(name, {})
        options = section_options(name, section)
        of_type = {**options, **section}.get("type") if isinstance(section, dict) else None
        check_options(section, options, f"{name} ({of_type})" if of_type else name)
        missing = [key for key, default in options.items() if default is REQUIRED and key not in section]
        if missing:
            raise ConfigError(f"{name}: option {missing[0]!r} is missing")


def check_sections(config: dict[str, Any]) -> None:
    """Check that the sections of a run's config which are there are dicts.

    Raises:
        ConfigError: one is not; the message begins with its name.
    """
    for name in (*COMPONENTS, *SECTIONS):
        if name in config:
            check_value(config[name], dict[str, Any], name)


def resolve_config(config: dict[str, Any]) -> dict[str, Any]:
    """The complete config of a run: checked, every option stated, and made of JSON types only.

    Raises:
        ConfigError: see `check_keys` and `to_json`; also a number out of its range.
    """
    check_sections(config)
    check_keys(config)
    resolved = dict(config)
    for name in SECTIONS:
        section = config.get(name, {})
        resolved[name] = {**section_options(name, section), **section}
    for name, default in (("schedule", "cosine"), ("evaluator", "CocoEvaluator")):
        resolved[name] = {"type": default, **config.get(name, {})}
    resolved["imports"] = absolute_imports(config.get("imports", ()), Path.cwd())
    resolved["hooks"] = check_hooks(config.get("hooks", ()))
    for name in SECTIONS:
        check_types(resolved[name], TYPES[name], name)
    return json.loads(to_json(resolved))


def absolute_imports(imports: Any, folder: Path) -> list[str]:
    """`imports` with the paths of .py files, which are relative to `folder`, made absolute; module names stay.

    Raises:
        ConfigError: not a list of strings.
    """
    if not isinstance(imports, (list, tuple)) or not all(isinstance(name, str) for name in imports):
        raise ConfigError(f"imports: expected a list of module names and .py files, got {imports!r}")
    return [os.path.abspath(folder / name) if name.endswith(".py") else name for name in imports]


def check_hooks(hooks: Any) -> list[dict[str, Any]]:
    """`hooks` as a list.

    Raises:
        ConfigError: not a list of dicts.
    """
    if not isinstance(hooks, (list, tuple)) or not all(isinstance(hook, dict) for hook in hooks):
        raise ConfigError(f"hooks: expected a list of dicts such as dict(type='MyHook'), got {hooks!r}")
    return list(hooks)


def error_place(error: Exception, code: Path) -> str:
    """ "file:line" of the innermost frame in `code`, a file or a folder; "" where no frame is."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename).is_relative_to(code)]
    return f"{inside[-1].filename}:{inside[-1].lineno}" if inside else ""


def section_options(name: str, section: Any) -> dict[str, Any]:
    """The options of the section `name` with their defaults; those of the optimizer depend on its type.

    Raises:
        ConfigError: an unknown optimizer.
    """
    options = SECTIONS[name]
    if name != "optimizer":
        return options
    kind = section.get("type", options["type"]) if isinstance(section, dict) else options["type"]
    if not isinstance(kind, str) or kind not in OPTIMIZERS:
        raise ConfigError(f"optimizer.type: unknown optimizer {kind!r}{suggest(str(kind), OPTIMIZERS)}")
    return {**options, **OPTIMIZERS[kind]}


def check_options(section: Any, options: Iterable[str], path: str) -> None:
    """Check that `section` is a dict with no other keys than `options`.

    Raises:
        ConfigError: it is not; the message begins with `path`.
    """
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: expected a dict, got {section!r}")
    for key in section:
        if key not in options:
            raise ConfigError(f"{path}: unknown option {key!r}{suggest(str(key), options)}")


def check_types(section: dict[str, Any], types: dict[str, Any], path: str) -> None:
    """Check the values of a section against their types and ranges.

    Raises:
        ConfigError: a value of another type or out of its range; the message begins with its path.
    """
    for key, value in section.items():
        check_value(value, types.get(key, Any), f"{path}.{key}")
