"""Names for classes, and `build`, which turns `dict(type="Name", ...)` into an object."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

_components: dict[str, Callable] = {}
_lazy: dict[str, tuple[str, str]] = {}  # name -> ("package.module:attribute", pip extra)
_origins: dict[str, str] = {}  # name -> where it was registered from


class ConfigError(ValueError):
    """Something in a config is wrong; the message begins with the path inside the config."""


class UnknownComponentError(ConfigError):
    """Nothing is registered under the name that a config gives.

    Attributes:
        path: where in the config.
        name: the unknown name.
    """

    def __init__(self, path: str, name: str):
        super().__init__(f"{path}: nothing is registered as {name!r}{suggest(name, names())}")
        self.path, self.name = path, name


def register(target: Callable | str) -> Callable:
    """Class or function decorator: `@register` uses the object's own name, `@register("Name")` another one.

    Raises:
        ValueError: the name is taken by an object of another file or of another qualified name.
    """
    if not isinstance(target, str):
        return _add(target.__name__, target)
    return lambda component: _add(target, component)


def register_lazy(name: str, target: str, *, extra: str) -> None:
    """Register `"package.module:attribute"`, imported only when built; `extra` is the pip extra that it needs."""
    _claim(name, target)
    _lazy[name] = (target, extra)


def names() -> list[str]:
    """Every name that `build` knows, sorted."""
    return sorted(_origins)


def is_registered(name: str) -> bool:
    """Whether `build` knows the name."""
    return name in _origins


def lookup(name: str, path: str = "config") -> Callable:
    """What is registered under `name`.

    Raises:
        ConfigError: nothing is, or it needs a package that is not installed; the message begins with `path`.
    """
    if name in _components:
        return _components[name]
    if name not in _lazy:
        raise UnknownComponentError(path, name)
    target, extra = _lazy[name]
    module, attribute = target.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(f'{path}: {name} is not installed ({error}): pip install "detkit[{extra}]"') from error


def build(config: dict[str, Any], path: str = "config", **extra: Any) -> Any:
    """Call what `config["type"]` names with the other keys as arguments.

    Values that are dicts with a "type" (also inside lists, tuples and dicts) are built first.

    Args:
        path: where `config` stands in the whole config; error messages begin with it.
        extra: arguments that only the running program knows; `config` may not hold them as well.

    Raises:
        ConfigError: unknown name, unknown or missing argument, or a ValueError or TypeError of the constructor.
    """
    name, component = check(config, path, extra)
    arguments = {key: value for key, value in config.items() if key != "type"}
    arguments = {key: _build_value(value, f"{path}.{key}") for key, value in arguments.items()}
    try:
        return component(**arguments, **extra)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} ({name}): {error}{_nearest_argument(component, error)}") from error


def check(config: dict[str, Any], path: str = "config", extra: Iterable[str] = ()) -> tuple[str, Callable]:
    """What `build` would call, and its name; nothing is called yet.

    Args:
        path: as in `build`.
        extra: names of the arguments that only the running program knows.

    Raises:
        ConfigError: unknown name, unknown or missing argument, of this component; those inside of it are not checked.
    """
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise ConfigError(f"{path}: expected a dict with a registered name as 'type', got {config!r}")
    name, component = config["type"], lookup(config["type"], path)
    given, added = config.keys() - {"type"}, set(extra)
    for key in given & added:
        raise ConfigError(f"{path}.{key}: is set by the program, remove it from the config")
    _check_arguments(name, component, given | added, path)
    return name, component


def check_all(value: Any, path: str = "config", extra: Iterable[str] = ()) -> None:
    """`check` the component `value` and all components inside of it; nothing is called.

    Args:
        path: as in `build`.
        extra: names of the arguments of `value` itself that only the running program knows.

    Raises:
        ConfigError: see `check`.
    """
    if isinstance(value, dict):
        if "type" in value:
            check(value, path, extra)
        for key, item in value.items():
            check_all(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            check_all(item, f"{path}.{number}")


def suggest(name: str, valid: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest valid name, if one is near, and all valid names."""
    valid = sorted(valid)
    return (nearest(name, valid) or ".") + f" Valid: {', '.join(valid) or 'none'}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """ ", did you mean 'NAME'?" with the nearest valid name; "" where none is near."""
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _add(name: str, component: Callable) -> Callable:
    _claim(name, f"{component.__qualname__} in {getattr(sys.modules.get(component.__module__), '__file__', None)}")
    _components[name] = component
    return component


def _claim(name: str, origin: str) -> None:
    if _origins.setdefault(name, origin) != origin:
        raise ValueError(f"{name!r} is registered twice: {_origins[name]} and {origin}")


def _check_arguments(name: str, component: Callable, given: set[str], path: str) -> None:
    parameters = inspect.signature(component).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in sorted(given - {p.name for p in named}):
            raise ConfigError(f"{path}: unknown argument {key!r} of {name}{suggest(key, (p.name for p in named))}")
    missing = [p.name for p in named if p.default is p.empty and p.name not in given]
    if missing:
        raise ConfigError(f"{path}: missing argument {', '.join(map(repr, missing))} of {name}")


def _nearest_argument(component: Callable, error: Exception) -> str:
    """For an unknown argument that `component` passes on to the constructor of a base class: the nearest valid one."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None or not inspect.isclass(component):
        return ""
    constructors = [vars(base)["__init__"] for base in component.__mro__[:-1] if "__init__" in vars(base)]
    return nearest(unknown[1], {name for init in constructors for name in inspect.signature(init).parameters})


def _build_value(value: Any, path: str) -> Any:
    if isinstance(value, dict) and "type" in value:
        return build(value, path)
    if isinstance(value, dict):
        return {key: _build_value(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_build_value(item, f"{path}.{i}") for i, item in enumerate(value))
    return value
