"""Whether a value of a config is what an annotation asks for, and the words for what it asks for.

It is strict: a bool is no number, "3" is no number, "no" is no bool, NaN and infinity are no numbers. An int may stand
for a float, a list for a tuple, a text for a path. What an annotation does not say is not checked.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import math
import os
import re
import types
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt, MinLen

from detkit.registry.ranges import ComponentDict, OneOf, OptionsOf, Pattern

# What a dict with a "type" makes: a class, or None where that is not known.
Makes = Callable[[Mapping[str, Any]], "type | None"]

_WORDS: dict[Any, str] = {
    **dict.fromkeys((None, types.NoneType), "None"),
    **dict.fromkeys((list, tuple, set), "a list"),
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def fits(value: Any, wanted: Any, makes: Makes) -> bool:
    """Whether `value` is what the annotation `wanted` asks for; the options in dicts are not looked at.

    Args:
        makes: what a dict with a "type" in the place of an object will be.
    """
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return fits(value, arguments[0], makes) and all(_in_range(value, rule) for rule in wanted.__metadata__)
    if origin in (Union, types.UnionType):
        return any(fits(value, option, makes) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if wanted is None or wanted is types.NoneType:
        return value is None
    plain = origin or wanted
    if plain is Any or not inspect.isclass(plain) or plain is object or issubclass(plain, enum.Enum):
        return True
    if issubclass(plain, (int, float, str, os.PathLike)):
        return _fits_scalar(value, plain)
    if issubclass(plain, collections.abc.Mapping):
        return isinstance(value, Mapping)
    if issubclass(plain, (collections.abc.Iterable,)) and plain.__module__ in ("builtins", "collections.abc"):
        return _fits_items(value, plain, arguments, makes)
    return _fits_class(value, plain, makes)


def describe(wanted: Any) -> str:
    """What the annotation `wanted` asks for, in words: "a whole number from 1 to 256 or None"."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _describe_range(arguments[0], wanted.__metadata__)
    if origin in (Union, types.UnionType):
        options = dict.fromkeys(describe(option) for option in arguments)
        if "a path" in options:
            options.pop("a text", None)
        return ", or ".join(options)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    plain = origin or wanted
    if plain is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} items: {', '.join(map(describe, arguments))}"
    if inspect.isclass(plain) and issubclass(plain, collections.abc.Iterable) and arguments and not _is_mapping(plain):
        return f"a list, each item {describe(arguments[0])}"
    words: dict[Any, str] = {
        None: "None",
        types.NoneType: "None",
        bool: "True or False",
        int: "a whole number",
        float: "a number",
    }
    words |= {str: "a text", list: "a list", tuple: "a list", set: "a list"}
    if plain in words:
        return words[plain]
    if _is_mapping(plain):
        return "a dict"
    if inspect.isclass(plain) and issubclass(plain, os.PathLike):
        return "a path"
    return f"a component, dict(type=...), that is a {getattr(plain, '__name__', plain)}"


def described(wanted: Any) -> str:
    """`describe` for tables; "" where anything goes."""
    return "" if wanted in (None, Any) else describe(wanted)


def shown(value: Any) -> str:
    """A value for a message: on one line, not too long."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def wants_path(wanted: Any) -> bool:
    """Whether an annotation asks for a path, perhaps among others."""
    if inspect.isclass(wanted):
        return issubclass(wanted, os.PathLike)
    if get_origin(wanted) in (Annotated, Union, types.UnionType):
        return any(map(wants_path, get_args(wanted)))
    return False


def option_marks(wanted: Any) -> list[OptionsOf]:
    """The `OptionsOf` in an annotation, also inside of a union."""
    if get_origin(wanted) is Annotated:
        return [mark for mark in wanted.__metadata__ if isinstance(mark, OptionsOf)]
    inside = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else ()
    return [mark for option in inside for mark in option_marks(option)]


def literals(wanted: Any) -> list[Any]:
    """The values of all `Literal` and `OneOf` in an annotation."""
    if get_origin(wanted) is Literal:
        return list(get_args(wanted))
    if get_origin(wanted) is Annotated and isinstance(wanted.__metadata__[0], OneOf):
        return list(wanted.__metadata__[0].values)
    return [value for option in get_args(wanted) for value in literals(option)]


def parameters_of(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a constructor or function with evaluated annotations; `Any` where that is not possible."""
    function = component.__init__ if inspect.isclass(component) else component
    names = getattr(inspect.unwrap(function), "__globals__", {})
    parameters = inspect.signature(component).parameters
    return {name: p.replace(annotation=evaluated(p.annotation, names)) for name, p in parameters.items()}


def evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation that may be a text, by the global `names` of its module."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except Exception:  # imported for type checkers alone, or the name of something local
        return Any


def _is_mapping(plain: Any) -> bool:
    return inspect.isclass(plain) and issubclass(plain, collections.abc.Mapping)


def _fits_scalar(value: Any, plain: type) -> bool:
    if issubclass(plain, bool):
        return isinstance(value, bool)
    if issubclass(plain, int):
        return isinstance(value, Integral) and not isinstance(value, bool)
    if issubclass(plain, float):
        return isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    if issubclass(plain, str):
        return isinstance(value, str)
    return isinstance(value, (str, os.PathLike))


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _fits_items(value: Any, plain: type, arguments: tuple[Any, ...], makes: Makes) -> bool:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, collections.abc.Iterable):
        return False
    if not isinstance(value, collections.abc.Sequence):  # a set, a generator: nothing that a config holds
        return isinstance(value, plain)
    if plain is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(lambda v, a: fits(v, a, makes), value, arguments))
    return all(fits(item, arguments[0], makes) for item in value) if arguments else True


def _fits_class(value: Any, plain: type, makes: Makes) -> bool:
    if isinstance(value, Mapping) and "type" in value:
        made = makes(value)
        return made is None or getattr(plain, "_is_protocol", False) or issubclass(made, plain)
    try:
        return isinstance(value, plain)
    except TypeError:  # a protocol that cannot be asked
        return True


def _in_range(value: Any, rule: Any) -> bool:
    if isinstance(rule, Ge):
        return value >= rule.ge
    if isinstance(rule, Gt):
        return value > rule.gt
    if isinstance(rule, Le):
        return value <= rule.le
    if isinstance(rule, Lt):
        return value < rule.lt
    if isinstance(rule, (MinLen, Len)):
        return rule.min_length <= len(value) <= (getattr(rule, "max_length", None) or math.inf)
    if isinstance(rule, OneOf):
        return value in rule.values
    if isinstance(rule, Pattern):
        return re.fullmatch(rule.expression, value) is not None
    return not isinstance(rule, ComponentDict) or isinstance(value.get("type"), str)


def _describe_range(plain: Any, rules: tuple[Any, ...]) -> str:
    words = describe(plain)
    for rule in rules:
        if isinstance(rule, ComponentDict):
            words = 'a component, that is a dict with a registered name as "type"'
        elif isinstance(rule, OneOf):
            words = "one of " + ", ".join(map(repr, rule.values))
        elif isinstance(rule, Pattern):
            words = rule.words
        elif isinstance(rule, MinLen):
            words = f"{words[:6]} that is not empty{words[6:]}"  # "a list" or "a text"
        elif isinstance(rule, Len):
            words = words.replace("a list", f"a list of {rule.min_length}", 1)
    return f"{words} {_bounds({type(rule): rule for rule in rules})}".rstrip()


def _bounds(rules: dict[type, Any]) -> str:
    if Ge in rules and Le in rules:
        return f"from {rules[Ge].ge:,} to {rules[Le].le:,}"
    words = {Ge: "of at least", Gt: "above", Le: "at most", Lt: "below"}
    return " and ".join(
        f"{word} {getattr(rules[kind], kind.__name__.lower()):,}" for kind, word in words.items() if kind in rules
    )
