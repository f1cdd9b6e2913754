"""Configs: plain Python files that end in a dict named `config`.

`load_config` runs the file, `apply_overrides` changes values from the command line, `resolve_config` checks the
keys and fills in the defaults below. Component dicts (with a "type") are checked when `detkit.registry.build`
calls their constructors.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import importlib
import json
import keyword
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.registry import ConfigError, suggest

REQUIRED = object()

# The options of each section with their defaults. Sections that name a component by "type" are not listed here.
SECTIONS: dict[str, dict[str, Any]] = {
    "data": dict(
        train=REQUIRED,  # dataset to learn from
        val=None,  # dataset to evaluate on; without one nothing is evaluated
        transforms=(),  # augmentations of the training images, in order
        batch_size=REQUIRED,  # images of one micro-batch of one process
        eval_batch_size=1,
        workers=2,  # data loading processes for each training process
        skip_broken=True,  # report images that cannot be read and go on; False ends the run at the first
    ),
    "optimizer": dict(
        type="AdamW",  # or another of OPTIMIZERS
        lr=1e-4,
        weight_decay=1e-4,
        backbone_lr_scale=1.0,  # the rate of the backbone is lr times this
    ),
    "train": dict(
        epochs=REQUIRED,
        init_from=None,  # detkit checkpoint, file or URL, whose weights a new run starts with; classes meet by name
        max_steps=None,  # stop after so many optimizer steps; the schedule stays that of all epochs
        seed=42,
        device="auto",  # "auto" is cuda where there is one, else cpu
        precision="auto",  # "auto" is bf16 autocast on cuda, fp32 on cpu; or "bf16", "fp32"
        accumulate=1,  # micro-batches of one optimizer step
        clip_norm=0.1,  # largest norm of all gradients together; None clips nothing
        ema=None,  # decay of an exponential moving average of the weights, which is then evaluated; None is off
        log_every=50,  # steps
        eval_every=1,  # epochs
        checkpoint_every=None,  # steps, besides the ends of epochs
        checkpoint_epochs=1,  # at the end of which epochs: of each, of every second, ...
        keep_steps=(),  # steps whose weights stay for good, as kept/step_….safetensors
        best_metric=None,  # the figure that chooses best.safetensors, higher is better; None is the evaluator's first
        early_stop=None,  # stop after so many evaluations without a better best_metric
        draw_samples=8,  # validation images drawn at the end
        tensorboard="auto",  # "auto" writes where tensorboard is installed; True insists; False does not
        profile_steps=0,  # steps to record with torch.profiler, after a few others
    ),
}
# The optimizers, each with its own options beside those of the section.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": dict(betas=(0.9, 0.999)),
    "Adam": dict(betas=(0.9, 0.999)),  # its weight decay is added to the gradient
    "SGD": dict(momentum=0.9),
}
# Options that must be whole numbers of at least so much (or None where that is the default).
MINIMUM = {
    **dict.fromkeys(("data.batch_size", "data.eval_batch_size", "train.epochs", "train.max_steps"), 1),
    **dict.fromkeys(("train.accumulate", "train.log_every", "train.eval_every", "train.checkpoint_every"), 1),
    **dict.fromkeys(("train.checkpoint_epochs",), 1),
    **dict.fromkeys(("train.early_stop",), 1),
    **dict.fromkeys(("data.workers", "train.seed", "train.draw_samples", "train.profile_steps"), 0),
}
COMPONENTS = ("model", "schedule", "evaluator")
TOP_LEVEL = (*COMPONENTS, *SECTIONS)
# The configs that come with detkit: inside the installed package, in a clone beside it.
_PACKAGE = Path(__file__).resolve().parent
SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
# Short names of the published ViDT models: vidt_swin_n, vidt_plus_swin_t, ...
SHORT_NAMES = {
    f"{model}_swin_{size[0]}": f"{model}_swin_{size}"
    for model in ("vidt", "vidt_plus")
    for size in ("nano", "tiny", "small", "base")
}
_data_folders: dict[str, tuple[str, str]] = {}  # environment variable -> (folder, default)


def load_config(source: str | Path) -> dict[str, Any]:
    """Run a config and return a copy of its `config`.

    While it runs, it can import what lies beside it, and the shipped configs and what they share by their names
    (`from quickstart import config`, `from _base.vidt import recipe`).

    Args:
        source: see `find_config`.

    Raises:
        ConfigError: no such config, an exception in it (with file and line), or no dict named `config`.
    """
    path = find_config(source)
    namespace: dict[str, Any] = {"__name__": "__config__", "__file__": str(path)}
    with _importable([path.parent, *_shipped_folders()]):
        try:
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
        except Exception as error:
            raise ConfigError(f"{_place(error, path)}: {type(error).__name__}: {error}") from error
    if not isinstance(namespace.get("config"), dict):
        raise ConfigError(f"{path}: must define a dict named 'config'")
    return copy.deepcopy(namespace["config"])


def find_config(source: str | Path) -> Path:
    """The file of a config: `source` itself where it is a .py file, else the shipped config of that name.

    Raises:
        ConfigError: there is neither; the message has the nearest files and names.
    """
    path, name = Path(source), str(source)
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    shipped = _shipped_files()
    if (long_name := SHORT_NAMES.get(name, name)) in shipped:
        return shipped[long_name]
    known = {**dict(zip(shipped, shipped, strict=True)), **SHORT_NAMES}
    known |= {file.stem: str(file) for file in path.parent.glob("*.py")}
    close = [path.stem] if path.stem in known else difflib.get_close_matches(path.stem, known, n=3)
    near = dict.fromkeys(known[stem] for stem in close)
    what = f"config file {path}" if path.suffix == ".py" else f"config {name}"
    hint = f"did you mean {' or '.join(near)}?" if near else "`detkit configs` lists those that come with detkit"
    raise ConfigError(f"{what} does not exist; {hint}")


def config_names() -> list[str]:
    """The names of the configs that come with detkit, sorted; see also `SHORT_NAMES`."""
    return sorted(_shipped_files())


def data_folder(variable: str, default: str) -> str:
    """For configs: the folder (or file) that an environment variable names, else `default`."""
    folder = os.environ.get(variable, default)
    _data_folders[variable] = (folder, default)
    return folder


def missing_data_hint(path: str | Path) -> str:
    """The end of a message that `path` is missing: which environment variable says where a config looks for it."""
    for variable, (folder, _) in _data_folders.items():
        if Path(path).is_relative_to(folder) and not Path(folder).exists():
            return f"; {folder} does not exist: set the environment variable {variable} to where it is"
    return ""


def apply_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `config` with `"a.b=value"` settings applied.

    Values are Python literals, else strings; `true`, `false` and `none` count in any case; list items are numbers
    (`data.transforms.0.p=1`). New keys are allowed where they are options of a section or arguments of a component.

    Raises:
        ConfigError: an unknown key, no "=", or a path that leads through something that has no keys.
    """
    config = copy.deepcopy(config)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"override {override!r}: expected path=value, for example train.epochs=12")
        *parents, last = path.strip().split(".")
        holder: Any = config
        if parents and parents[0] in TOP_LEVEL:
            config.setdefault(parents[0], {})
        for depth, key in enumerate(parents):
            holder = holder[_existing_key(holder, key, parents[:depth])]
        holder[_settable_key(holder, last, parents)] = _parse_value(text.strip())
    return config


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


