"""Names for classes, and `build`, which turns `dict(type="Name", ...)` into an object."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from detkit.registry.errors import ConfigError
from detkit.registry.ranges import AsIs, OptionsOf
from detkit.registry.values import describe, evaluated, fits, literals, option_marks, parameters_of, shown, wants_path

__all__ = [
    "ConfigError",
    "UnknownComponentError",
    "accepted_arguments",
    "build",
    "check",
    "check_all",
    "check_options",
    "check_value",
    "is_registered",
    "lookup",
    "names",
    "nearest",
    "register",
    "register_lazy",
    "suggest",
]

_components: dict[str, Callable] = {}
_lazy: dict[str, tuple[str, str]] = {}  # name -> ("package.module:attribute", pip extra)
_origins: dict[str, str] = {}  # name -> where it was registered from


class UnknownComponentError(ConfigError):
    """Nothing is registered under the name that a config gives.

    Attributes:
        path: where in the config.
        name: the unknown name.
    """

    def __init__(self, path: str, name: str):
        super().__init__(f"{path}: nothing is registered as {shown(name)}{suggest(name, names())}")
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

    Values that are dicts with a "type" (also inside lists, tuples and dicts) are built first, unless the argument is
    marked by `detkit.registry.ranges.AsIs`.

    Args:
        path: where `config` stands in the whole config; error messages begin with it.
        extra: arguments that only the running program knows; `config` may not hold them as well.

    Raises:
        ConfigError: unknown name, unknown or missing argument, an object in the wrong place, or an error of the
            constructor.
    """
    name, component = check(config, path, extra)
    known = accepted_arguments(component)
    arguments = {key: value for key, value in config.items() if key != "type"}
    arguments = {
        key: value if _is_handed_over(known.get(key)) else _build_value(value, f"{path}.{key}")
        for key, value in arguments.items()
    }
    arguments = _with_paths(arguments, known)
    try:
        return component(**arguments, **extra)
    except AttributeError as error:
        raise _misplaced(error, name, path, {**arguments, **extra}) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} ({name}): {error}{_nearest_argument(component, error)}") from error
    except (ArithmeticError, AssertionError, LookupError) as error:
        raise ConfigError(f"{path} ({name}): {type(error).__name__}: {error}") from error


