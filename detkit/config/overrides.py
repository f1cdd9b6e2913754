"""Settings from the command line: `--set a.b=value`."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from detkit.registry import ConfigError, suggest

# Gives the names that may be set at a path besides those that are there, for the path and the value there: None stands
# for any name, an empty iterable for no other.
Options = Callable[[Sequence[str], Any], "Iterable[str] | None"]


def set_values(config: dict[str, Any], settings: Sequence[str], options: Options) -> dict[str, Any]:
    """A copy of `config` with `"a.b=value"` settings applied.

    Values are Python literals, else strings; `true`, `false` and `none` count in any case; list items are numbers
    (`data.transforms.0.p=1`). New keys are allowed where `options` knows them, and as arguments of components.

    Raises:
        ConfigError: an unknown key, no "=", or a path that leads through something that has no keys.
    """
    config = copy.deepcopy(config)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"override {setting!r}: expected path=value, for example train.epochs=12")
        *parents, last = path.strip().split(".")
        holder: Any = config
        inside = False  # of a component
        for depth, key in enumerate(parents):
            _add_section(holder, key, parents[:depth], options)
            holder = holder[_existing_key(holder, key, parents[:depth], options)]
            inside = inside or (isinstance(holder, dict) and "type" in holder)
        if inside and isinstance(holder, dict):  # the check of the component's arguments knows the names
            holder[last] = parse_value(text.strip())
            continue
        holder[_settable_key(holder, last, parents, options)] = parse_value(text.strip())
    return config


def parse_value(text: str) -> Any:
    """A Python literal; True, False or None in any case; else the text itself.

    Digits with an underscore are a number where it parts thousands (10_000), else a text (the folder 2024_01).
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if re.fullmatch(r"\d+(_\d+)+", text) and not re.fullmatch(r"\d{1,3}(_\d{3})+", text):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _add_section(holder: Any, key: str, parents: Sequence[str], options: Options) -> None:
    """Put an empty dict under `key` where there is none and `options` knows what may be set in it."""
    if isinstance(holder, dict) and holder.get(key) is None:
        names = options([*parents, key], {})
        if names is None or names:
            holder[key] = {}


def _existing_key(holder: Any, key: str, parents: Sequence[str], options: Options) -> str | int:
    path = ".".join(parents) or "config"
    if isinstance(holder, (list, tuple)):
        if not key.isdigit() or int(key) >= len(holder):
            raise ConfigError(f"{path}: has {len(holder)} items, {key!r} is not the number of one of them")
        return int(key)
    if not isinstance(holder, dict):
        raise ConfigError(f"{path}: is {holder!r} and has no key {key!r}")
    if key in holder:
        return key
    names = set(options(parents, holder) or ())
    if key in names:
        raise ConfigError(f"{path}: {key!r} is not in the config, so nothing inside of it can be set")
    raise ConfigError(f"{path}: unknown key {key!r}{suggest(key, {*map(str, holder), *names})}")


def _settable_key(holder: Any, key: str, parents: Sequence[str], options: Options) -> str | int:
    if isinstance(holder, tuple):
        raise ConfigError(f"{'.'.join(parents)}: is a tuple; set it as a whole, or make it a list in the config")
    if not isinstance(holder, dict):
        return _existing_key(holder, key, parents, options)
    names = options(parents, holder)
    if "type" in holder or names is None:  # arguments of a component, which its constructor checks
        return key
    return key if key in names else _existing_key(holder, key, parents, options)