def resolve_config(config: dict[str, Any]) -> dict[str, Any]:
    """The complete config of a run: checked, every option stated, and made of JSON types only.

    Raises:
        ConfigError: see `check_keys` and `to_json`; also a number out of its range.
    """
    check_keys(config)
    resolved = dict(config)
    for name in SECTIONS:
        section = config.get(name, {})
        resolved[name] = {**section_options(name, section), **section}
    resolved["schedule"] = {"type": "cosine", **config.get("schedule", {})}
    resolved["evaluator"] = {"type": "CocoEvaluator", **config.get("evaluator", {})}
    _check_values(resolved)
    return json.loads(to_json(resolved))


def to_json(config: dict[str, Any]) -> str:
    """`config` as JSON; tuples become lists.

    Raises:
        ConfigError: a value that JSON does not have; the message gives its path.
    """
    _check_storable(config, "config")
    return json.dumps(config, indent=2, allow_nan=False)


def format_config(config: dict[str, Any], *, portable: bool = False) -> str:
    """`config` as a Python file that `load_config` reads.

    Args:
        portable: let paths from `data_folder` follow the environment variable again.
    """
    folders = {variable: folder for variable, (folder, _) in _data_folders.items()} if portable else {}
    text = f"config = {_format(config, 0, folders)}\n"
    used = [variable for variable in folders if variable in text]
    if not used:
        return text
    calls = {variable: f"data_folder({_quoted(variable)}, {_quoted(_data_folders[variable][1])})" for variable in used}
    lines = "".join(f"{variable} = {call}\n" for variable, call in calls.items())
    return f"from detkit.config import data_folder\n\n{lines}\n{text}"