def check(config: dict[str, Any], path: str = "config", extra: Iterable[str] = ()) -> tuple[str, Callable]:
    """What `build` would call, and its name; nothing is called yet.

    Arguments must be what the annotations of the constructor ask for, also with a range, see `detkit.registry.ranges`.

    Args:
        path: as in `build`.
        extra: names of the arguments that only the running program knows.

    Raises:
        ConfigError: unknown name, unknown, missing or wrong argument, of this component; those of components inside of
            it are not checked.
    """
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise ConfigError(f"{path}: expected a dict with a registered name as 'type', got {config!r}")
    name, component = config["type"], lookup(config["type"], path)
    given, added = config.keys() - {"type"}, set(extra)
    for key in given & added:
        raise ConfigError(f"{path}.{key}: is set by the program, remove it from the config")
    _check_names(name, component, given, added, path)
    known = accepted_arguments(component)
    values = _with_paths(config, known)
    for key in given & known.keys():
        _check_argument(values[key], known[key], f"{path}.{key}")
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
        known = accepted_arguments(check(value, path, extra)[1]) if "type" in value else {}
        for key, item in value.items():
            if not _is_handed_over(known.get(key)):
                check_all(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            check_all(item, f"{path}.{number}")


def check_value(value: Any, wanted: Any, path: str) -> None:
    """Check one value against a type, which may have a range, see `detkit.registry.ranges`.

    Raises:
        ConfigError: the value is another; the message begins with `path` and says what is wanted.
    """
    if not fits(value, wanted, _makes):
        for number, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
            if isinstance(item, Mapping) and get_origin(wanted) is Sequence:
                check_value(item, get_args(wanted)[0], f"{path}.{number}")
        raise ConfigError(f"{path}: must be {describe(wanted)}, got {shown(value)}{_near_choice(value, wanted)}")
    if isinstance(value, Mapping):
        for mark in option_marks(wanted):
            check_options(value, mark, path)


def _near_choice(value: Any, wanted: Any) -> str:
    """`nearest` for a misspelt text, alone or in a list, where an annotation lists what is valid."""
    choices = [choice for choice in literals(wanted) if isinstance(choice, str)]
    items = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return next((nearest(item, choices) for item in items if isinstance(item, str) and item not in choices), "")


def accepted_arguments(component: Callable) -> dict[str, inspect.Parameter]:
    """The arguments that a component takes by name, with those that `**options` passes on, see `OptionsOf`.

    Their annotations are evaluated.
    """
    accepted: dict[str, inspect.Parameter] = {}
    for name, parameter in parameters_of(component).items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            accepted[name] = parameter
        elif parameter.kind is parameter.VAR_KEYWORD:
            for mark in option_marks(parameter.annotation):
                accepted = {**_options_of(mark), **accepted}
    return accepted


def check_options(values: Mapping[str, Any], mark: OptionsOf, path: str) -> None:
    """Check a dict of arguments of another constructor.

    Raises:
        ConfigError: an unknown or a wrong one.
    """
    known = _options_of(mark)
    open_end = any(p.kind is p.VAR_KEYWORD for p in parameters_of(mark.target).values())
    for key, value in values.items():
        if open_end and key not in known:
            continue
        if key not in known:
            raise ConfigError(f"{path}: unknown option {key!r}{suggest(str(key), known)}")
        _check_argument(value, known[key], f"{path}.{key}")


def suggest(name: str, valid: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest valid name, if one is near, and all valid names."""
    valid = sorted(valid)
    return (nearest(name, valid) or ".") + f" Valid: {', '.join(valid) or 'none'}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """ ", did you mean 'NAME'?" with the nearest valid name; "" where none is near."""
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _with_paths(values: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """`values`, in which paths of digits alone, which `--set image_folder=2024` gives as numbers, are texts."""
    return {
        key: str(value) if type(value) is int and key in known and wants_path(known[key].annotation) else value
        for key, value in values.items()
    }


def _misplaced(error: AttributeError, name: str, path: str, arguments: Mapping[str, Any]) -> Exception:
    """A line on an argument that is an object of another kind than the component needs; else the error itself."""
    keys = [key for key, value in arguments.items() if value is error.obj]
    if not keys:
        return error
    return ConfigError(f"{path} ({name}): a {type(error.obj).__name__} cannot be its {keys[0]}: it has no {error.name}")


def _add(name: str, component: Callable) -> Callable:
    _claim(name, f"{component.__qualname__} in {getattr(sys.modules.get(component.__module__), '__file__', None)}")
    _components[name] = component
    return component


def _claim(name: str, origin: str) -> None:
    if _origins.setdefault(name, origin) != origin:
        raise ValueError(f"{name!r} is registered twice: {_origins[name]} and {origin}")


def _check_names(name: str, component: Callable, given: set[str], added: set[str], path: str) -> None:
    """Check that a component has all arguments that are `given` in the config and `added` by the program."""
    known, parameters = accepted_arguments(component), inspect.signature(component).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters) or known.keys() - {p.name for p in parameters}:
        for key in sorted(given - known.keys(), key=lambda key: (not nearest(key, ["type"]), key)):
            valid = {*known, *(["type"] if nearest(key, ["type"]) else [])} - added
            raise ConfigError(f"{path}: unknown argument {key!r} of {name}{suggest(key, valid)}")
        if unfit := sorted(added - known.keys()):
            raise ConfigError(f"{path}: {name} cannot stand here, it has no argument {', '.join(map(repr, unfit))}")
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    missing = [p.name for p in named if p.default is p.empty and p.name not in given | added]
    if missing:
        raise ConfigError(f"{path}: missing argument {', '.join(map(repr, missing))} of {name}")


def _options_of(mark: OptionsOf) -> dict[str, inspect.Parameter]:
    known = accepted_arguments(mark.target)
    return {name: p for name, p in known.items() if p.default is not p.empty and name not in mark.without}


def _check_argument(value: Any, parameter: inspect.Parameter, path: str) -> None:
    if value is not parameter.default:
        check_value(value, parameter.annotation, path)


def _nearest_argument(component: Callable, error: Exception) -> str:
    """For an unknown argument that `component` passes on to the constructor of a base class: the nearest valid one."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None or not inspect.isclass(component):
        return ""
    constructors = [vars(base)["__init__"] for base in component.__mro__[:-1] if "__init__" in vars(base)]
    return nearest(unknown[1], {name for init in constructors for name in inspect.signature(init).parameters})


def _makes(config: Mapping[str, Any]) -> type | None:
    """The class of what a component dict makes; None where that is not known without calling or importing it."""
    component = _components.get(config["type"]) if isinstance(config["type"], str) else None
    if component is None or inspect.isclass(component):
        return component
    made = evaluated(getattr(component, "__annotations__", {}).get("return", Any), component.__globals__)
    return made if inspect.isclass(made) else None


def _is_handed_over(parameter: inspect.Parameter | None) -> bool:
    if parameter is None or get_origin(parameter.annotation) is not Annotated:
        return False
    return any(isinstance(mark, AsIs) for mark in parameter.annotation.__metadata__)


def _build_value(value: Any, path: str) -> Any:
    if isinstance(value, dict) and "type" in value:
        return build(value, path)
    if isinstance(value, dict):
        return {key: _build_value(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_build_value(item, f"{path}.{i}") for i, item in enumerate(value))
    return value