def differing_paths(first: Any, second: Any, path: str = "") -> list[str]:
    """The paths at which two configs of JSON types differ, sorted."""
    if isinstance(first, dict) and isinstance(second, dict):
        below = [differing_paths(first.get(k), second.get(k), f"{path}.{k}".lstrip(".")) for k in {**first, **second}]
        return sorted(p for paths in below for p in paths)
    return [] if first == second else [path]


def _shipped_files() -> dict[str, Path]:
    files = (path for folder in _shipped_folders() for path in folder.glob("*.py"))
    return {path.stem: path for path in files if path.stem not in SHORT_NAMES}


def _shipped_folders() -> list[Path]:
    """The folder of the shipped configs and those in it; names are unique over all of them."""
    return [SHIPPED, *sorted(path for path in SHIPPED.glob("[!_]*") if path.is_dir())]


@contextlib.contextmanager
def _importable(folders: Sequence[Path]) -> Iterator[None]:
    """Put `folders` first on the import path; forget afterwards what was imported from them."""
    importlib.invalidate_caches()
    before, path, write_bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = map(str, folders)
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, write_bytecode
        for name in [name for name in sys.modules if name.partition(".")[0] not in before]:
            origins = [getattr(sys.modules[name], "__file__", None), *getattr(sys.modules[name], "__path__", ())]
            if any(origin and Path(origin).is_relative_to(folder) for origin in origins for folder in folders):
                del sys.modules[name]


def _place(error: Exception, path: Path) -> str:
    """file:line of the innermost frame of the config file or of what lies beside it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).is_relative_to(path.parent)]
    return f"{ours[-1].filename}:{ours[-1].lineno}" if ours else str(path)


def _existing_key(holder: Any, key: str, parents: Sequence[str]) -> str | int:
    path = ".".join(parents) or "config"
    if isinstance(holder, (list, tuple)):
        if not key.isdigit() or int(key) >= len(holder):
            raise ConfigError(f"{path}: has {len(holder)} items, {key!r} is not the number of one of them")
        return int(key)
    if not isinstance(holder, dict):
        raise ConfigError(f"{path}: is {holder!r} and has no key {key!r}")
    if key not in holder:
        valid = {*map(str, holder), *(() if parents else TOP_LEVEL)}
        raise ConfigError(f"{path}: unknown key {key!r}{suggest(key, valid)}")
    return key


def _settable_key(holder: Any, key: str, parents: Sequence[str]) -> str | int:
    if isinstance(holder, tuple):
        raise ConfigError(f"{'.'.join(parents)}: is a tuple; set it as a whole, or make it a list in the config")
    if not isinstance(holder, dict) or "type" in holder or (len(parents) == 1 and parents[0] in COMPONENTS):
        return key if isinstance(holder, dict) else _existing_key(holder, key, parents)
    options: Iterable[str] = () if parents else TOP_LEVEL
    if len(parents) == 1 and parents[0] in SECTIONS:
        options = section_options(parents[0], holder)
    return _existing_key({**dict.fromkeys(options), **holder}, key, parents)


def _parse_value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def section_options(name: str, section: Any) -> dict[str, Any]:
    """The options of the section `name` with their defaults; those of the optimizer depend on its type.

    Raises:
        ConfigError: an unknown optimizer.
    """
    options = SECTIONS[name]
    if name != "optimizer":
        return options
    kind = section.get("type", options["type"]) if isinstance(section, dict) else options["type"]
    if kind not in OPTIMIZERS:
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


def _check_values(config: dict[str, Any]) -> None:
    for path, minimum in MINIMUM.items():
        section, key = path.split(".")
        value, optional = config[section][key], SECTIONS[section][key] is None
        if not (optional and value is None) and (type(value) is not int or value < minimum):
            raise ConfigError(f"{path}: must be a whole number of at least {minimum}, got {value!r}")
    kept = config["train"]["keep_steps"]
    if not isinstance(kept, (list, tuple)) or not all(type(step) is int and step >= 1 for step in kept):
        raise ConfigError(f"train.keep_steps: must be a list of steps, from 1, got {kept!r}")
    for key in ("lr", "weight_decay", "backbone_lr_scale"):
        value = config["optimizer"][key]
        if type(value) not in (int, float) or not value >= 0:
            raise ConfigError(f"optimizer.{key}: must be a number of at least 0, got {value!r}")
    _check_averages(config["optimizer"])


def _check_averages(optimizer: dict[str, Any]) -> None:
    betas, momentum = optimizer.get("betas", (0.0, 0.0)), optimizer.get("momentum", 0.0)
    if not (isinstance(betas, (list, tuple)) and len(betas) == 2 and all(map(_is_factor, betas))):
        raise ConfigError(f"optimizer.betas: must be two numbers from 0 to below 1, got {betas!r}")
    if not _is_factor(momentum):
        raise ConfigError(f"optimizer.momentum: must be a number from 0 to below 1, got {momentum!r}")


def _is_factor(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _check_storable(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{path}: key {key!r} is not a string, so the config cannot be stored")
            _check_storable(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_storable(item, f"{path}.{i}")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ConfigError(
            f"{path}: {value!r} ({type(value).__name__}) cannot be stored; use numbers, strings and lists"
        )
    elif isinstance(value, float) and value - value != 0:
        raise ConfigError(f"{path}: {value} is not finite and cannot be stored")


def _format(value: Any, depth: int, folders: Mapping[str, str]) -> str:
    """Python source; on one line where it fits, else one item a line."""
    if isinstance(value, str):
        return _format_text(value, folders)
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    if isinstance(value, dict):
        items = {key: _format(item, depth + 1, folders) for key, item in value.items()}
        as_call = all(key.isidentifier() and not keyword.iskeyword(key) for key in value)
        start, end = ("dict(", ")") if as_call else ("{", "}")
        parts = [f"{key}={item}" if as_call else f"{_quoted(key)}: {item}" for key, item in items.items()]
    else:
        start, parts, end = "[", [_format(item, depth + 1, folders) for item in value], "]"
    line = start + ", ".join(parts) + end
    if "\n" not in line and len(line) + 4 * depth <= 100:
        return line
    indent = "    " * (depth + 1)
    return start + "\n" + "".join(f"{indent}{part},\n" for part in parts) + "    " * depth + end


def _format_text(text: str, folders: Mapping[str, str]) -> str:
    """A string, in which a variable takes the place of the folder that it names."""
    for variable, folder in folders.items():
        rest = text.removeprefix(folder)
        if folder and text.startswith(folder) and (not rest or rest.startswith("/")):
            return "f" + _quoted(f"{{{variable}}}" + rest.replace("{", "{{").replace("}", "}}")) if rest else variable
    return _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a literal of Python as well
